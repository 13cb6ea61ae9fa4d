"""Cases that make the loading libraries load what a model does not need: code, adapters, other classes or files."""

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz.cases import DAMAGE, VALUE, Case, removed, rewrite

LANGUAGE_MODEL, TOKENIZER = "autoencoder/language_model", "autoencoder/tokenizer"
RAN_CODE = "ran_code"  # the file that code from the folder creates if it runs
CODE = f"""open({RAN_CODE!r}, "w").close()
from transformers import *
from transformers import BartConfig as Config, BartForConditionalGeneration as Model, PreTrainedTokenizerFast as Tokens
"""


class Bomb:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return open, (RAN_CODE, "w")


CONFIG_KEYS: dict[str, Any] = {
    "auto_map": {"AutoConfig": "code.Config", "AutoModelForSeq2SeqLM": "code.Model"},
    "auto_map_of_the_hub": {
        "AutoConfig": "someone/x--code.Config",
        "AutoModelForSeq2SeqLM": "someone/x--code.Model",
    },
    "auto_map_list": ["code.Config"],
    "auto_map_number": 3,
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "quantization_config_gptq": {"quant_method": "gptq", "bits": 4},
    "quantization_config_torchao": {"quant_method": "torchao", "quant_type": "int8_weight_only"},
    "quantization_config_unknown": {"quant_method": "none of these"},
    "quantization_config_string": "int8",
    "attn_implementation": "flash_attention_2",
    "attn_implementation_flex": "flex_attention",
    "attn_implementation_eager": "eager",
    "attn_implementation_hub": "kernels-community/flash-attn",
    "_attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation_internal": "flash_attention_2",
    "_attn_implementation_autoset": False,
    "experts_implementation": "kernels-community/moe",
    "kernel_config": {"kernel_mapping": {"RMSNorm": "someone/kernels:RMSNorm"}},
    "torch_dtype": "float16",
    "torch_dtype_integer": "int8",
    "torch_dtype_unknown": "float7",
    "torch_dtype_number": 16,
    "dtype": "bfloat16",
    "dtype_double": "float64",
    "dtype_auto": "auto",
    "dtype_module": "os.system",
    "transformers_weights": "pytorch_model.bin",
    "trust_remote_code": True,
    "custom_pipelines": {"text-generation": {"impl": "code.Pipeline", "pt": ["AutoModel"]}},
    "custom_generate": "someone/code",
    "tie_encoder_decoder": True,
    "pruned_heads": {"0": [0, 1]},
    "pruned_heads_far": {"1000": [10**6]},
    "is_decoder": True,
    "add_cross_attention": True,
    "cross_attention_hidden_size": 10**6,
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict": False,
    "use_return_dict": False,
    "num_hidden_layers": 10**9,
    "hidden_size": 7,
    "num_attention_heads": 7,
    "hidden_act": "__class__",
    "activation_function": "gelu_new",
    "tokenizer_class": "T5Tokenizer",
    "task_specific_params": {"summarization": {"max_length": 10**9}},
    "problem_type": "regression",
    "num_labels": 10**9,
    "id2label_many": {str(number): "x" for number in range(10_000)},
    "max_length": 10**9,
    "min_length": 10**9,
    "num_beams": 10**9,
    "no_repeat_ngram_size": 10**9,
    "bad_words_ids": [[10**9]],
    "chunk_size_feed_forward": 10**9,
    "gradient_checkpointing": True,
    "layerdrop": 1.0,
    "rope_parameters": {"rope_type": "unknown"},
    "rope_scaling": {"type": "linear", "factor": "x"},
    "text_config": {"model_type": "llama"},
    "encoder": {"model_type": "bert"},
    "decoder": {"model_type": "gpt2"},
    "sub_configs": {"text_config": "x"},
    "base_model_tp_plan": {"layers.*": "colwise"},
    "attribute_map": {"hidden_size": "__class__"},
    "model_id": "someone/model",
    "_name_or_path": "someone/model",
    "_commit_hash": "../../..",
    "architectures": ["GPT2LMHeadModel"],
    "generate": "x",
    "save_pretrained": "x",
    "__class__": "x",
    "__init__": 3,
}
MODEL_TYPES = (
    *(
        "t5",
        "mt5",
        "gpt2",
        "bert",
        "llama",
        "mbart",
        "pegasus",
        "blenderbot",
        "encoder-decoder",
        "marian",
        "fsmt",
    ),
    *(
        "longt5",
        "m2m_100",
        "plbart",
        "led",
        "prophetnet",
        "switch_transformers",
        "umt5",
        "bigbird_pegasus",
        "whisper",
    ),
    *("speech_to_text", "rag", "qwen2_audio", "xlm-prophetnet", "BART", "bart ", "__init__", "../bart", "os"),
)
GENERATION_KEYS: dict[str, Any] = {
    "eos_token_id_far": ("eos_token_id", 10**9),
    "eos_token_id_list": ("eos_token_id", [3, 100_000]),
    "eos_token_id_nested": ("eos_token_id", [[2]]),
    "eos_token_id_vocabulary": ("eos_token_id", 2048),
    "eos_token_id_text": ("eos_token_id", ["2"]),
    "eos_token_id_many": ("eos_token_id", list(range(2048))),
    "forced_bos_token_id": ("forced_bos_token_id", 5000),
    "forced_bos_token_id_list": ("forced_bos_token_id", [0, 1]),
    "forced_bos_token_id_negative": ("forced_bos_token_id", -1),
    "forced_eos_token_id_list": ("forced_eos_token_id", [2, 5000]),
    "suppress_tokens": ("suppress_tokens", [10**9]),
    "suppress_tokens_negative": ("suppress_tokens", [-1]),
    "begin_suppress_tokens": ("begin_suppress_tokens", [5000]),
    "bad_words_ids": ("bad_words_ids", [[5000]]),
    "bad_words_ids_empty": ("bad_words_ids", [[]]),
    "force_words_ids": ("force_words_ids", [[[5000]]]),
    "sequence_bias": ("sequence_bias", [[[5000], 10.0]]),
    "forced_decoder_ids": ("forced_decoder_ids", [[1, 5000]]),
    "max_length": ("max_length", 10**9),
    "max_new_tokens": ("max_new_tokens", 10**9),
    "min_length": ("min_length", 10**9),
    "min_new_tokens": ("min_new_tokens", 10**9),
    "num_beams": ("num_beams", 10**9),
    "num_return_sequences": ("num_return_sequences", 10**6),
    "length_penalty": ("length_penalty", 1e9),
    "length_penalty_text": ("length_penalty", "x"),
    "early_stopping": ("early_stopping", "sometimes"),
    "early_stopping_number": ("early_stopping", 3),
    "do_sample": ("do_sample", True),
    "temperature": ("temperature", 0.0),
    "repetition_penalty": ("repetition_penalty", 0.0),
    "encoder_repetition_penalty": ("encoder_repetition_penalty", -1.0),
    "no_repeat_ngram_size": ("no_repeat_ngram_size", 10**9),
    "encoder_no_repeat_ngram_size": ("encoder_no_repeat_ngram_size", 2),
    "exponential_decay_length_penalty": ("exponential_decay_length_penalty", [1, 2.0]),
    "cache_implementation": ("cache_implementation", "quantized"),
    "cache_config": ("cache_config", {"backend": "quanto"}),
    "watermarking_config": ("watermarking_config", {"greenlist_ratio": 0.25}),
    "custom_generate": ("custom_generate", "someone/code"),
    "prompt_lookup_num_tokens": ("prompt_lookup_num_tokens", 10),
    "assistant_early_exit": ("assistant_early_exit", 1),
    "compile_config": ("compile_config", {"backend": "x"}),
    "stop_strings": ("stop_strings", ["a"]),
    "trust_remote_code": ("trust_remote_code", True),
    "transformers_version": ("transformers_version", "999.0.0"),
    "remove_invalid_values": ("remove_invalid_values", True),
    "guidance_scale": ("guidance_scale", 5.0),
    "decoder_start_token_id_list": ("decoder_start_token_id", [2, 2]),
    "decoder_start_token_id_far": ("decoder_start_token_id", 10**9),
    "pad_token_id_far": ("pad_token_id", 10**9),
}
TOKENIZER_CLASSES = (
    *(
        "BartTokenizer",
        "BartTokenizerFast",
        "T5Tokenizer",
        "T5TokenizerFast",
        "GPT2Tokenizer",
        "BertTokenizer",
    ),
    *(
        "LlamaTokenizer",
        "MBartTokenizer",
        "PreTrainedTokenizer",
        "PreTrainedTokenizerFast",
        "PreTrainedTokenizerBase",
    ),
    *("AutoTokenizer", "ByT5Tokenizer", "CanineTokenizer", "MistralCommonTokenizer", "BertJapaneseTokenizer"),
    *("WhisperTokenizer", "Wav2Vec2CTCTokenizer", "RagTokenizer", "TapexTokenizer", "PythonBackend"),
    *("code.Tokens", "../code", "__init__", "PreTrainedModel", "Trainer", "os.system"),
)
TOKENIZER_KEYS: dict[str, Any] = {
    "auto_map": {"AutoTokenizer": ["code.Tokens", "code.Tokens"]},
    "auto_map_of_the_hub": {"AutoTokenizer": ["someone/code--code.Tokens", None]},
    "chat_template": "{{ ''.__class__ }}",
    "added_tokens_decoder": {"5000": {"content": "new", "special": True}},
    "added_tokens_decoder_negative": {"-1": {"content": "new"}},
    "extra_special_tokens": {"image_token": "<image>"},
    "additional_special_tokens": ["restaurant", "a"],
    "model_specific_special_tokens": {"x": "a"},
    "fix_mistral_regex": True,
    "add_prefix_space": True,
    "add_bos_token": True,
    "from_slow": True,
    "tokenizer_file": "/etc/passwd",
    "vocab_file": "/etc/passwd",
    "tokenizer_object": "x",
    "padding_side": "neither",
    "truncation_side": 3,
    "model_input_names": ["x"],
    "init_inputs": ["x"],
    "processor_class": "Trainer",
    "name_or_path": "someone/model",
    "tokenizer_type": "bert",
    "gguf_file": "x.gguf",
    "trust_remote_code": True,
    "__class__": "x",
    "_tokenizer": "x",
    "cls_token": {"content": "a", "__type": "AddedToken"},
    "eos_token_object": {"content": "</s>", "lstrip": True, "__type": "AddedToken"},
    "sp_model_kwargs": {"enable_sampling": True},
}
LM_CODE = {"auto_map": {"AutoTokenizer": "code.Tokens", "AutoProcessor": "code.Tokens"}}
FILES: dict[str, tuple[str, Any]] = {
    "adapter_config": (
        f"{LANGUAGE_MODEL}/adapter_config.json",
        {"peft_type": "LORA", "base_model_name_or_path": "x/y"},
    ),
    "weights_index": (f"{LANGUAGE_MODEL}/model.safetensors.index.json", {"weight_map": {"a": "/etc/passwd"}}),
    "processor_config": (f"{TOKENIZER}/processor_config.json", LM_CODE),
    "preprocessor_config": (f"{TOKENIZER}/preprocessor_config.json", LM_CODE),
    "config_of_tokenizer": (f"{TOKENIZER}/config.json", {"model_type": "bert"} | LM_CODE),
    "special_tokens_map": (f"{TOKENIZER}/special_tokens_map.json", {"eos_token": "a"}),
    "added_tokens": (f"{TOKENIZER}/added_tokens.json", {"restaurant": 5000}),
    "chat_template": (f"{TOKENIZER}/chat_template.json", {"chat_template": "{{ x }}"}),
    "vocab": (f"{TOKENIZER}/vocab.json", {"a": 0}),
    "custom_generate": (f"{LANGUAGE_MODEL}/custom_generate/requirements.txt", "x"),
    "import_json": ("import.json", {"layout": 3}),
    "reconstruction": ("reconstruction.json", []),
}


