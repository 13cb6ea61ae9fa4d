"""Texts of any length: prompts gone on with block by block, each denoised under the latents of the blocks before it.

Letters: B documents, K context blocks, N latents, d latent width, P prefix tokens.
"""

import copy
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import collate, tokenize_texts
from ld4lg_fast.data.tokenization import encoding, special_tokens_around
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.documents import Document, DocumentWriter, block_seed, check_prompts
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.export.runtime.text_display import get_logger
from ld4lg_fast.models.context_encoder import BlockContext
from ld4lg_fast.options.checks import as_config_errors, check_given, check_options
from ld4lg_fast.pipeline.conditions import chosen_classes
from ld4lg_fast.pipeline.guide_operations import Guides
from ld4lg_fast.pipeline.outputs import Progress, SampledLatents, TextDiffusionOutput, joined
from ld4lg_fast.pipeline.selection import SelectionOperations

UNUSABLE = ("source", "start", "lengths", "blocks")  # options of a call that a block cannot have

logger = get_logger("ld4lg_fast")
_said: set[str] = set()


def prompt_list(prompt: str | Sequence[str] | None, num_samples: int | None) -> tuple[list[str], int]:
    """One prompt of all samples or one of each, and the number of samples, by default that of the prompts.

    Raises:
        ConfigError: prompts that are no texts, or of another number than the samples.
    """
    if num_samples is not None:
        (num_samples,) = check_options(num_samples=num_samples)
    with as_config_errors():
        return check_prompts(prompt, num_samples)


class BlockCoder:
    """A language autoencoder as documents need it: blocks to latents, latents to the tokens that go on."""

    def __init__(self, autoencoder: LanguageAutoencoder, num_prefix: int) -> None:
        self.autoencoder, self.tokenizer = autoencoder, cast(Any, autoencoder.tokenizer)
        before, _ = special_tokens_around("a", self.tokenizer)
        opening: list[int] = self.tokenizer("")["input_ids"][:before]
        # Between the tokens before a block and the block, which begins as a text does.
        self.between: list[int] = [self.tokenizer.eos_token_id, *opening]
        room = autoencoder.max_len - self.tokenizer.num_special_tokens_to_add()
        self.writer = DocumentWriter(self._encode, self._decode, room, num_prefix)
        self._latents: dict[str, Tensor] = {}

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        with encoding(texts):
            return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def latents(self, texts: Sequence[str]) -> Tensor:
        """Latents (len(texts), N, d) of blocks; each text is encoded once."""
        device = next(self.autoencoder.parameters()).device
        unknown = [text for text in dict.fromkeys(texts) if text not in self._latents]
        if unknown:
            most = self.autoencoder.max_len
            tokens = tokenize_texts(unknown, self.tokenizer, most)
            rows = [tokens[i] for i in range(len(tokens))]
            ids, mask = collate(rows, self.tokenizer.pad_token_id, max_len=most)
            encoded = self.autoencoder.encode(ids.to(device), mask.to(device)).float()
            self._latents.update(zip(unknown, encoded, strict=True))
        return torch.stack([self._latents[text] for text in texts])

    def begin(self, prompts: Sequence[str], count: int, most: int) -> list[Document]:
        """``count`` documents that go on with one prompt of all or one of each; logs that of a prompt of more than
        ``most`` blocks the model reads the end."""
        begun = [self.writer.begin(prompt) for prompt in prompts]
        if any(len(document.blocks) > most for document in begun):
            _say_once(f"Of a prompt of more than {most} blocks this model reads the last {most} alone.")
        # One prompt of all samples is read once.
        return begun if len(begun) == count else [copy.deepcopy(begun[0]) for _ in range(count)]

    def context(self, documents: Sequence[Document], most: int) -> BlockContext:
        """The last ``most`` blocks of each document."""
        seen = [document.blocks[-most:] for document in documents]
        # Without a block before there is still a place, which is not seen.
        distinct = list(dict.fromkeys(text for blocks in seen for text in blocks)) or [""]
        place = {text: number for number, text in enumerate(distinct)}
        device = next(self.autoencoder.parameters()).device
        index = [[0] * (most - len(blocks)) + [place[text] for text in blocks] for blocks in seen]

        def flags(values: Sequence[bool]) -> Tensor:
            return torch.tensor(values, dtype=torch.bool, device=device)

        return BlockContext(
            self.latents(distinct),
            torch.tensor(index, device=device),
            torch.tensor([len(blocks) for blocks in seen], device=device),
            flags([len(document.blocks) <= most for document in documents]),
            flags([document.continues for document in documents]),
        )

    def decode(
        self,
        documents: Sequence[Document],
        latents: Tensor,
        decoding: DecodingConfig,
        seed: int | Sequence[int],
        sample_ids: Tensor,
        pause: Callable[[], object] | None = None,
    ) -> list[list[int]]:
        """Token ids of the block of each document, decoded from its latents (B, N, d); one seed, or one for each;
        ``pause``: see `generate_ids`."""
        prefixes = [self.writer.prefix(document) for document in documents]
        # A prefix ends with what a text begins with, so that there is less to write.
        most = (decoding.max_length or self.autoencoder.max_len) - len(self.between) + 1
        ids: list[list[int]] = [[]] * len(documents)
        for length in set(map(len, prefixes)):
            rows = [row for row, prefix in enumerate(prefixes) if len(prefix) == length]
            given = None
            if length:
                given = torch.tensor([prefixes[row] + self.between for row in rows], device=latents.device)
            places = torch.tensor(rows, device=latents.device)
            of_rows = seed if isinstance(seed, int) else [seed[row] for row in rows]
            options: dict[str, Any] = {"seed": of_rows, "sample_ids": sample_ids[places], "prefix": given}
            options["pause"] = pause
            how = replace(decoding, max_length=most) if length else decoding
            found = self.autoencoder.generate(latents[places], how, **options)
            for row, tokens in zip(rows, found, strict=True):
                ids[row] = tokens
        return ids


