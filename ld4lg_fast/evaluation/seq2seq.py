"""How near texts are to the references of their sources: ROUGE, a mean over pairs, and corpus BLEU."""

from collections.abc import Sequence

from ld4lg_fast.evaluation.unavailable import require

ROUGE = ("rouge1", "rouge2", "rougeL")
STEMMED_ROUGE = tuple(f"{name}_stemmed" for name in ROUGE)


def rouge(predictions: Sequence[str], references: Sequence[str], stem: bool = False) -> dict[str, float]:
    """Mean F1 of ROUGE-1, -2 and -L (Lin 2004) by `rouge-score`, 0 to 1; ``stem``: over Porter's stems."""
    scorer = require("rouge_score.rouge_scorer", "rouge-score").RougeScorer(list(ROUGE), use_stemmer=stem)
    pairs = [scorer.score(reference, text) for text, reference in zip(predictions, references, strict=True)]
    means = [sum(pair[name].fmeasure for pair in pairs) / len(pairs) for name in ROUGE]
    return dict(zip(STEMMED_ROUGE if stem else ROUGE, means, strict=True))


def sacrebleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU of sacrebleu with its standard 13a tokens, between 0 and 100."""
    from sacrebleu import corpus_bleu

    return corpus_bleu(list(predictions), [list(references)]).score
