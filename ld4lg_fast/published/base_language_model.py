"""Loads the pretrained language model of a published checkpoint and fills in the checkpoint's weights."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.models.parameter_names import check_numbers, some


def load_by_name(name: str, max_len: int, frozen: bool = True) -> LanguageAutoencoder:
    """A pretrained language model without a Perceiver.

    Raises:
        CheckpointError: the model is neither a local folder nor on the hub.
    """
    try:
        return LanguageAutoencoder.from_pretrained_lm(name, None, max_len, freeze_lm=frozen)
    except CheckpointError as error:
        raise CheckpointError(
            f"The checkpoint builds on the language model {name!r}, which is neither a local folder nor "
            "reachable on the hub; give --language-model FOLDER with a downloaded copy of it."
        ) from error


def fill(lm: PreTrainedModel, state: Mapping[str, Tensor]) -> None:
    """Loads the checkpoint's weights into a language model; one of tied weights suffices.

    Raises:
        CheckpointError: names or shapes differ.
    """
    own = lm.state_dict()
    same_memory = defaultdict(list)
    for name, tensor in own.items():
        same_memory[tensor.data_ptr(), tensor.shape].append(name)
    remedy = "give the language model that it was trained with as --language-model"
    missing = [names[0] for names in same_memory.values() if not any(name in state for name in names)]
    if missing:
        raise CheckpointError(
            f"The checkpoint lacks these tensors of its language model: {some(missing)}; {remedy}."
        )
    if unknown := state.keys() - own.keys():
        raise CheckpointError(
            f"The language model has no place for these tensors: {some(unknown)}; {remedy}."
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{name} has the shape {tuple(tensor.shape)} but the language model's has "
                f"{tuple(own[name].shape)}; {remedy}."
            )
        check_numbers(name, tensor, own[name])
    lm.load_state_dict(dict(state), strict=False)


def check_same_encoder(lm: PreTrainedModel, state: Mapping[str, Tensor]) -> None:
    """Checks that a checkpoint's source encoder equals the language model's encoder, as this library has only one.

    Raises:
        CheckpointError: names tensors that differ.
    """
    own = lm.get_encoder().state_dict()
    differ = own.keys() ^ state.keys()
    for name in own.keys() & state.keys():
        theirs = state[name]
        ours = own[name].to(theirs.dtype)  # T5 encodes sources in bfloat16 there
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-6):
            differ.add(name)
    if differ:
        raise CheckpointError(
            "The source texts were encoded by another language model than the autoencoder's (its "
            f"context_encoder differs in {some(differ)}); this library has one for both and cannot import it."
        )
