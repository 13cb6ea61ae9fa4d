"""What cannot be computed here is left out with a sentence, never replaced by a guess."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from transformers import PreTrainedTokenizerBase


class Unavailable(Exception):
    """A metric cannot be computed here; the message says in one sentence why, and what to do."""


class ModelUnavailable(Unavailable):
    """A model cannot be had; the message ends with what to give instead, and `of_option` says how."""

    def of_option(self, name: str) -> str:
        """The message with the option that names the model."""
        return f"{self}, with {name}=..."


def check_known(ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses texts that a model cannot see, as an English one does not those of another script.

    Raises:
        ModelUnavailable: most of the token ``ids`` are the one that the tokenizer has for what it does not know.
    """
    unknown = tokenizer.unk_token_id
    # A tokenizer of bytes knows everything; its unknown token is one that ends texts.
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
        Unavailable: it is not installed; ``package`` is what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Unavailable(
            f"the package {package} is not installed: pip install 'ld4lg-fast[eval]'"
        ) from error
