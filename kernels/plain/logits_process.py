import torch
from torch import Tensor
from torch.nn import functional as F


def logits_process(
    logits: Tensor,
    ids: Tensor,
    length: Tensor,
    eos: Tensor,
    forced: Tensor,
    min_length: int = 0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    normalize: bool = False,
) -> Tensor:
    """See `ops.logits_process`. Computes in float32, or in float64 for float64 logits."""
    scores = logits if logits.dtype == torch.float64 else logits.float()
    if normalize:
        scores = F.log_softmax(scores, dim=-1)
    vocabulary, tokens = scores.shape[1], ids.shape[1]
    # One spare column takes what is to change nothing.
    seen = torch.where(torch.arange(tokens, device=ids.device) < length, ids, vocabulary)
    scores = F.pad(scores, (0, 1))
    if repetition_penalty != 1.0:
        old = scores.gather(1, seen)
        new = torch.where(old < 0, old * repetition_penalty, old / repetition_penalty)
        scores = scores.scatter(1, seen, new)
    size = no_repeat_ngram_size
    if 0 < size <= tokens:
        windows = ids.unfold(1, size, 1)
        suffix = (length - size + 1 + torch.arange(size - 1, device=ids.device)).clamp(min=0)
        repeats = (windows[..., :-1] == ids.index_select(1, suffix)[:, None]).all(-1)
        repeats &= torch.arange(windows.shape[1], device=ids.device) + size <= length
        scores = scores.scatter(1, torch.where(repeats, windows[..., -1], vocabulary), float("-inf"))
    scores = scores[:, :-1]
    columns = torch.arange(vocabulary, device=ids.device)
    too_short = (columns[:, None] == eos).any(1) & (length < min_length)
    scores = scores.masked_fill(too_short, float("-inf"))
    token = forced.index_select(0, length)
    only = torch.where(columns == token, 0.0, float("-inf")).to(scores)
    return torch.where(token >= 0, only, scores)
