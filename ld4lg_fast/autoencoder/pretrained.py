"""Pretrained language models from a folder, a GGUF file, the hub, or its cache if the hub is unreachable."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    ByT5Tokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.utils import cached_file

from ld4lg_fast.checkpoints.files import MAX_JSON_BYTES, read_text
from ld4lg_fast.checkpoints.hub import repository_status
from ld4lg_fast.checkpoints.language_model import BUILDING, load_pretrained
from ld4lg_fast.checkpoints.tensors import digest_of
from ld4lg_fast.checkpoints.tokenizer import MissingTokenizer, first_line
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.export.runtime.option_checks import shown

# Auto classes by the names under which a config lists classes of Python code beside the model.
CODE_CLASSES: dict[str, Any] = {
    "AutoModelForSeq2SeqLM": AutoModelForSeq2SeqLM,
    "AutoModelForCausalLM": AutoModelForCausalLM,
}
END = "<|end_of_text|>"  # of models whose tokenizer has no end


@dataclass(frozen=True)
class Origin:
    """Where a pretrained language model came from: a hub name, or the name of a folder or a file.

    ``sha256``: of its weights, if run directories do not store it; a local model then has its whole path.
    """

    name_or_path: str
    license: str | None = None
    sha256: str | None = None

    def with_weights(self, lm: PreTrainedModel, name_or_path: str) -> "Origin":
        """The origin of a model that is not stored, opened as ``name_or_path``."""
        path = Path(name_or_path).expanduser()
        name = str(path.resolve()) if path.exists() else name_or_path
        return replace(self, name_or_path=name, sha256=digest_of(lm))


@dataclass(frozen=True)
class Pretrained:
    """A language model with its tokenizer, which encodes texts with an end, and its origin.

    ``lacks_end``: the model has no token that ends texts; the tokenizer got one, whose weights are untrained.
    ``runs_code``: its classes are Python code beside the model, which no run directory holds.
    """

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    origin: Origin
    lacks_end: bool = False
    runs_code: bool = False


class NeedsCodeError(ValueError):
    """A model needs Python code of its own, and nobody asked for it to be run."""


def hub_answers(name_or_path: str) -> bool:
    """Whether the hub can be asked for this model; False for a local folder."""
    return not Path(name_or_path).is_dir() and repository_status(name_or_path) != "unreachable"


def fetched(name_or_path: str, trust_remote_code: bool = False) -> Pretrained:
    """A language model and its tokenizer by hub name, local folder or GGUF file.

    Args:
        trust_remote_code: whether Python code beside the model is executed, if it needs that.

    Raises:
        CheckpointError: they are neither local nor can be downloaded, are damaged, or are no language model that writes
            text; or they need Python code of their own that is not trusted.
        ConfigError: a GGUF file without the package gguf.
    """
    place, options = _located(name_or_path)
    remedy = "give another one with autoencoder.name_or_path=FOLDER"
    try:
        content, _ = PreTrainedConfig.get_config_dict(place, **options)
        if not content:
            raise FileNotFoundError("config.json")
        kind, runs_code = _auto_class(content, trust_remote_code)
        lm, tokenizer = load_pretrained(kind, place, trust_remote_code=runs_code, **options)
    except OSError as error:
        raise CheckpointError(
            f"The language model {name_or_path!r} is neither a local folder with a model nor reachable on the hub; "
            "give autoencoder.name_or_path=FOLDER with a downloaded copy, or use autoencoder=scratch, which needs no "
            "download."
        ) from error
    except NeedsCodeError as error:
        raise CheckpointError(
            f"The language model {name_or_path!r} needs Python code of its own, which is not run; if you trust its "
            "authors, train with autoencoder.trust_remote_code=true and load with trust_remote_code=True."
        ) from error
    except MissingTokenizer as error:
        raise CheckpointError(
            f"The language model {name_or_path!r} has no tokenizer ({error}); add its tokenizer.json and "
            "tokenizer_config.json."
        ) from error
    except BaseException as error:  # damaged files are met as errors of many kinds, panics of Rust among them
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        what = (
            "a GGUF file that transformers cannot read"
            if "gguf_file" in options
            else "damaged, or cannot be used"
        )
        raise CheckpointError(
            f"The language model {name_or_path!r} is {what} ({first_line(error)}); {remedy}."
        ) from error
    lacks_end = False
    if isinstance(tokenizer, ByT5Tokenizer):
        tokenizer = _fast_bytes(tokenizer)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise CheckpointError(
            f"The tokenizer of {name_or_path!r}, a {type(tokenizer).__name__}, has no fast version; {remedy}."
        )
    if not lm.config.is_encoder_decoder:
        tokenizer, lacks_end = _with_end(tokenizer, lm)
    path = Path(name_or_path).expanduser()
    origin = Origin(path.resolve().name if path.exists() else name_or_path, _license(place, options))
    return Pretrained(lm, tokenizer, origin, lacks_end, runs_code)


def _located(name_or_path: str) -> tuple[str, dict[str, Any]]:
    """The place and the options of ``from_pretrained``."""
    path = Path(name_or_path).expanduser()
    if path.suffix != ".gguf":
        return name_or_path, {"local_files_only": not hub_answers(name_or_path)}
    if not path.is_file():
        raise CheckpointError(
            f"autoencoder.name_or_path={name_or_path} does not exist; give an existing .gguf file."
        )
    if find_spec("gguf") is None:
        raise ConfigError(
            f"autoencoder.name_or_path={name_or_path} needs the package gguf: pip install ld4lg-fast[gguf]."
        )
    return str(path.parent), {"gguf_file": path.name, "local_files_only": True}


def _auto_class(config: Mapping[str, Any], trust_remote_code: bool) -> tuple[Any, bool]:
    """The auto class of a model by its config, and whether it runs code beside the model.

    Raises:
        NeedsCodeError: it would, and is not trusted.
        ValueError: a clause that says why there is none.
    """
    name = config.get("model_type")
    if name in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForSeq2SeqLM, False
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForCausalLM, False
    listed = config.get("auto_map")
    if name not in CONFIG_MAPPING_NAMES and isinstance(listed, Mapping):
        if not trust_remote_code:
            raise NeedsCodeError
        for known, kind in CODE_CLASSES.items():
            if known in listed:
                return kind, True
    raise ValueError(f"its type {shown(name)} is no language model that writes text")


def _fast_bytes(tokenizer: ByT5Tokenizer) -> PreTrainedTokenizerFast:
    """ByT5's tokenizer, which transformers has in Python alone, as a fast one: a token for each byte."""
    special = {name: getattr(tokenizer, name) for name in ("pad_token", "eos_token", "unk_token")}
    vocabulary: dict[str, Any] = {token: tokenizer.convert_tokens_to_ids(token) for token in special.values()}
    vocabulary |= {
        sign: tokenizer.convert_tokens_to_ids(chr(byte)) for byte, sign in bytes_to_unicode().items()
    }
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    end = tokenizer.eos_token
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", end], pair=["$A", end, "$B:1", f"{end}:1"], special_tokens=[(end, vocabulary[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, split_special_tokens=True, **special
    )


