"""`TextDiffusionPipeline`: samples texts from a trained run.

Letters: N latent positions, d latent width.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from ld4lg_fast.checkpoints import hub
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.engine.engine import check_fits, fitting_batch, sample_batches, sample_id_tensor
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.documents import MAX_NEW_TOKENS
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.models.context_encoder import BlockContext
from ld4lg_fast.options.checks import check_given, check_options
from ld4lg_fast.pipeline.conditions import chosen_classes, real_lengths, source_texts
from ld4lg_fast.pipeline.decode import checked_decoding, decode_in_batches
from ld4lg_fast.pipeline.documents import prompt_list
from ld4lg_fast.pipeline.guide_operations import Guides
from ld4lg_fast.pipeline.infill_operations import InfillOperations
from ld4lg_fast.pipeline.model_card import model_card
from ld4lg_fast.pipeline.outputs import (
    Callback,
    CallOptions,
    Progress,
    SampledLatents,
    SamplingOptions,
    TextDiffusionOutput,
    joined,
)
from ld4lg_fast.pipeline.presets import sampling_plan
from ld4lg_fast.pipeline.sources import encode_sources


class TextDiffusionPipeline(InfillOperations):
    """Samples texts from a latent diffusion model and a language autoencoder.

    >>> pipe = TextDiffusionPipeline.from_pretrained("outputs/demo")
    >>> pipe(num_samples=4, num_inference_steps=25, sampler="dpmpp_2m", seed=1).texts

    ``statistics``: classes and lengths of the training texts; None if unknown.
    ``decoding``: the default of calls; None is the paper's beam search.
    """

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        license: str | None = None,
        evaluation: Path | str | None = None,
    ) -> str:
        """Uploads a folder that `from_pretrained` reads, with a model card; returns the repository's address.

        The card lists the sizes of the networks and the number, lengths and classes of the training texts.

        Args:
            repo_id: ``owner/name``; created if it does not exist.
            token: of the hub; None is that of ``hf auth login``.
            license: of the weights, such as ``mit``; None leaves it out.
            evaluation: a JSON file of ``ld4lg evaluate``, whose table the card shows.

        Raises:
            CheckpointError: ``evaluation`` cannot be read.
            huggingface_hub.errors.HfHubHTTPError: the hub refuses.
        """
        card = model_card(self, repo_id, license=license, evaluation=evaluation)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            (Path(folder) / "README.md").write_text(str(card), encoding="utf-8")
            return hub.upload(folder, repo_id, private=private, token=token)

    def __call__(
        self,
        num_samples: int | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        best_of: int = 1,
        decoding: DecodingConfig | str | None = None,
        **options: Unpack[CallOptions],
    ) -> TextDiffusionOutput:
        """Samples latents by `sample_batches`, which takes the ``options``, and decodes them to texts.

        The same seed gives the same texts at any batch size.

        Args:
            num_samples: None is one, or one for each prompt.
            prompt, max_new_tokens: of a model of recipe ``blocks``: the text that every sample goes on with, or one for
                each, and the most tokens that are added (None: 512); a document may end earlier, by itself. Without a
                prompt it begins a document. ``texts`` are what was added.
            best_of: samples that many times ``num_samples`` texts and keeps those with the highest `confidences`, and
                with guides those whose words are likeliest what was asked for: better and less varied texts.
                Conditions given one by one are those of all that are sampled.
            decoding: a `DecodingConfig` or the name of a strategy; None is the pipeline's own.
            options: see `sample_batches`; ``progress`` is called as ``progress(phase, done, total)`` with phase
                ``denoise`` or ``decode``.
        """
        self.check_prompt(prompt, max_new_tokens, dict(options), best_of)
        if self.model.writes_documents:
            prompts, count = prompt_list(prompt, num_samples)
            given: dict[str, Any] = {
                "prompt": prompts,
                "max_new_tokens": max_new_tokens,
                "decoding": decoding,
            }
            return self._whole_documents(prompts, count, self.stream(count, **given, **options))
        num_samples, count = self._counts(1 if num_samples is None else num_samples, best_of)
        batches = list(self.stream(count, decoding=decoding, **options))
        texts = {
            row: text for batch in batches for row, text in zip(batch.rows.tolist(), batch.texts, strict=True)
        }
        sampled = joined(batches)
        output = TextDiffusionOutput(**vars(sampled), texts=[texts[row] for row in range(count)])
        return output if best_of == 1 else self._most_confident(output, num_samples, dict(options))

    def stream(
        self,
        num_samples: int | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        decoding: DecodingConfig | str | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        sample_ids: Tensor | Sequence[int] | None = None,
        progress: Progress | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[TextDiffusionOutput]:
        """As a call with the same arguments, but yields each batch when it is finished; ``rows`` are its samples.

        Of documents a batch holds one block for each of its rows, in the order in which they are written.
        """
        self.check_prompt(prompt, max_new_tokens, dict(options))
        prompts, num_samples = prompt_list(prompt, num_samples)
        num_samples = check_fits(self.model, num_samples, kept=False)
        (seed,) = check_options(seed=seed)
        check_given(batch_size=batch_size, progress=progress)
        decoding = checked_decoding(decoding, self.decoding, self.autoencoder)
        ids = sample_id_tensor(sample_ids, num_samples, self.device)
        if self.model.writes_documents:
            most = max_new_tokens or MAX_NEW_TOKENS
            return self._write(
                prompts, decoding, most, seed, ids, progress=progress, batch_size=batch_size, **options
            )
        written = 0

        def decoded(phase: str, done: int, total: int) -> None:
            if progress is not None:
                progress(phase, written + done, num_samples)

        batches = self.sample_batches(
            num_samples, batch_size=batch_size, sample_ids=ids, seed=seed, progress=progress, **options
        )

        def outputs() -> Iterator[TextDiffusionOutput]:
            nonlocal written
            for batch in batches:
                places: dict[str, Any] = {"mask": batch.mask, "sample_ids": ids[batch.rows]}
                texts = self.decode(batch.latents, decoding, seed=seed, progress=decoded, **places)
                written += len(texts)
                yield TextDiffusionOutput(**vars(batch), texts=texts)

        return outputs()

    def sample(self, num_samples: int = 1, **options: Unpack[CallOptions]) -> SampledLatents:
        """Latents of all samples, for `decode`; ``options`` as in `sample_batches`."""
        check_fits(self.model, num_samples)
        return joined(list(self.sample_batches(num_samples, **options)))

    @torch.no_grad()
    def sample_batches(
        self,
        num_samples: int = 1,
        *,
        quality: str = "paper",
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        spacing: str | None = None,
        eta: float | None = None,
        class_id: int | Sequence[int] | Tensor | None = None,
        class_name: str | None = None,
        source: Sequence[str] | str | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        lengths: Tensor | None = None,
        blocks: BlockContext | None = None,
        start: Tensor | None = None,
        strength: float = 1.0,
        guides: Guides | None = None,
        guide_scales: Mapping[str, Any] | None = None,
        steer: Callable[[Tensor], Tensor] | None = None,
        precision: str | None = None,
        cuda_graph: bool | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        sample_ids: Tensor | Sequence[int] | None = None,
        progress: Progress | None = None,
        callback: Callback | None = None,
    ) -> Iterator[SampledLatents]:
        """Samples latents and yields them batch by batch. Options are checked before the first batch.

        Args:
            quality: ``paper`` (as published, 250 steps), ``balanced`` or ``draft``, see `presets.QUALITIES`.
            num_inference_steps, sampler, spacing: override those of the preset: network evaluations, a name in
                `samplers.SAMPLERS` (None is the one that the recipe was published with), and one of
                `schedules.SPACINGS`.
            eta: in [0, 1], of the sampler ``ddim`` alone: 0, which None stands for, is deterministic, 1 is ancestral
                sampling (Song et al. 2021, eq. 16).
            class_id, class_name: one class, or an id for each sample. Without both: no class if the model was also
                trained without, else classes with the frequencies of the training texts.
            source: one text for all samples or one for each, for a sequence-to-sequence model. Samples of the
                same source differ by their ids.
            guidance_scale: w in ``w·cond + (1-w)·uncond``; None is 2 with a source and 1 without.
            guidance_interval: the times, 1 noise and 0 data, between which there is guidance.
            lengths: (num_samples,) real positions of each sample (recipe v1); None samples them from the lengths of
                the training texts.
            blocks: of a model of recipe ``blocks``, the blocks before each sample; None: it is not known what stands
                before.
            start, strength: latents (num_samples, N, d) to start from, noised to time ``strength``; see `vary`.
            guides: what the texts should be like, by the names of `guides`: ``{"food": "Italian", "length": 20}``; a
                list has a value for each sample, None for none.
            guide_scales: weights of the guides, by default 3, or lists of them; below 0 a guide leads away.
            steer: maps every predicted x_start, normalised (B, N, d), to the one that is used instead.
            precision: of the denoiser's matmuls, one of `precision.PRECISIONS`; None is that of its weights.
            cuda_graph: whether to capture a step as a CUDA graph once for each batch and replay it; None: on a GPU.
            seed, sample_ids: a sample depends only on the seed, its id and its conditions; ids are by default
                0 … num_samples-1.
            batch_size: None is as many as the device holds.
            progress: called as ``progress("denoise", done, total)``.
            callback: called as ``callback(step, rows, x_start)`` after every step of a batch, with the normalised
                latents (B, N, d) predicted in it.

        Raises:
            ConfigError: an option out of range, or a condition that the model was not trained for or misses.
            CheckpointError: the run has no lengths of its training texts (recipe v1).
        """
        num_samples = check_fits(self.model, num_samples, kept=False)
        (seed,) = check_options(seed=seed)
        num_inference_steps, _ = check_given(num_inference_steps=num_inference_steps, progress=progress)
        plan = sampling_plan(quality, sampler, num_inference_steps, spacing)
        ids = sample_id_tensor(sample_ids, num_samples, self.device)
        sources = source_texts(self.model, source, num_samples)
        class_ids = chosen_classes(self.model, self.statistics, class_id, class_name, seed, ids)
        led = self._guide_targets(guides, guide_scales, num_samples)
        lengths, mask = real_lengths(
            self.model, self.statistics, lengths, seed, ids, self.autoencoder.perceiver is None
        )
        if blocks is not None and not (isinstance(blocks, BlockContext) and self.model.writes_documents):
            raise ConfigError(
                f"blocks is {shown(blocks)}; it must be a BlockContext, and the model one that writes documents."
            )
        context: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
        if sources is not None:
            context = partial(self._encode_sources, sources)
        elif blocks is not None:
            context = partial(self._encode_blocks, blocks)
        if guidance_scale is None:
            guidance_scale = 1.0 if context is None else self.default_guidance()
        total, done = num_samples * plan.num_steps, 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress("denoise", done, total)

        batches = sample_batches(
            self.model,
            num_samples,
            sampler=plan.sampler or self.model.default_sampler,
            num_inference_steps=plan.num_steps,
            spacing=plan.spacing,
            eta=eta,
            seed=seed,
            batch_size=batch_size,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            class_id=class_ids,
            context=context,
            lengths=lengths,
            guides=led,
            # As published, only sampling after a text stays on the sphere (golden NOTES 27).
            project=context is not None and self.model.diffusion.l2_normalized,
            start=start,
            strength=strength,
            steer=steer,
            precision=precision,
            cuda_graph=cuda_graph,
            sample_ids=ids,
            progress=advance,
            callback=callback,
        )

        @torch.no_grad()
        def sampled() -> Iterator[SampledLatents]:
            for rows, latents in batches:
                mask_rows, class_rows = (None if t is None else t[rows] for t in (mask, class_ids))
                yield SampledLatents(latents, mask_rows, class_rows, rows)

        return sampled()

    def _encode_sources(self, sources: Sequence[str], rows: Tensor) -> tuple[Tensor, Tensor]:
        texts = [sources[row] for row in rows.tolist()]
        return encode_sources(self.autoencoder, texts, self.model.source_max_len, self.device)

    def _encode_blocks(self, blocks: BlockContext, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_blocks(blocks.rows(rows))

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        decoding: DecodingConfig | str | None = None,
        *,
        mask: Tensor | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        sample_ids: Tensor | Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """Texts of latents (num_samples, N, d) and their mask (recipe v1), as `sample` returns them.

        ``decoding`` is a `DecodingConfig` or the name of a strategy; None is the pipeline's own. Only nucleus sampling
        uses ``seed`` and ``sample_ids``.

        Raises:
            ConfigError: an option out of range, no latents of this model, or a mask of another shape than theirs.
        """
        self.autoencoder.check_latents(latents, mask)
        (seed,) = check_options(seed=seed)
        batch_size, _ = check_given(batch_size=batch_size, progress=progress)
        return decode_in_batches(
            self.autoencoder,
            latents,
            checked_decoding(decoding, self.decoding, self.autoencoder),
            mask=mask,
            seed=seed,
            sample_ids=sample_id_tensor(sample_ids, len(latents), self.device),
            batch_size=fitting_batch(self.model) if batch_size is None else batch_size,
            progress=progress,
        )
