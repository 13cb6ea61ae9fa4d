"""Errors and checks for metrics that cannot be computed, which are then omitted with a reason."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from transformers import PreTrainedTokenizerBase


class Unavailable(Exception):
    """A metric cannot be computed; the message gives reason and remedy in one sentence."""


class ModelUnavailable(Unavailable):
    """A model cannot be loaded; `of_option` adds the option to change to the message."""

    def of_option(self, name: str) -> str:
        """The message with the option that names the model."""
        return f"{self}, with {name}=..."


def check_known(ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that a tokenizer knows the texts, unlike an English one another script.

    Raises:
        ModelUnavailable: most of the token ``ids`` are the unknown token.
    """
    unknown = tokenizer.unk_token_id
    # Byte-level tokenizers know everything; their unknown token is the one that ends texts.
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return
    special = set(tokenizer.all_special_ids) - {unknown}
    tokens = [token for row in ids for token in row if token not in special]
    share = tokens.count(unknown) / max(1, len(tokens))
    if share > 0.5:
        raise ModelUnavailable(
            f"the tokenizer of {tokenizer.name_or_path} does not know {share:.0%} of the tokens of these texts: name a "
            "model of their language"
        )


def require(module: str, package: str) -> ModuleType:
    """Imports an optional module.

    Raises:
        Unavailable: ``package`` is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Unavailable(
            f"the package {package} is not installed: pip install 'ld4lg-fast[eval]'"
        ) from error
