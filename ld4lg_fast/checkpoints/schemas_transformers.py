"""Schemas of transformers' files: the keys that are used here; keys that name code are refused.

See `ld4lg_fast.checkpoints.schemas`.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ld4lg_fast.checkpoints.schemas import (
    Depth,
    Heads,
    Name,
    Positions,
    Probability,
    Schema,
    TokenId,
    Vocabulary,
    Width,
)
from ld4lg_fast.export.runtime.tokenizer_checks import MOST_ADDED_TOKENS


class ConfigFile(BaseModel):
    """A config of transformers, or one inside another; further keys are allowed.

    Raises:
        ValueError: a key names code or other files.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    @model_validator(mode="after")
    def _data_alone(self) -> Self:
        """Refuses keys that name code, kernels or other files; the attention implementation is chosen here."""
        found = sorted(FOREIGN_KEYS & (self.model_extra or {}).keys())
        if found:
            raise ValueError(f"the key {found[0]} is not followed, as it names code or files; remove it")
        return self


class LanguageModelFile(ConfigFile):
    """``language_model/config.json``."""

    model_type: Name
    vocab_size: Vocabulary
    is_encoder_decoder: bool = True


FOREIGN_KEYS = {
    *("auto_map", "custom_pipelines", "trust_remote_code", "quantization_config", "compression_config"),
    *("fusion_config", "kernel_config", "distributed_config", "transformers_weights", "custom_generate"),
    *(
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
    ),
    *(
        "_experts_implementation",
        "_experts_implementation_internal",
        "adapter_kwargs",
        "_name_or_path_adapter",
    ),
}


class BartFile(LanguageModelFile):
    """Sizes that transformers would replace by defaults if they were missing."""

    d_model: Width
    encoder_layers: Depth
    decoder_layers: Depth
    encoder_attention_heads: Heads
    decoder_attention_heads: Heads
    encoder_ffn_dim: Width
    decoder_ffn_dim: Width
    max_position_embeddings: Positions
    activation_function: Name
    scale_embedding: bool
    pad_token_id: TokenId


class T5File(LanguageModelFile):
    """The same for T5 and mT5."""

    d_model: Width
    d_kv: Width
    d_ff: Width
    num_layers: Depth
    num_decoder_layers: Depth
    num_heads: Heads
    relative_attention_num_buckets: Annotated[int, Field(ge=2, le=4096)]
    relative_attention_max_distance: Annotated[int, Field(ge=2, le=2**17)]
    feed_forward_proj: Name
    layer_norm_epsilon: Annotated[float, Field(gt=0, le=1)]
    pad_token_id: TokenId


class LayersFile(ConfigFile):
    """Sizes of layers, which transformers would replace by defaults if they were missing."""

    hidden_size: Width
    intermediate_size: Annotated[int, Field(ge=1, le=2**20)]
    num_hidden_layers: Depth
    num_attention_heads: Heads


class DecoderOnlyFile(LanguageModelFile, LayersFile):
    """The config of Llama and its relatives."""

    is_encoder_decoder: bool = False


class WordsFile(LayersFile):
    """The part of a nested config for texts."""

    vocab_size: Vocabulary


class T5GemmaFile(LanguageModelFile):
    """A nested config."""

    encoder: WordsFile
    decoder: WordsFile


class TextAndImagesFile(ConfigFile):
    """The encoder's config of T5Gemma 2, which reads images, too."""

    text_config: WordsFile
    vision_config: LayersFile


class T5Gemma2File(LanguageModelFile):
    """A nested config."""

    encoder: TextAndImagesFile
    decoder: WordsFile


FAMILIES: dict[str, type[LanguageModelFile]] = {
    "bart": BartFile,
    "mbart": BartFile,
    "t5": T5File,
    "mt5": T5File,
    "t5gemma": T5GemmaFile,
    "t5gemma2": T5Gemma2File,
}

Ids = TokenId | Annotated[list[TokenId], Field(min_length=1, max_length=64)] | None


class GenerationFile(Schema):
    """``language_model/generation_config.json``: the supported options of transformers' ``generate``.

    Token ids are compared with the vocabulary after the model is loaded.
    """

    bos_token_id: TokenId | None = None
    pad_token_id: TokenId | None = None
    eos_token_id: Ids = None
    decoder_start_token_id: TokenId | None = None
    forced_bos_token_id: Ids = None
    forced_eos_token_id: Ids = None
    max_length: Annotated[int, Field(ge=1, le=2**17)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=2**17)] | None = None
    min_length: Annotated[int, Field(ge=0, le=2**17)] | None = None
    min_new_tokens: Annotated[int, Field(ge=0, le=2**17)] | None = None
    num_beams: Annotated[int, Field(ge=1, le=1024)] | None = None
    num_return_sequences: Literal[1] | None = None
    num_beam_groups: Literal[1] | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(gt=0, le=1000)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**22)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    epsilon_cutoff: Probability | None = None
    eta_cutoff: Probability | None = None
    diversity_penalty: Annotated[float, Field(ge=0, le=1000)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=1000)] | None = None
    encoder_repetition_penalty: Annotated[float, Field(ge=0.01, le=1000)] | None = None
    length_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=1024)] | None = None
    encoder_no_repeat_ngram_size: Annotated[int, Field(ge=0, le=1024)] | None = None
    early_stopping: bool | Literal["never"] | None = None
    bad_words_ids: (
        Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(max_length=1000)] | None
    ) = None
    suppress_tokens: list[TokenId] | None = None
    begin_suppress_tokens: list[TokenId] | None = None
    remove_invalid_values: bool | None = None
    renormalize_logits: bool | None = None
    guidance_scale: Literal[1] | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    return_dict_in_generate: bool | None = None
    use_cache: bool | None = None
    from_model_config: bool | None = Field(default=None, alias="_from_model_config")
    transformers_version: Name | None = None


class SpecialTokensFile(BaseModel):
    """``tokenizer/special_tokens_map.json``; further keys are allowed.

    Raises:
        ValueError: a key names other files or code, or has too many entries.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    extra_ids: Annotated[int, Field(ge=0, le=MOST_ADDED_TOKENS)] | None = None
    offset: Annotated[int, Field(ge=0, le=MOST_ADDED_TOKENS)] | None = None

    @model_validator(mode="after")
    def _data_alone(self) -> Self:
        for key, value in (self.model_extra or {}).items():
            if key in FOREIGN_KEYS or key.endswith(("_file", "_files")):
                raise ValueError(f"the key {key} is not followed, as it names code or files; remove it")
            if isinstance(value, list | dict) and len(value) > MOST_ADDED_TOKENS:
                raise ValueError(
                    f"the key {key} has {len(value)} entries; at most {MOST_ADDED_TOKENS} are read"
                )
        return self


class TokenizerFile(SpecialTokensFile):
    """``tokenizer/tokenizer_config.json``; further keys are allowed."""

    tokenizer_class: Name
    split_special_tokens: bool = False
    clean_up_tokenization_spaces: bool = False
