"""Filling the gaps of given texts, of several at once, and of documents block by block.

Letters: B candidates, N latent positions, d latent width.
"""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.documents import Document, block_seed, cut_into_blocks
from ld4lg_fast.options.checks import check_options, check_texts, text_list
from ld4lg_fast.pipeline.documents import BlockCoder, DocumentOperations
from ld4lg_fast.pipeline.infilling import fill_gaps, filled, split_at_gaps
from ld4lg_fast.pipeline.outputs import SampledLatents, TextDiffusionOutput, check_free, joined

GAP = "\ue000"  # stands for a gap while a document is cut into blocks


@dataclass
class Candidate:
    """A text that is being filled: its blocks, the document as far as it is filled, and the sum of the scores."""

    text: int
    blocks: list[list[str]]  # kept words around the gaps of each block
    document: Document = field(default_factory=lambda: Document([], continues=False))
    score: float = 0.0


class InfillOperations(DocumentOperations, ABC):
    """The part of `TextDiffusionPipeline` that fills gaps."""

    def infill(
        self,
        text: str | Sequence[str],
        num_samples: int = 4,
        *,
        gap: str = "___",
        strength: float = 0.7,
        best_of: int = 4,
        max_tokens: int = 12,
        **options: Any,
    ) -> TextDiffusionOutput:
        """Fills the gaps in texts and keeps every other word: ``infill("The ___ is a cheap ___ pub.")``.

        Latent positions do not correspond to words, so none can be held fixed during denoising (as RePaint does with
        pixels, Lugmayr et al. 2022). Instead: latents are sampled near the text without its gaps, as in `vary`; for
        each of them the decoder is forced to the kept words and fills the gaps greedily (`infilling.fill_gaps`); the
        latents under which the whole text has the highest log-probability are kept. Kept words that are not in the
        training texts (such as a new name) make the filling worse. A model that writes documents fills a long text
        block by block, each under the blocks before it.

        Args:
            text: one text with gaps, or several; what becomes of one does not depend on the others.
            num_samples: of each text, at most as many; fewer if fillings are equal.
            strength: in (0, 1], see `vary`; larger values give more diverse fillings.
            best_of: latents sampled for each text that is kept.
            max_tokens: of a filling.
            options: those of a call, except decoding, start, lengths, sample_ids and blocks.

        Returns:
            Different texts, those of a text together, by descending log-probability; ``prompts`` has the given text of
            each, and ``latents`` are those of the last block with a gap.

        Raises:
            ConfigError: no gap, nothing but gaps, no room for them, an option that is set here, or a model of recipe
                v1, whose number of latents is the number of tokens.
        """
        check_free("infill", options, "decoding", "start", "lengths", "sample_ids", "blocks")
        if self.autoencoder.perceiver is None:
            raise ConfigError(
                "infill needs latents of one size for all texts; this model's have lengths (recipe v1)."
            )
        texts = text_list("text", text)
        check_texts(gap=gap)
        seed = options.pop("seed", 0)
        _, max_tokens, seed = check_options(strength=strength, max_tokens=max_tokens, seed=seed)
        num_samples, count = self._counts(num_samples, best_of)
        coder = BlockCoder(self.autoencoder, self.model.recipe.get("prefix_tokens", 0))
        of_texts = [self._gapped_blocks(each, gap, max_tokens, coder) for each in texts]
        candidates = [
            Candidate(number, blocks) for number, blocks in enumerate(of_texts) for _ in range(count)
        ]
        latents: dict[int, Tensor] = {}
        for number in range(max(map(len, of_texts))):
            rows = [row for row, each in enumerate(candidates) if number < len(each.blocks)]
            gapped = [row for row in rows if len(candidates[row].blocks[number]) > 1]
            if gapped:
                ids = torch.tensor(gapped, device=self.device) % count
                given = {"strength": strength, "seed": block_seed(seed, number), "sample_ids": ids} | options
                sampled = self._near([candidates[row] for row in gapped], number, coder, given)
                latents |= dict(zip(gapped, sampled.latents, strict=True))
                self._fill([candidates[row] for row in gapped], number, sampled.latents, max_tokens, coder)
            for row in set(rows) - set(gapped):
                candidates[row].document.blocks += candidates[row].blocks[number]
        kept = _best_of_each(candidates, len(texts), num_samples)
        return TextDiffusionOutput(
            torch.stack([latents[row] for row in kept]),
            None,
            None,
            torch.tensor(kept, device=self.device),
            ["".join(candidates[row].document.blocks) for row in kept],
            [texts[candidates[row].text] for row in kept],
        )

    def _gapped_blocks(self, text: str, gap: str, max_tokens: int, coder: BlockCoder) -> list[list[str]]:
        """The blocks of a text, each as the kept words around its gaps; a model without documents has one block."""
        kept = split_at_gaps(text, gap)
        if not self.model.writes_documents:
            return [kept]

        def count(texts: Sequence[str]) -> list[int]:
            lengths = coder.writer.count([text.replace(GAP, "") for text in texts])
            return [
                length + max_tokens * text.count(GAP) for length, text in zip(lengths, texts, strict=True)
            ]

        blocks = cut_into_blocks([GAP.join(kept)], count, coder.writer.room).texts
        return [block.split(GAP) for block in blocks]

    def _near(
        self, candidates: Sequence[Candidate], number: int, coder: BlockCoder, given: dict[str, Any]
    ) -> SampledLatents:
        """Latents sampled near each candidate's block ``number`` without its gaps."""
        rest = []
        for each in candidates:
            first, *others = each.blocks[number]
            for words in others:
                first = f"{first.rstrip()} {words.lstrip()}"
            rest.append(first.strip() or " ")
        distinct = list(dict.fromkeys(rest))
        encoded = dict(zip(distinct, self.encode(distinct)[0], strict=True))
        given["start"] = torch.stack([encoded[text] for text in rest])
        if self.model.writes_documents:
            most = self.model.recipe["context_blocks"]
            given["blocks"] = coder.context([each.document for each in candidates], most)
        return joined(list(self.sample_batches(len(candidates), **given)))

    def _fill(
        self,
        candidates: Sequence[Candidate],
        number: int,
        latents: Tensor,
        max_tokens: int,
        coder: BlockCoder,
    ) -> None:
        """Appends the filled block ``number`` to each candidate's document."""
        groups: dict[tuple, list[int]] = {}
        for row, each in enumerate(candidates):
            groups.setdefault((each.text, tuple(coder.writer.prefix(each.document))), []).append(row)
        for (_, prefix), rows in groups.items():
            kept = candidates[rows[0]].blocks[number]
            before = [*prefix, coder.between[0]] if prefix else []
            words, scores = fill_gaps(self.autoencoder, latents[rows], kept, max_tokens, before)
            for row, found, score in zip(rows, words, scores.tolist(), strict=True):
                candidates[row].document.blocks.append(filled(kept, found))
                candidates[row].score += score


def _best_of_each(candidates: Sequence[Candidate], num_texts: int, num_samples: int) -> list[int]:
    """Rows of the different fillings with the highest scores, of each text up to ``num_samples``."""
    kept: list[int] = []
    order = sorted(range(len(candidates)), key=lambda row: -candidates[row].score)
    for text in range(num_texts):
        best: dict[str, int] = {}
        for row in order:
            if candidates[row].text == text:
                best.setdefault("".join(candidates[row].document.blocks), row)
        kept += list(best.values())[:num_samples]
    return kept
