"""BERTScore (Zhang et al. 2020) through transformers. Letters: P pairs, S tokens of a text, W width.

The same numbers as the `bert-score` package without idf weights and without rescaling.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GPT2Tokenizer, RobertaTokenizer

from ld4lg_fast.data import collate
from ld4lg_fast.evaluation.models import ScoringModel
from ld4lg_fast.evaluation.unavailable import Unavailable, check_known

# The authors' choice of layers, by correlation with human judgements.
PUBLISHED_LAYERS = {
    "microsoft/deberta-xlarge-mnli": 40,
    "microsoft/deberta-large-mnli": 18,
    "microsoft/deberta-base-mnli": 9,
    "roberta-large": 17,
    "roberta-base": 10,
    "bert-base-uncased": 9,
    "bert-base-multilingual-cased": 9,
}


def published_layer(model: str) -> int:
    """The published hidden layer of a model; raises `Unavailable` if there is none."""
    if model not in PUBLISHED_LAYERS:
        raise Unavailable(
            f"which hidden layer of {model} BERTScore takes is not known: give evaluation.bertscore_layer=N"
        )
    return PUBLISHED_LAYERS[model]


def bert_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    scorer: ScoringModel,
    layer: int,
    batch_size: int = 32,
) -> Tensor:
    """(P, 3) float32: precision, recall and F1 of each pair; 0 where a text is empty.

    Each token is matched with the most similar one of the other text; matches of special tokens are ignored.

    Raises:
        Unavailable: the model has no such layer, or as `check_known`.
    """
    depth = scorer.model.config.num_hidden_layers
    if layer > depth:
        raise Unavailable(f"bertscore_layer {layer} is more than the {depth} layers of the model")
    our_ids, their_ids = _tokenize(predictions, scorer), _tokenize(references, scorer)
    check_known([*our_ids, *their_ids], scorer.tokenizer)
    scores = []
    for start in range(0, len(predictions), batch_size):
        rows = slice(start, start + batch_size)
        ours, our_real, our_words = _embed(our_ids[rows], scorer, layer)
        theirs, their_real, their_words = _embed(their_ids[rows], scorer, layer)
        similarity = ours @ theirs.transpose(1, 2)
        similarity = similarity.masked_fill(~(our_real[:, :, None] & their_real[:, None, :]), 0)
        precision = _mean(similarity.amax(dim=2), our_words)
        recall = _mean(similarity.amax(dim=1), their_words)
        f1 = 2 * precision * recall / (precision + recall)
        empty = ~(our_words.any(dim=1) & their_words.any(dim=1))
        scores.append(torch.stack([precision, recall, f1], dim=1).masked_fill(empty[:, None], 0).cpu())
    return torch.cat(scores)


def _tokenize(texts: Sequence[str], scorer: ScoringModel) -> list[list[int]]:
    tokenizer = scorer.tokenizer
    # These tokenizers distinguish a word at the start of a text from one after a space.
    space = " " if isinstance(tokenizer, GPT2Tokenizer | RobertaTokenizer) else ""
    limit = min(tokenizer.model_max_length, scorer.max_positions)
    return [tokenizer(space + text.strip(), truncation=True, max_length=limit)["input_ids"] for text in texts]


def _embed(ids: Sequence[list[int]], scorer: ScoringModel, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors (P, S, W) of tokens, a mask (P, S) of unpadded tokens, and one without special tokens."""
    tokenizer = scorer.tokenizer
    pad = tokenizer.pad_token_id or 0
    input_ids, real = (tensor.to(scorer.device) for tensor in collate(ids, pad_id=pad, multiple_of=1))
    with torch.inference_mode():
        output = scorer.model(input_ids, attention_mask=real.long(), output_hidden_states=True)
    vectors = torch.nn.functional.normalize(output.hidden_states[layer], dim=-1)
    marks = [mark for mark in (tokenizer.cls_token_id, tokenizer.sep_token_id) if mark is not None]
    return vectors, real, real & ~torch.isin(input_ids, torch.tensor(marks, device=input_ids.device))


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum(dim=1) / chosen.sum(dim=1)
