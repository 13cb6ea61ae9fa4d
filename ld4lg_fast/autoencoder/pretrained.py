"""Pretrained language models from a folder, the hub, or its cache if the hub is unreachable."""

from pathlib import Path

from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from ld4lg_fast.checkpoints.hub import repository_status
from ld4lg_fast.checkpoints.language_model import load_pretrained
from ld4lg_fast.checkpoints.tokenizer import first_line
from ld4lg_fast.errors import CheckpointError


def hub_answers(name_or_path: str) -> bool:
    """Whether the hub can be asked for this model; False for a local folder."""
    return not Path(name_or_path).is_dir() and repository_status(name_or_path) != "unreachable"


def fetched(name_or_path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model and its tokenizer by hub name or local folder.

    Raises:
        CheckpointError: they are neither local nor can be downloaded, or are no encoder-decoder model.
    """
    local = not hub_answers(name_or_path)
    try:
        return load_pretrained(AutoModelForSeq2SeqLM, name_or_path, local_files_only=local)
    except OSError as error:
        raise CheckpointError(
            f"The language model {name_or_path!r} is neither a local folder with an encoder-decoder model nor "
            "reachable on the hub; give autoencoder.name_or_path=FOLDER with a downloaded copy, or use "
            "autoencoder=scratch, which needs no download."
        ) from error
    except BaseException as error:  # damaged files are met as errors of many kinds, panics of Rust among them
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise CheckpointError(
            f"The language model {name_or_path!r} is damaged, or no encoder-decoder model ({first_line(error)}); "
            "give another one with autoencoder.name_or_path=FOLDER."
        ) from error
