"""Decodes latents to texts in batches. Letters: B latents, N latent positions, d latent width."""

from collections.abc import Callable

from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.decoding.config import STRATEGIES, DecodingConfig, check_lengths
from ld4lg_fast.engine.engine import halved
from ld4lg_fast.engine.precision import choose_linear
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.export.runtime.similarity import SCORE


def checked_decoding(
    given: DecodingConfig | str | None, own: DecodingConfig, autoencoder: LanguageAutoencoder
) -> DecodingConfig:
    """The `DecodingConfig` of ``given``, a configuration or the name of a strategy, or the pipeline's ``own``.

    Raises:
        ConfigError: neither of them, or lengths or a precision that the model does not support on its device.
    """
    if isinstance(given, str):
        given = DecodingConfig(given)
    decoding = own if given is None else given
    if not isinstance(decoding, DecodingConfig):
        raise ConfigError(
            f"decoding is {shown(decoding)}; it must be a DecodingConfig or one of {', '.join(STRATEGIES)}."
        )
    check_lengths(decoding, autoencoder.max_len)
    lm, deterministic = autoencoder.lm, autoencoder.deterministic
    choose_linear(decoding.precision, lm.dtype, lm.device, few_rows=True, deterministic=deterministic)
    if deterministic and decoding.num_decodes > 1 and decoding.choose_decode == SCORE:
        raise ConfigError(
            f"choose_decode is {SCORE}, which scores the texts of a batch together; with deterministic=true choose "
            "bleu or rougeL."
        )
    return decoding


def decode_in_batches(
    autoencoder: LanguageAutoencoder,
    latents: Tensor,
    decoding: DecodingConfig,
    *,
    mask: Tensor | None,
    seed: int,
    sample_ids: Tensor,
    batch_size: int,
    progress: Callable[[str, int, int], None] | None,
) -> list[str]:
    """Texts of latents (B, N, d) and their mask (B, N); a batch that runs out of memory is halved."""
    texts: list[str] = []
    while len(texts) < len(latents):
        rows = slice(len(texts), len(texts) + batch_size)
        try:
            tokens = autoencoder.generate(
                latents[rows],
                decoding,
                seed=seed,
                sample_ids=sample_ids[rows],
                mask=None if mask is None else mask[rows],
            )
        except RuntimeError as error:
            batch_size = halved(min(batch_size, len(latents) - len(texts)), latents.device, error)
            continue
        texts += autoencoder.decode_text(tokens)
        if progress is not None:
            progress("decode", len(texts), len(latents))
    return texts
