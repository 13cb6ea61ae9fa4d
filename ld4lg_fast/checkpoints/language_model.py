"""Loads language models from folders without executing or fetching anything that their files name.

transformers' ``from_pretrained`` would follow file names, kernels, quantizers, adapters and classes in the folder. Here
the config is validated, its sizes are compared with the weights, and only then is the model built.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import BaseModel
from transformers import (
    AutoConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as ENCODER_DECODERS,
)

from ld4lg_fast.checkpoints.files import read_json
from ld4lg_fast.checkpoints.schemas import validated
from ld4lg_fast.checkpoints.schemas_transformers import (
    FAMILIES,
    DecoderOnlyFile,
    GenerationFile,
    LanguageModelFile,
)
from ld4lg_fast.checkpoints.tensors import all_finite, read_weights
from ld4lg_fast.checkpoints.tokenizer import choose_tokenizer, first_line
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.option_checks import shown

# Held while transformers builds or loads a model, as it uses global state for initialisation and tied weights.
BUILDING = threading.RLock()
MAX_LABELS = 10_000  # transformers makes a dictionary of them
TOKEN_IDS = tuple(
    name
    for name in GenerationFile.model_fields
    if name.endswith(("_token_id", "_tokens")) or name == "bad_words_ids"
)


def load_language_model(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Loads a language model that ``save_pretrained`` wrote, in evaluation mode and ``dtype`` (None: float32).

    Raises:
        CheckpointError: a file is missing, damaged or of another model, or names code, kernels or a quantizer.
    """
    config = _read_config(folder)
    architecture: Any = _architectures(config)[type(config)]
    generation = _read_generation_config(folder)
    paths = sorted(folder.glob("model*.safetensors")) or [folder / "model.safetensors"]
    try:
        with BUILDING, torch.device("meta"):
            skeleton = architecture(config)
    except Exception as error:  # transformers raises many kinds for invalid sizes
        raise CheckpointError(f"{folder / 'config.json'} makes no model ({first_line(error)}).") from error
    state = read_weights(skeleton, *paths, computed=skeleton._keys_to_ignore_on_save or (), dtype=dtype)
    with BUILDING:
        lm = architecture.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype or torch.float32, trust_remote_code=False
        )
    if generation is not None:
        lm.generation_config = generation
    options, path = lm.generation_config, folder / "generation_config.json"
    check_token_ids(options.to_dict(), vocabulary_of(config), path)
    if options.decoder_start_token_id is None and options.bos_token_id is None:
        raise CheckpointError(
            f"{path} has neither decoder_start_token_id nor bos_token_id, so no text can begin."
        )
    return lm


def load_pretrained(
    kind: Any, place: str, optional: tuple[str, ...] = (), trust_remote_code: bool = False, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer by folder or hub name, with a check that no weights are missing.

    Args:
        kind: an auto class of transformers. optional: beginnings of the names of weights that may be missing.
        trust_remote_code: whether Python code beside the model is executed.
        options: further arguments of ``from_pretrained``, such as ``local_files_only``.

    Raises:
        OSError: the model does not exist.
        ValueError: weights are missing, which transformers would initialise, or not finite; or the tokenizer belongs
            to another model.
    """
    with BUILDING:
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code, **options)
        config._attn_implementation = None  # never taken from the file
        quantization: dict[str, Any] = {}
        if "gguf_file" in options and hasattr(transformers, "GgufConfig"):
            quantization["quantization_config"] = transformers.GgufConfig(dequantize=True)
        model, found = kind.from_pretrained(
            place,
            config=config,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **options,
            **quantization,
        )
        if (quantizer := getattr(model, "hf_quantizer", None)) is not None:
            quantizer.remove_quantization_config(model)  # plain weights, which can be saved
        vocabulary = model.get_input_embeddings().num_embeddings
        tokenizer = choose_tokenizer(place, config, vocabulary, trust_remote_code, **options)
    if missing := sorted(name for name in found["missing_keys"] if not name.startswith(optional)):
        raise ValueError(f"it has no weights {shown(missing)}")
    if broken := [name for name, tensor in model.state_dict().items() if not all_finite(tensor)]:
        raise ValueError(f"its weights {shown(broken)} are not finite")
    return model.eval(), tokenizer


def _read_config(folder: Path) -> PreTrainedConfig:
    path = folder / "config.json"
    content = read_json(path, "a language model")
    name = str(content.get("model_type"))
    decoder_only = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and name not in ENCODER_DECODERS
    schema = FAMILIES.get(name, DecoderOnlyFile if decoder_only else LanguageModelFile)
    wanted = validated(schema, content, path)
    check_token_ids(content, wanted.vocab_size, path)
    labels = content.get("num_labels")
    if isinstance(labels, int) and labels > MAX_LABELS:
        raise CheckpointError(f"{path} is damaged: num_labels is {labels}; at most {MAX_LABELS} are read.")
    try:
        config = AutoConfig.for_model(**{key: value for key, value in content.items() if key != "dtype"})
    except Exception as error:  # likewise
        raise CheckpointError(f"{path} is no config of a language model ({first_line(error)}).") from error
    if type(config) not in _architectures(config):
        raise CheckpointError(
            f"{path} is of a {shown(wanted.model_type)}, which is no language model that writes text."
        )
    _check_same(config, wanted, path)
    return config


def _architectures(config: PreTrainedConfig) -> Any:
    """The auto mapping of the model's kind, from classes of configs to classes of models."""
    return (
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
    )


def _check_same(config: PreTrainedConfig, wanted: BaseModel, path: Path) -> None:
    """Checks that a config has the values that its file has under these names."""
    for key in type(wanted).model_fields:
        given, own = getattr(wanted, key), getattr(config, key)
        if isinstance(given, BaseModel):
            _check_same(own, given, path)
        elif own != given:
            raise CheckpointError(
                f"{path} is damaged: {key} stands there under another name with another value."
            )


def vocabulary_of(config: PreTrainedConfig) -> int:
    """The number of tokens that a language model writes."""
    return config.get_text_config(decoder=True).vocab_size


def _read_generation_config(folder: Path) -> GenerationConfig | None:
    path = folder / "generation_config.json"
    if not path.exists() and not path.is_symlink():
        return None
    options = validated(GenerationFile, read_json(path, "a language model"), path)
    try:
        return GenerationConfig(**options.model_dump(by_alias=True, exclude_unset=True))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} makes no generation options ({first_line(error)}).") from error


def check_token_ids(options: Mapping[str, Any], vocabulary: int, path: Path) -> None:
    """Checks that all token ids of the options are in the vocabulary.

    Raises:
        CheckpointError: names the option, the id and the range.
    """
    for name in TOKEN_IDS:
        value = options.get(name)
        for token in _flat(value):
            known = isinstance(token, int) and not isinstance(token, bool) and 0 <= token < vocabulary
            if token is not None and not known:
                raise CheckpointError(
                    f"{path} has {name} {shown(value)}, but token ids of this vocabulary are 0 to {vocabulary - 1}."
                )


def _flat(value: object) -> list[object]:
    """Ids of an option that is an id, a list or a list of lists."""
    return [token for part in value for token in _flat(part)] if isinstance(value, list | tuple) else [value]
