"""Measures continuations of prompts: held-out documents are cut in two, the first part is the prompt.

Letters: B texts, T tokens.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.data import TextDataset
from ld4lg_fast.errors import DataError
from ld4lg_fast.evaluation import seq2seq
from ld4lg_fast.evaluation.cache import ArrayCache
from ld4lg_fast.evaluation.features import over_batches
from ld4lg_fast.evaluation.metrics import evaluate_texts
from ld4lg_fast.evaluation.models import ScoringModel, ScoringModels
from ld4lg_fast.evaluation.ngrams import TrainingNgrams
from ld4lg_fast.evaluation.options import EvaluationSettings
from ld4lg_fast.evaluation.references import References
from ld4lg_fast.evaluation.unavailable import ModelUnavailable, Unavailable, check_known
from ld4lg_fast.export.runtime.documents import DocumentWriter, sentences

MAX_NEW_TOKENS = 256


def prompt_and_rest(document: str, writer: DocumentWriter) -> tuple[str, str]:
    """The first sentences of a document, at least one and up to half a block, and all that follows."""
    parts = sentences(document)
    kept, size = 1, writer.count(parts[:1])[0]
    while kept < len(parts) - 1 and size + (more := writer.count([parts[kept]])[0]) <= writer.room // 2:
        kept, size = kept + 1, size + more
    return "".join(parts[:kept]), "".join(parts[kept:])


def shortened(text: str, writer: DocumentWriter, max_tokens: int) -> str:
    """The first ``max_tokens`` tokens of a text."""
    ids = writer.encode([text])[0]
    return text if len(ids) <= max_tokens else writer.decode(ids[:max_tokens])


def choose_continuations(
    dataset: TextDataset, split: str, num_samples: int, writer: DocumentWriter, max_new_tokens: int
) -> References:
    """The first documents of a held-out split that have more than one sentence: prompts as ``sources``, and what
    follows, up to ``max_new_tokens``, as ``texts``.

    Raises:
        DataError: fewer such documents than samples.
    """
    prompts, rests = [], []
    for document in getattr(dataset, split).texts:
        prompt, rest = prompt_and_rest(document, writer)
        if rest.strip():
            prompts.append(prompt)
            rests.append(shortened(rest, writer, max_new_tokens))
        if len(prompts) == num_samples:
            return References(split, rests, None, prompts)
    raise DataError(
        f"dataset={dataset.name} has {len(prompts)} {split} documents of more than one sentence, too few to measure "
        f"{num_samples} continuations against; ask for at most generation.num_samples={len(prompts)}."
    )


def evaluate_continuations(
    texts: Sequence[str],
    references: Sequence[str],
    training: Sequence[str] | TrainingNgrams | None = None,
    *,
    prompts: Sequence[str],
    settings: EvaluationSettings | None = None,
    models: ScoringModels | None = None,
    cache: ArrayCache | None = None,
) -> dict:
    """`evaluate_texts` of continuations, and metrics that look at their prompts.

    ``rougeL`` of each text with what really follows; ``perplexity_given_prompt``, of the text's tokens after those of
    its prompt; ``repeated_4grams``, the share of word 4-grams that the same text has had before.
    """
    settings, models = settings or EvaluationSettings(), models or ScoringModels()
    found = evaluate_texts(texts, references, training, settings=settings, models=models, cache=cache)
    found["metrics"]["repeated_4grams"] = repetition(texts)
    found["metrics"]["rougeL"] = seq2seq.rouge(texts, references[: len(texts)])["rougeL"]
    if settings.perplexity_model is not None:
        try:
            scorer = models.language_model(settings.perplexity_model)
            values = perplexities_given_prompt(prompts, texts, scorer, settings.batch_size)
            found["metrics"]["perplexity_given_prompt"] = float(values.mean(dtype=np.float64))
        except ModelUnavailable as reason:
            found["skipped"]["perplexity_given_prompt"] = reason.of_option("evaluation.perplexity_model")
        except Unavailable as reason:
            found["skipped"]["perplexity_given_prompt"] = str(reason)
    return found


def perplexities_given_prompt(
    prompts: Sequence[str], texts: Sequence[str], scorer: ScoringModel, batch_size: int = 32
) -> np.ndarray:
    """(B,) float32: exp of each text's mean negative log-likelihood per token, after its prompt; empty texts are left
    out.

    Raises:
        Unavailable: the tokenizer has no start token, or as `check_known`.
    """
    tokenizer = scorer.tokenizer
    if tokenizer.bos_token_id is None:
        raise Unavailable(f"the tokenizer of {tokenizer.name_or_path} has no start token")
    wholes, befores, counts = [], [], []
    for prompt, text in zip(prompts, texts, strict=True):
        before, ids = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, text))
        ids = ids[: scorer.max_positions - 1]
        if not ids:
            continue
        before = [
            tokenizer.bos_token_id,
            *before[max(0, len(before) + len(ids) + 1 - scorer.max_positions) :],
        ]
        wholes.append([*before, *ids])
        befores.append(before)
        counts.append(len(ids))
    if not counts:
        raise Unavailable("all texts are empty")
    check_known(wholes, tokenizer)

    def likelihoods(input_ids: Tensor, mask: Tensor) -> Tensor:
        logits = scorer.model(input_ids, attention_mask=mask.long(), use_cache=False).logits[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")
        return (losses * mask[:, 1:]).sum(dim=1)

    # The model is causal: what the whole has more than the prompt is the text's.
    of_whole, of_prompt = (
        over_batches(rows, batch_size, scorer.device, likelihoods) for rows in (wholes, befores)
    )
    return np.exp((of_whole - of_prompt) / np.array(counts, dtype=np.float32))


def repetition(texts: Sequence[str], size: int = 4) -> float:
    """Share of the word ``size``-grams of each text that the same text has had before, over all texts."""
    repeated = total = 0
    for text in texts:
        words = text.split()
        grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
        repeated += len(grams) - len(set(grams))
        total += len(grams)
    return repeated / total if total else 0.0
