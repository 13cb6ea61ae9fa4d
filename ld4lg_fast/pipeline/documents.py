"""Writes documents block by block, each conditioned on the latents of the blocks before it (recipe ``blocks``).

Letters: B documents, K context blocks, N latents, d latent width, P prefix tokens.
"""

import copy
from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import collate, tokenize_texts
from ld4lg_fast.data.documents import cut_into_blocks, ends_with_sentence, tidied
from ld4lg_fast.data.tokenization import encoding, special_tokens_around, token_counts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.export.runtime.text_display import get_logger
from ld4lg_fast.models.context_encoder import BlockContext
from ld4lg_fast.options.checks import check_given, check_options, text_list
from ld4lg_fast.pipeline.outputs import Progress, SampledLatents, TextDiffusionOutput
from ld4lg_fast.pipeline.selection import SelectionOperations

MAX_NEW_TOKENS = 512  # of a document that does not end by itself
SEED_STEP = 0x9E3779B97F4A7C15  # between the random numbers of one block and the next
UNUSABLE = ("source", "start", "lengths")  # options of a call that a block cannot have

logger = get_logger("ld4lg_fast")
_said: set[str] = set()


@dataclass
class Document:
    """What there is of a document: the prompt's blocks and those that were written.

    ``continues``: the last block breaks off, and the next one goes on with it. ``written``: the new text.
    """

    blocks: list[str]
    continues: bool
    written: str = ""
    num_tokens: int = 0
    over: bool = False


def prompt_list(prompt: str | Sequence[str] | None, num_samples: int | None) -> tuple[list[str], int]:
    """One prompt of all samples or one of each, and the number of samples, by default that of the prompts.

    Raises:
        ConfigError: prompts that are no texts, or of another number than the samples.
    """
    if num_samples is not None:
        (num_samples,) = check_options(num_samples=num_samples)
    if prompt is None:
        return [""], 1 if num_samples is None else num_samples
    prompts = [prompt] if isinstance(prompt, str) else list(text_list("prompt", prompt))
    count = len(prompts) if num_samples is None else num_samples
    if len(prompts) not in (1, count):
        raise ConfigError(
            f"{len(prompts)} prompts were given for num_samples={count}; give one prompt, or one for each sample."
        )
    return prompts, count


class BlockCoder:
    """A language autoencoder as documents need it: texts to blocks and latents, latents to the texts that go on."""

    def __init__(self, autoencoder: LanguageAutoencoder, num_prefix: int) -> None:
        self.autoencoder, self.tokenizer, self.num_prefix = autoencoder, autoencoder.tokenizer, num_prefix
        self.before, _ = special_tokens_around("a", self.tokenizer)
        self.room = autoencoder.max_len - self.tokenizer.num_special_tokens_to_add()
        alone = self.tokenizer.decode(self.ids(" a"), clean_up_tokenization_spaces=False)
        self.space = (
            "" if alone.startswith(" ") else " "
        )  # what a block begins with where the tokenizer drops it
        self._latents: dict[str, Tensor] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        with encoding([text]):
            return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def count(self, texts: Sequence[str]) -> list[int]:
        return token_counts(texts, self.tokenizer)

    def begin(self, prompt: str) -> Document:
        """A document that has got as far as ``prompt``, whose last block may be gone on with."""
        text = tidied(prompt)
        if not text:
            return Document([], continues=False)
        blocks = cut_into_blocks([text], self.count, self.room).texts
        half = self.count(blocks[-1:])[0] <= self.room // 2
        return Document(blocks, continues=half or not ends_with_sentence(text))

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

    def context(self, documents: Sequence[Document], most: int) -> BlockContext:
        """The last ``most`` blocks of each document."""
        seen = [document.blocks[-most:] for document in documents]
        found = self.latents([text for blocks in seen for text in blocks]) if any(seen) else None
        shape = (len(seen), most, self.autoencoder.num_latents, self.autoencoder.dim_latent)
        device = next(self.autoencoder.parameters()).device
        latents, place = torch.zeros(shape, device=device), 0
        for row, blocks in enumerate(seen):
            if blocks and found is not None:
                latents[row, most - len(blocks) :] = found[place : place + len(blocks)]
                place += len(blocks)

        def flags(values: Sequence[bool]) -> Tensor:
            return torch.tensor(values, dtype=torch.bool, device=device)

        return BlockContext(
            latents,
            torch.tensor([len(blocks) for blocks in seen], device=device),
            flags([len(document.blocks) <= most for document in documents]),
            flags([document.continues for document in documents]),
        )

    def prefix(self, document: Document) -> list[int]:
        """The last tokens of a document, which the decoder reads first; none at its beginning."""
        if not document.blocks or not self.num_prefix:
            return []
        return self.ids("".join(document.blocks[-2:]))[-self.num_prefix :]

    def decode(
        self,
        documents: Sequence[Document],
        latents: Tensor,
        decoding: DecodingConfig,
        seed: int,
        sample_ids: Tensor,
    ) -> list[list[int]]:
        """Token ids of the block of each document, decoded from its latents (B, N, d)."""
        opening = self.tokenizer("")["input_ids"][: self.before]
        prefixes = [self.prefix(document) for document in documents]
        ids: list[list[int]] = [[]] * len(documents)
        for length in set(map(len, prefixes)):
            rows = [row for row, prefix in enumerate(prefixes) if len(prefix) == length]
            given = None
            if length:
                given = torch.tensor([opening + prefixes[row] for row in rows], device=latents.device)
            places = torch.tensor(rows, device=latents.device)
            options: dict[str, Any] = {"seed": seed, "sample_ids": sample_ids[places], "prefix": given}
            for row, found in zip(
                rows, self.autoencoder.generate(latents[places], decoding, **options), strict=True
            ):
                ids[row] = found
        return ids

    def extend(self, document: Document, ids: list[int], max_new_tokens: int) -> str:
        """Writes a block on, and returns its text; an empty one, or enough tokens, ends the document."""
        ids = ids[: max_new_tokens - document.num_tokens]
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if not text.strip():
            document.over = True
            return ""
        if self.space and document.blocks and not document.continues:
            text = self.space + text
        joined = document.blocks[-1] + text if document.continues else ""
        if joined and self.count([joined])[0] <= self.room:
            document.blocks[-1] = joined
        else:
            document.blocks.append(text)
        document.continues = False
        document.written += text
        document.num_tokens += len(ids)
        document.over = document.num_tokens >= max_new_tokens
        return text