class DocumentOperations(SelectionOperations, ABC):
    """The part of `TextDiffusionPipeline` that continues prompts."""

    sample_batches: Callable[..., Iterator[SampledLatents]]

    def check_prompt(
        self, prompt: object, max_new_tokens: object, options: dict[str, Any], best_of: object = 1
    ) -> None:
        """Refuses what a model without documents cannot do, and options that a block cannot have.

        Raises:
            ConfigError: the sentence names the option.
        """
        if not self.model.writes_documents:
            for name, value in (("prompt", prompt), ("max_new_tokens", max_new_tokens)):
                if value is not None:
                    raise ConfigError(
                        f"{name} is {shown(value)}, but this model was trained without documents; train one with "
                        "recipe=blocks dataset.documents=true."
                    )
            return
        check_given(max_new_tokens=max_new_tokens)
        if best_of != 1:
            raise ConfigError(
                f"best_of is {shown(best_of)}; a model that writes documents takes no best_of: leave it out."
            )
        for name in UNUSABLE:
            if options.get(name) is not None:
                raise ConfigError(f"{name} cannot be given to a model that writes documents; leave it out.")

    def _whole_documents(
        self, prompts: Sequence[str], count: int, batches: Iterator[TextDiffusionOutput]
    ) -> TextDiffusionOutput:
        """The blocks of all batches of `_write` joined to ``count`` texts."""
        texts, first, begun = [""] * count, [], set[int]()
        for batch in batches:
            rows = batch.rows.tolist()
            if begun.isdisjoint(rows):
                first.append(batch)
                begun.update(rows)
            for row, text in zip(rows, batch.texts, strict=True):
                texts[row] += text
        of_each = list(prompts) if len(prompts) == count else list(prompts) * count
        return TextDiffusionOutput(**vars(joined(first)), texts=texts, prompts=of_each)

    @torch.no_grad()
    def _write(
        self,
        prompts: Sequence[str],
        decoding: DecodingConfig,
        max_new_tokens: int,
        seed: int,
        sample_ids: Tensor,
        *,
        class_id: int | Sequence[int] | Tensor | None = None,
        class_name: str | None = None,
        guides: Guides | None = None,
        guide_scales: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Iterator[TextDiffusionOutput]:
        """Continues ``prompts`` (one, or one for each sample id): yields a block of every document that is not over.

        A document depends on its prompt, the seed and its sample id alone. ``options`` are those of `sample_batches`.
        """
        recipe = self.model.recipe
        class_ids = chosen_classes(self.model, self.statistics, class_id, class_name, seed, sample_ids)
        led = self._guide_targets(guides, guide_scales, len(sample_ids))
        decoding = replace(decoding, min_length=0)  # an empty block ends a document
        coder = BlockCoder(self.autoencoder, recipe["prefix_tokens"])
        most = recipe["context_blocks"]
        documents = coder.begin(prompts, len(sample_ids), most)
        number = 0
        while rows := [row for row, document in enumerate(documents) if not document.over]:
            active = [documents[row] for row in rows]
            context = coder.context(active, most)
            seed_of_block = block_seed(seed, number)
            kept = torch.tensor(rows, device=sample_ids.device)
            ids = sample_ids[kept]
            classes = None if class_ids is None else class_ids[kept]
            conditions: dict[str, Any] = {"blocks": context, "class_id": classes}
            conditions["guides"] = None if led is None else led.rows(kept)
            for batch in self.sample_batches(
                len(rows), seed=seed_of_block, sample_ids=ids, **conditions, **options
            ):
                places = batch.rows.tolist()
                of_batch = [active[place] for place in places]
                tokens = coder.decode(of_batch, batch.latents, decoding, seed_of_block, ids[batch.rows])
                texts = [
                    coder.writer.extend(document, row, max_new_tokens)
                    for document, row in zip(of_batch, tokens, strict=True)
                ]
                yield TextDiffusionOutput(batch.latents, batch.mask, batch.class_ids, kept[batch.rows], texts)
            number += 1
            if progress is not None:
                progress("write", sum(document.over for document in documents), len(documents))


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.warning(message)