def foreign_cases(folder: Path) -> Iterator[Case]:
    """All cases of a run directory."""
    config = {key: (_base(key), value) for key, value in CONFIG_KEYS.items()}
    config |= {f"model_type {name}": ("model_type", name) for name in MODEL_TYPES}
    yield from _key_cases(f"{LANGUAGE_MODEL}/config.json", config)
    yield from _key_cases(f"{LANGUAGE_MODEL}/generation_config.json", GENERATION_KEYS)
    tokenizer = {key: (_base(key), value) for key, value in TOKENIZER_KEYS.items()}
    tokenizer |= {f"tokenizer_class {name}": ("tokenizer_class", name) for name in TOKENIZER_CLASSES}
    yield from _key_cases(f"{TOKENIZER}/tokenizer_config.json", tokenizer)
    for name, (path, content) in FILES.items():
        yield Case(f"added {name}", partial(_with_file, path=path, content=content))
    for name, path in (
        ("language model", LANGUAGE_MODEL),
        ("tokenizer", TOKENIZER),
        ("denoiser", "denoiser"),
    ):
        yield Case(f"added pickle to {name}", partial(_with_pickle, path=path, alone=False))
        yield Case(f"pickle in place of weights of {name}", partial(_with_pickle, path=path, alone=True))


def _base(name: str) -> str:
    """The key that is meant: ``auto_map`` of ``auto_map_of_the_hub``."""
    return next((key for key in VARIED if name.startswith(f"{key}_")), name)


