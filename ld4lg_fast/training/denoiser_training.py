"""Stage two: encodes the corpus, trains or distills the denoiser, and saves it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.data import TextDataset, TextSplit, TokenizedTexts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.models.attention_backends import set_attn_implementation
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.autoencoder_model import tokenize, tokenize_sources, trusts_code
from ld4lg_fast.training.autoencoder_stage import write_statistics
from ld4lg_fast.training.block_latents import BlockLatents
from ld4lg_fast.training.block_stages import (
    BlockDiffusionStage,
    BlockDistillationStage,
    block_tokens,
    dataset_of_blocks,
    latents_of_blocks,
)
from ld4lg_fast.training.conditioned_latents import ConditionedLatents, SourceStates, classes_of
from ld4lg_fast.training.decoder_tolerance import TEXTS, measure_tolerance, of_as_many_as_fit
from ld4lg_fast.training.derived_options import source_limit
from ld4lg_fast.training.diffusion_stage import DiffusionStage, build_denoiser
from ld4lg_fast.training.distillation import DistillationStage, load_teacher, student_of
from ld4lg_fast.training.latent_cache import (
    cached_latents,
    cached_sources,
    encode_sources,
    uncached_latents,
)
from ld4lg_fast.training.loop import TrainingLoop
from ld4lg_fast.training.session import Session, on_main
from ld4lg_fast.training.shards import Rows
from ld4lg_fast.training.state_cache import drop_states, kept_states
from ld4lg_fast.training.stored_samples import store_samples
from ld4lg_fast.training.time_budget import StageClock
from ld4lg_fast.training.validation import ValidationSet


def _conditions(
    latents: Rows,
    tokens: TokenizedTexts,
    labels: Sequence[int] | None,
    sources: SourceStates | None,
    model: LatentDiffusion,
) -> ConditionedLatents:
    return ConditionedLatents(
        latents,
        lengths=tokens.lengths if model.diffusion.discrete else None,
        labels=classes_of(labels, len(latents), model),
        sources=sources,
    )


def train_denoiser(config: Mapping, dataset: TextDataset, session: Session, clock: StageClock) -> None:
    """Runs the stage with the run's autoencoder and writes ``denoiser/`` to the run directory."""
    autoencoder = LanguageAutoencoder.load(session.run.autoencoder, trusts_code(config)).to(session.device)
    documents = "context_blocks" in config["recipe"]
    if documents:
        dataset = dataset_of_blocks(dataset, autoencoder, session)
    tokens, validation_tokens = tokenize(autoencoder, dataset, session)
    statistics = write_statistics(tokens, dataset, session)
    distilled = session.options.distill_from is not None
    kind: Callable[..., DiffusionStage] = BlockDiffusionStage if documents else DiffusionStage
    if distilled:
        teacher = load_teacher(session.options)
        model = student_of(teacher, session.options.distill_steps)
        kind = partial(BlockDistillationStage if documents else DistillationStage, teacher)
    else:
        model = build_denoiser(config, dataset, autoencoder)
    validation: ConditionedLatents | BlockLatents
    if documents:
        blocks = block_tokens(dataset.train, tokens, autoencoder)
        cut = blocks.cut_in_two(model.recipe["cut_share"], session.seed)
        training: Any = latents_of_blocks(
            dataset.train, blocks, autoencoder, model, session, cached_latents, cut
        )
        unseen = block_tokens(dataset.validation, validation_tokens, autoencoder)
        validation = latents_of_blocks(
            dataset.validation, unseen, autoencoder, model, session, uncached_latents
        )
    else:
        states = kept_states(autoencoder, tokens, session)
        latents = cached_latents(autoencoder, tokens, session, states=states)
        drop_states(session)
        validation_latents = uncached_latents(autoencoder, validation_tokens, session)
        sources, validation_sources = _source_states(config, dataset, autoencoder, session)
        training = _conditions(latents, tokens, dataset.train.labels, sources, model)
        labels = dataset.validation.labels
        validation = _conditions(validation_latents, validation_tokens, labels, validation_sources, model)
    texts = dataset.validation.sources if model.is_seq2seq else None
    stage = kind(model, training, ValidationSet(validation, autoencoder, statistics, texts), session)
    # Its average, which samples in float32, stays as it is.
    set_attn_implementation(stage.trained, session.options.attn_implementation)
    TrainingLoop(stage, session, clock).run()

    def save() -> None:
        with fingerprint.renewed(session.run.path):
            stage.ema.module.save(session.run.denoiser)

    on_main(session.accelerator, save)
    decoding = DecodingConfig.load(session.run.path)
    pipe = TextDiffusionPipeline(autoencoder, stage.ema.module, statistics, decoding)
    few = dataset.validation.select(range(min(TEXTS, len(validation_tokens))))
    on_main(session.accelerator, lambda: _describe(pipe, few, session, clock))


def _describe(pipe: TextDiffusionPipeline, texts: TextSplit, session: Session, clock: StageClock) -> None:
    """Measures how the decoder takes the denoiser's latents, and samples the texts that `ld4lg verify` repeats."""
    with session.interrupts.immediately():
        sources = list(texts.sources or ()) if pipe.model.is_seq2seq else None
        store_samples(pipe, session.run.stored_samples, sources)
        found = of_as_many_as_fit(
            lambda count: measure_tolerance(pipe, texts.select(range(count))), len(texts), clock
        )
    write_json(session.run.decoder_tolerance, found)
    for check in found["checks"]:
        if not check["passed"]:
            console.print(f"Of the decoder, {check['line']}.")


def _source_states(
    config: Mapping, dataset: TextDataset, autoencoder: LanguageAutoencoder, session: Session
) -> tuple[SourceStates | None, SourceStates | None]:
    """Encoder states of the training sources (memory-mapped) and of the validation sources."""
    limit = source_limit(config, dataset)
    if limit is None:
        return None, None
    tokens, validation_tokens = tokenize_sources(autoencoder, dataset, limit, session)
    states = cached_sources(autoencoder, tokens, limit, session)
    every = range(len(validation_tokens))
    validation = session.interruptible(
        lambda: Rows([encode_sources(autoencoder, validation_tokens, limit, session, every)])
    )
    return SourceStates(states, tokens.offsets), SourceStates(validation, validation_tokens.offsets)
