"""Similarity of texts to the references of their sources: mean ROUGE and corpus BLEU.

Both packages tokenize English only; in other scripts the words of `similarity` are used.
"""

from collections.abc import Sequence

from ld4lg_fast.evaluation.unavailable import Unavailable, require
from ld4lg_fast.export.runtime.similarity import set_apart, words

ROUGE = ("rouge1", "rouge2", "rougeL")
STEMMED_ROUGE = tuple(f"{name}_stemmed" for name in ROUGE)


class _Words:
    """Tokenizer for `rouge-score`: its own tokens for ASCII words, the words of `similarity` for others."""

    def __init__(self, stem: bool) -> None:
        tokenizers = require("rouge_score.tokenizers", "rouge-score")
        self.published = tokenizers.DefaultTokenizer(use_stemmer=stem).tokenize

    def tokenize(self, text: str) -> list[str]:
        parts = [self.published(word) if word.isascii() else [word] for word in words(text)]
        return [token for part in parts for token in part]


def rouge(predictions: Sequence[str], references: Sequence[str], stem: bool = False) -> dict[str, float]:
    """Mean F1 of ROUGE-1, -2 and -L (Lin 2004) by `rouge-score`, 0 to 1; ``stem``: with Porter stemming.

    Raises:
        Unavailable: the package is missing, or Porter's stemmer does not know the script of most words.
    """
    scorer = require("rouge_score.rouge_scorer", "rouge-score")
    tokenizer = _Words(stem)
    if stem:
        _check_stemmer([*predictions, *references])
    scorer = scorer.RougeScorer(list(ROUGE), tokenizer=tokenizer)
    pairs = [scorer.score(reference, text) for text, reference in zip(predictions, references, strict=True)]
    means = [sum(pair[name].fmeasure for pair in pairs) / len(pairs) for name in ROUGE]
    return dict(zip(STEMMED_ROUGE if stem else ROUGE, means, strict=True))


def _check_stemmer(texts: Sequence[str]) -> None:
    foreign = [not word.isascii() for text in texts for word in words(text)]
    if 2 * sum(foreign) > len(foreign):
        raise Unavailable(
            f"Porter's stemmer knows English words alone, and {sum(foreign) / len(foreign):.0%} of these are in other "
            "letters; the ROUGE that is not stemmed counts them"
        )


def sacrebleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU of sacrebleu with 13a tokenization, from 0 to 100; in scripts without spaces every character is a
    token, as in its zh tokenization."""
    from sacrebleu import corpus_bleu

    return corpus_bleu(
        [set_apart(text) for text in predictions], [[set_apart(text) for text in references]]
    ).score
