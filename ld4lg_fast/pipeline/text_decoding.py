"""`DecodeQueue`: latents that wait to become texts, decoded in batches whoever asked for them.

Letters: B samples, N latent positions, d latent width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ld4lg_fast.engine.engine import halved, out_of_memory
from ld4lg_fast.errors import ConfigError, LD4LGError
from ld4lg_fast.export.runtime.events import Failed, Finished, Partial
from ld4lg_fast.export.runtime.text_display import get_logger
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.requests import Sample

# Measured with 8 and 32 clients, 5 to 11 steps and the model that ships, on one core: each step more that latents wait
# for others gives some 8 % more texts a second and later first events; 32 texts take 2.7 times as long as one.
# Steps that latents wait while samples are denoised; less if any of them are to be shown.
PATIENCE, PATIENCE_SHOWN = 2, 1
LARGEST = 32  # texts of a batch, as no sample is denoised meanwhile

logger = get_logger("ld4lg_fast")


@dataclass(frozen=True)
class Undecoded:
    """Latents (N, d) of a sample: the final ones, or where ``shown``, those predicted after ``steps`` steps in all."""

    sample: Sample
    latents: Tensor
    steps: int
    shown: bool


class DecodeQueue:
    """Decodes latents in the order in which they come, with those behind that are decoded in the same way."""

    def __init__(self, pipe: TextDiffusionPipeline) -> None:
        self.pipe, self.autoencoder = pipe, pipe.autoencoder
        self.waiting: list[Undecoded] = []
        self.steps_waited, self.num_finished = 0, 0
        self.largest = LARGEST

    def __len__(self) -> int:
        return len(self.waiting)

    def samples(self) -> list[Sample]:
        """Those whose latents wait."""
        return [each.sample for each in self.waiting]

    def add(self, latents: dict[Sample, Tensor], shown: bool) -> None:
        """Adds latents (N, d) of samples."""
        self.waiting += [
            Undecoded(sample, each, sample.steps_in_all, shown) for sample, each in latents.items()
        ]

    def is_due(self, running: int) -> bool:
        """Whether to decode a batch now, while so many samples are denoised; asked once a step.

        A batch costs little more than a single text, so latents wait for those that are finished soon.
        """
        if not self.waiting:
            return False
        self.steps_waited += 1
        patience = PATIENCE_SHOWN if any(each.shown for each in self.waiting) else PATIENCE
        return not running or self.steps_waited > patience or len(self.waiting) >= self.largest

    def decode(self) -> list[Sample]:
        """Decodes a batch and sends its events; returns the samples that go on with the next block of a document."""
        self.steps_waited = 0
        self.waiting = [each for each in self.waiting if not each.sample.ticket.closed]
        if not self.waiting:
            return []
        how = self.waiting[0].sample.decoding
        batch = [each for each in self.waiting if each.sample.decoding == how][: self.largest]
        taken = set(map(id, batch))
        self.waiting = [each for each in self.waiting if id(each) not in taken]
        going_on = []
        for each, tokens in zip(batch, self._tokens(batch), strict=True):
            if tokens is not None and self._send(each, tokens):
                each.sample.begin_next_block()
                going_on.append(each.sample)
        return going_on

    def _tokens(self, batch: Sequence[Undecoded]) -> list[list[int] | None]:
        """Token ids of each; where a batch fails it is halved, and a single text that fails, None, ends its request."""
        try:
            return list(self._generate(batch))
        except Exception as error:
            if len(batch) == 1:
                batch[0].sample.ticket.send(Failed(sentence_of(error, batch[0].latents.device)))
                return [None]
            if isinstance(error, RuntimeError) and out_of_memory(error):
                self.largest = len(batch) // 2
            middle = len(batch) // 2
            return self._tokens(batch[:middle]) + self._tokens(batch[middle:])

    def _generate(self, batch: Sequence[Undecoded]) -> list[list[int]]:
        samples = [each.sample for each in batch]
        latents = torch.stack([each.latents for each in batch])
        ids = torch.tensor([sample.sample_id for sample in samples], device=latents.device)
        seeds, how = [sample.block_seed for sample in samples], samples[0].decoding
        documents = [sample.document for sample in samples if sample.document is not None]
        if documents and (coder := samples[0].coder) is not None:
            return coder.decode(documents, latents, how, seeds, ids)
        lengths, mask = [sample.length for sample in samples if sample.length is not None], None
        if lengths:
            places = torch.arange(latents.shape[1], device=latents.device)
            mask = places < torch.tensor(lengths, device=latents.device)[:, None]
        return self.autoencoder.generate(latents, how, seed=seeds, sample_ids=ids, mask=mask)

    def _send(self, each: Undecoded, tokens: list[int]) -> bool:
        """Sends the event of a text; True if its document goes on."""
        sample, document = each.sample, each.sample.document
        if document is None or sample.coder is None:
            (text,) = self.autoencoder.decode_text([tokens])
            cut = len(tokens) >= self._most_tokens(sample)
        elif each.shown:
            text, cut = document.written + sample.coder.writer.decode(tokens), False
        else:
            sample.coder.writer.extend(document, tokens, sample.max_new_tokens)
            text, cut = document.written, document.num_tokens >= sample.max_new_tokens
        goes_on = document is not None and not document.over and not each.shown
        if each.shown or goes_on:
            sample.ticket.send(Partial(sample.number, each.steps, text))
        else:
            self.num_finished += 1
            sample.ticket.send(Finished(sample.number, text, "length" if cut else "stop"))
        return goes_on

    def _most_tokens(self, sample: Sample) -> int:
        """Tokens of a text that was cut off: all but the start token and the special ones."""
        most = sample.decoding.max_length or self.autoencoder.max_len
        return most - 1 - self.autoencoder.tokenizer.num_special_tokens_to_add()


def sentence_of(error: Exception, device: torch.device) -> str:
    """The sentence of a `Failed`; an error that is no user's is logged with its traceback."""
    if isinstance(error, RuntimeError) and out_of_memory(error):
        try:
            halved(1, device, error)
        except ConfigError as said:
            return str(said)
    if isinstance(error, LD4LGError):
        return str(error)
    logger.error("a request failed", exc_info=error)
    return f"The engine failed on this request ({type(error).__name__}: {error}); its log has more."