def _with_end(
    tokenizer: PreTrainedTokenizerBase, lm: PreTrainedModel
) -> tuple[PreTrainedTokenizerFast, bool]:
    """A tokenizer that encodes a text as its tokens and an end, and whether that end is new to the model.

    The decoder reads the model's start of text by itself. In a text the name of a special token is ordinary text.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]  # of fast ones
    end, lacks_end = tokenizer.eos_token, tokenizer.eos_token is None
    if lacks_end:
        end = END
        backend.add_special_tokens([AddedToken(END, special=True)])
    names = (end, tokenizer.bos_token, tokenizer.pad_token)
    ids: dict[str, Any] = {name: backend.token_to_id(name) for name in names if name}
    embeddings: Any = lm.get_input_embeddings()
    if ids[end] >= embeddings.num_embeddings:
        with BUILDING:
            lm.resize_token_embeddings(ids[end] + 1)
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", end], pair=["$A", end, "$B:1", f"{end}:1"], special_tokens=[(end, ids[end])]
    )
    named = {
        "bos_token": tokenizer.bos_token or end,
        "eos_token": end,
        "pad_token": tokenizer.pad_token or end,
    }
    others = [token for token in tokenizer.all_special_tokens if token not in named.values()]
    start, pad = (ids.get(named[name], ids[end]) for name in ("bos_token", "pad_token"))
    # The model's own options are for chats.
    lm.generation_config = GenerationConfig(bos_token_id=start, eos_token_id=ids[end], pad_token_id=pad)
    for key, value in (("bos_token_id", start), ("eos_token_id", ids[end]), ("pad_token_id", pad)):
        setattr(lm.config.get_text_config(), key, value)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        additional_special_tokens=others,
        **named,
    )
    return fast, lacks_end


def _license(place: str, options: Mapping[str, Any]) -> str | None:
    """The licence that the model's card or the GGUF file names."""
    if "gguf_file" in options:
        import gguf

        field = gguf.GGUFReader(Path(place) / options["gguf_file"]).get_field("general.license")
        return None if field is None else str(field.contents())[:100]
    card = cached_file(place, "README.md", _raise_exceptions_for_missing_entries=False, **options)
    if card is None:
        return None
    try:
        known = huggingface_hub.ModelCard(
            read_text(Path(card), MAX_JSON_BYTES), ignore_metadata_errors=True
        ).data
    except Exception:  # cards are free text
        return None
    name = known.get("license_name") or known.get("license")
    return name[:100] if isinstance(name, str) else None