class DocumentOperations(SelectionOperations, ABC):
    """The part of `TextDiffusionPipeline` that continues prompts."""

    sample_batches: Callable[..., Iterator[SampledLatents]]

    def check_prompt(self, prompt: object, max_new_tokens: object, options: dict[str, Any]) -> None:
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
        for name in UNUSABLE:
            if options.get(name) is not None:
                raise ConfigError(f"{name} cannot be given to a model that writes documents; leave it out.")

    @torch.no_grad()
    def write(
        self,
        prompts: Sequence[str],
        decoding: DecodingConfig,
        max_new_tokens: int,
        seed: int,
        sample_ids: Tensor,
        class_ids: Tensor | None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Iterator[TextDiffusionOutput]:
        """Continues ``prompts`` (one, or one for each sample id): yields a block of every document that is not over.

        A document depends on its prompt, the seed and its sample id alone. ``options`` are those of `sample_batches`.
        """
        recipe = self.model.recipe
        coder = BlockCoder(self.autoencoder, recipe["prefix_tokens"])
        begun = [coder.begin(prompt) for prompt in prompts]
        # One prompt of all samples is read once.
        documents = begun if len(begun) == len(sample_ids) else [copy.deepcopy(begun[0]) for _ in sample_ids]
        most = recipe["context_blocks"]
        if any(len(document.blocks) > most for document in documents):
            _say_once(f"Of a prompt of more than {most} blocks this model reads the last {most} alone.")
        number = 0
        while rows := [row for row, document in enumerate(documents) if not document.over]:
            active = [documents[row] for row in rows]
            context = coder.context(active, most)
            block_seed = (seed + number * SEED_STEP) % 2**64
            kept = torch.tensor(rows, device=sample_ids.device)
            ids = sample_ids[kept]
            classes = None if class_ids is None else class_ids[kept]
            conditions: dict[str, Any] = {"blocks": context, "class_id": classes}
            for batch in self.sample_batches(
                len(rows), seed=block_seed, sample_ids=ids, **conditions, **options
            ):
                places = batch.rows.tolist()
                of_batch = [active[place] for place in places]
                tokens = coder.decode(of_batch, batch.latents, decoding, block_seed, ids[batch.rows])
                texts = [
                    coder.extend(document, row, max_new_tokens)
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
