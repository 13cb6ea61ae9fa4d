"""Source texts of sequence-to-sequence models: read from files, and encoded by the frozen language model.

Letters: B batch, M context length, W language model width.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import collate, tokenize_texts
from ld4lg_fast.data.formats import as_data_errors
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime import text_files
from ld4lg_fast.export.runtime.text_display import get_logger
from ld4lg_fast.models.language_models import one_by_one

logger = get_logger(__name__)


def check_source_length(autoencoder: LanguageAutoencoder, model: LatentDiffusion) -> None:
    """Refuses a denoiser whose source length exceeds the language model's, or leaves no room for a word.

    Raises:
        CheckpointError: it names the key of the denoiser's file.
    """
    if not model.is_seq2seq:
        return
    least = autoencoder.tokenizer.num_special_tokens_to_add() + 1
    most = autoencoder.language_model.most_tokens(0)
    length = model.source_max_len
    if length < least or (most is not None and length > most):
        raise CheckpointError(
            f"denoiser/config.json says recipe.source_max_len {length}, but the language model of the autoencoder "
            f"reads sources of {least} {'tokens or more' if most is None else f'to {most} tokens'}; they belong to "
            "different runs."
        )


@torch.no_grad()
def source_states(
    autoencoder: LanguageAutoencoder, ids: Sequence[list[int]], max_len: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids of B sources, each at most ``max_len`` -> encoder states (B, M, W) and their mask (B, M)."""
    padded = collate(ids, autoencoder.tokenizer.pad_token_id, max_len=max_len)
    input_ids, mask = (tensor.to(device) for tensor in padded)
    encode = autoencoder.language_model.encode
    return (one_by_one(encode) if autoencoder.deterministic else encode)(input_ids, mask), mask


def encode_sources(
    autoencoder: LanguageAutoencoder, texts: Sequence[str], max_len: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`source_states` of texts, cut to ``max_len`` tokens; equal texts are encoded once."""
    distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    tokens = tokenize_texts(list(distinct), autoencoder.tokenizer, max_len)
    states, mask = source_states(autoencoder, [tokens[i] for i in range(len(tokens))], max_len, device)
    rows = torch.tensor([distinct[text] for text in texts], device=device)
    return states[rows], mask[rows]


def read_sources(path: Path, kind: str = "source") -> list[str]:
    """The texts of a .txt (one a line), .jsonl, .json, .csv or .tsv file; logs how many blank ones are left out.

    Args:
        kind: ``source`` or ``prompt``; see `text_files.read_sources` for the names of a table's column.

    Raises:
        DataError: the file cannot be read, or has no such column or no text.
    """
    with as_data_errors():
        texts, account = text_files.read_sources(path, kind)
    if account:
        logger.warning("%ss are read from %s", kind.capitalize(), account)
    return texts