# Keys that have more than one case, the longer before what they begin with.
VARIED = (
    *(
        "auto_map",
        "quantization_config",
        "attn_implementation",
        "torch_dtype",
        "dtype",
        "pruned_heads",
        "id2label",
    ),
    *("added_tokens_decoder", "eos_token"),
)


def _key_cases(name: str, changes: Mapping[str, tuple[str, Any]]) -> Iterator[Case]:
    for what, (key, value) in changes.items():
        yield Case(
            f"{name}+{what}", partial(_with_key, name, key, value), VALUE if key in HARMLESS else DAMAGE
        )


# Keys that another model of the same sizes may have and that say how its texts are written.
HARMLESS = {
    *(
        "activation_function",
        "eos_token_id",
        "length_penalty",
        "decoder_start_token_id",
        "forced_bos_token_id",
    ),
    *(
        "additional_special_tokens",
        "add_prefix_space",
        "cls_token",
        "eos_token",
        "min_length",
        "early_stopping",
    ),
}


def _with_key(name: str, key: str, value: Any, folder: Path) -> None:
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    content[key] = value
    rewrite(folder / name, json.dumps(content).encode())
    if "code." in json.dumps(value):
        rewrite((folder / name).with_name("code.py"), CODE.encode())


def _with_file(folder: Path, path: str, content: Any) -> None:
    place = (folder / path).parent
    place.mkdir(parents=True, exist_ok=True)
    rewrite(folder / path, (content if isinstance(content, str) else json.dumps(content)).encode())
    for name in ("code.py", "generate.py"):
        rewrite(place / name, CODE.encode())


def _with_pickle(folder: Path, path: str, alone: bool) -> None:
    place = folder / path
    if alone:
        for weights in place.glob("*.safetensors"):
            removed(weights)
    for name in ("pytorch_model.bin", "model.pt", "tokenizer.model"):
        rewrite(place / name, pickle.dumps(Bomb()))
