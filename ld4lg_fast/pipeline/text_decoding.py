"""`DecodeQueue`: latents that wait to become texts, decoded in batches whoever asked for them.

Letters: B samples, N latent positions, d latent width.
"""

from collections.abc import Callable, Sequence
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
# Steps that latents wait for those of other samples; less if their request shows texts as they form.
PATIENCE, PATIENCE_SHOWN = 2, 1
LARGEST = 32  # texts of a batch
INTERRUPTED = 8  # texts from which on a batch is interrupted; fewer take little longer than one
FEW = 1 / 4  # of a batch: it does not wait for so few others, and so few do not wait for its end

logger = get_logger("ld4lg_fast")


@dataclass(frozen=True)
class Undecoded:
    """Latents (N, d) of a sample: the final ones, or where ``shown``, those predicted after ``steps`` steps in all.

    ``since``: steps of the engine when they came.
    """

    sample: Sample
    latents: Tensor
    steps: int
    shown: bool
    since: int

    @property
    def patience(self) -> int:
        """Steps that they wait for others: none of an express sample, or if their request has not shown anything."""
        if self.sample.express:
            return 0
        if not self.sample.show_steps:
            return PATIENCE
        is_first = self.shown and self.steps == min(self.sample.show_steps)
        return 0 if is_first else PATIENCE_SHOWN


class DecodeQueue:
    """Decodes latents in the order in which they come, with those behind that are decoded in the same way.

    The first texts that requests show, and those of express samples, go before all others. A large batch is
    interrupted: between its tokens samples are denoised, and a few texts are decoded.
    """

    def __init__(self, pipe: TextDiffusionPipeline) -> None:
        self.pipe, self.autoencoder = pipe, pipe.autoencoder
        self.waiting: list[Undecoded] = []
        self.interrupted: Sequence[Undecoded] = ()
        self.num_finished = 0
        self.largest = LARGEST

    def __len__(self) -> int:
        return len(self.waiting)

    def samples(self) -> list[Sample]:
        """Those whose latents wait."""
        return [each.sample for each in self.waiting]

    def add(self, latents: dict[Sample, Tensor], shown: bool, steps: int) -> None:
        """Adds latents (N, d) of samples after so many steps of the engine."""
        self.waiting += [
            Undecoded(sample, each, sample.steps_in_all, shown, steps) for sample, each in latents.items()
        ]

    def is_due(self, steps: int, ending: Callable[[int], int]) -> bool:
        """Whether to decode a batch after so many steps of the engine; ``ending``: samples that end in as many more.

        A batch costs little more than a single text, so latents wait for those that are finished soon.
        """
        if not (ready := self._ready()):
            return False
        if self.interrupted and len(ready) > FEW * len(self.interrupted):
            return False
        left = min(each.since + each.patience for each in ready) - steps
        return left <= 0 or len(ready) >= self.largest or ending(left) < FEW * len(ready)

    def _ready(self) -> list[Undecoded]:
        """The latents that may be decoded next."""
        # Of a sample in the interrupted batch none, else its events would lose their order.
        begun = {each.sample for each in self.interrupted}
        self.waiting = [each for each in self.waiting if not each.sample.ticket.closed]
        ready = [each for each in self.waiting if each.sample not in begun]
        least = min((each.patience for each in ready), default=0)
        urgent = [each for each in ready if each.patience == least]
        return urgent if self.interrupted or not least else ready

    def decode(self, pause: Callable[[], object] | None) -> list[Sample]:
        """Decodes a batch and sends its events; returns the samples that go on with the next block of a document.

        ``pause`` is called between the tokens of a large batch and may call this, without one.
        """
        if not (ready := self._ready()):
            return []
        how = ready[0].sample.decoding
        batch = [each for each in ready if each.sample.decoding == how][: self.largest]
        taken = set(map(id, batch))
        self.waiting = [each for each in self.waiting if id(each) not in taken]
        if pause is None or len(batch) < INTERRUPTED:
            return self._sent(batch, self._tokens(batch, None))
        self.interrupted = batch
        try:
            found = self._tokens(batch, pause)
        finally:
            self.interrupted = ()
        return self._sent(batch, found)

    def _sent(self, batch: Sequence[Undecoded], found: Sequence[list[int] | None]) -> list[Sample]:
        """Sends the events of texts by their tokens; returns the samples whose documents go on."""
        going_on = []
        for each, tokens in zip(batch, found, strict=True):
            if tokens is not None and self._send(each, tokens):
                each.sample.begin_next_block()
                going_on.append(each.sample)
        return going_on

    def _tokens(
        self, batch: Sequence[Undecoded], pause: Callable[[], object] | None
    ) -> list[list[int] | None]:
        """Token ids of each; where a batch fails it is halved, and a single text that fails, None, ends its request."""
        try:
            return list(self._generate(batch, pause))
        except Exception as error:
            if len(batch) == 1:
                batch[0].sample.ticket.send(Failed(sentence_of(error, batch[0].latents.device)))
                return [None]
            if isinstance(error, RuntimeError) and out_of_memory(error):
                self.largest = len(batch) // 2
            middle = len(batch) // 2
            return self._tokens(batch[:middle], pause) + self._tokens(batch[middle:], pause)

    def _generate(self, batch: Sequence[Undecoded], pause: Callable[[], object] | None) -> list[list[int]]:
        samples = [each.sample for each in batch]
        latents = torch.stack([each.latents for each in batch])
        ids = torch.tensor([sample.sample_id for sample in samples], device=latents.device)
        seeds, how = [sample.block_seed for sample in samples], samples[0].decoding
        documents = [sample.document for sample in samples if sample.document is not None]
        if documents and (coder := samples[0].coder) is not None:
            return coder.decode(documents, latents, how, seeds, ids, pause)
        lengths, mask = [sample.length for sample in samples if sample.length is not None], None
        if lengths:
            places = torch.arange(latents.shape[1], device=latents.device)
            mask = places < torch.tensor(lengths, device=latents.device)[:, None]
        return self.autoencoder.generate(latents, how, seed=seeds, sample_ids=ids, mask=mask, pause=pause)

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
