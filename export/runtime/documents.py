"""Documents as blocks of text: cut into blocks, begun by a prompt, gone on with block by block.

A block is an exact part of its document, so the blocks of a document joined give the document back.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from .errors import RuntimeInputError
from .option_checks import elements, shown, text_complaint

MAX_NEW_TOKENS = 512  # of a document that does not end by itself
PREFIX_STEP = 16  # documents whose prefixes are of one length are decoded together
SEED_STEP = 0x9E3779B97F4A7C15  # between the random numbers of one block and the next

# After the end of a sentence with its closing quotes, or at a line break; white space goes with the next sentence.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|(?=\n)(?<!\n)")
_WORD = re.compile(r"\s*\S+")
_SPACES, _BREAKS = re.compile(r"[^\S\n]+"), re.compile(r"\s*\n\s*\n\s*")

Counter = Callable[[Sequence[str]], Sequence[int]]
"""Texts to their numbers of tokens, special tokens not counted."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of several documents: document i has ``texts[offsets[i] : offsets[i + 1]]``.

    ``offsets``: int64 (documents + 1,).
    """

    texts: list[str]
    offsets: np.ndarray


def tidied(document: str) -> str:
    """A document with single spaces, single line breaks, and empty lines between paragraphs."""
    document = _SPACES.sub(" ", document.strip())
    return _BREAKS.sub("\n\n", document).replace(" \n", "\n").replace("\n ", "\n")


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space before it; joined they are the text."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    places = sorted({0, *ends, len(text)})
    whole: list[str] = []
    for part in (text[start:end] for start, end in pairwise(places)):
        if part.isspace() and whole:
            whole[-1] += part
        else:
            whole.append(part)
    return whole


def ends_with_sentence(text: str) -> bool:
    """Whether nothing more is needed to end the last sentence of a text."""
    return re.search(r"[.!?…][\"'”’)\]]*\s*$", text) is not None


def cut_into_blocks(documents: Sequence[str], count: Counter, max_tokens: int) -> Blocks:
    """Packs whole sentences into blocks of at most ``max_tokens`` tokens; a longer sentence is cut between words.

    Args:
        documents: their white space as `tidied` leaves it.
        count: numbers of tokens without special tokens; of a text about the sum of those of its parts.
    """
    pieces = [sentences(document) for document in documents]
    lengths = iter(count([piece for parts in pieces for piece in parts]))
    texts: list[str] = []
    sizes: list[int] = []
    for parts in pieces:
        counted = [(piece, next(lengths)) for piece in parts]
        blocks = list(_packed(_shortened(counted, count, max_tokens), max_tokens))
        texts += blocks
        sizes.append(len(blocks))
    offsets = np.fromiter(accumulate(sizes, initial=0), dtype=np.int64)
    return _within(Blocks(texts, offsets), count, max_tokens)


def _shortened(
    pieces: Sequence[tuple[str, int]], count: Counter, max_tokens: int
) -> Iterator[tuple[str, int]]:
    """The pieces, those that are too long as words, and words that are too long as halves."""
    for piece, length in pieces:
        if length <= max_tokens:
            yield piece, length
            continue
        words = _WORD.findall(piece)
        words[-1] += piece[sum(map(len, words)) :]
        parts = words if len(words) > 1 else [piece[: len(piece) // 2], piece[len(piece) // 2 :]]
        if len(piece) == 1:  # a character of many bytes
            yield piece, max_tokens
            continue
        yield from _shortened(list(zip(parts, count(parts), strict=True)), count, max_tokens)


def _packed(pieces: Iterator[tuple[str, int]], max_tokens: int) -> Iterator[str]:
    block, size = "", 0
    for piece, length in pieces:
        if block and size + length > max_tokens:
            yield block
            block, size = "", 0
        block, size = block + piece, size + length
    if block:
        yield block


def _within(blocks: Blocks, count: Counter, max_tokens: int) -> Blocks:
    """The blocks, where those that became longer than the sum of their parts are cut in two."""
    over = {i for i, length in enumerate(count(blocks.texts)) if length > max_tokens}
    if not over:
        return blocks
    texts: list[str] = []
    added = np.zeros(len(blocks.texts) + 1, dtype=np.int64)
    for i, text in enumerate(blocks.texts):
        words = _WORD.findall(text)
        if i in over and len(words) > 1:
            middle = len("".join(words[: len(words) // 2]))
            texts += [text[:middle], text[middle:]]
            added[i + 1] = 1
        else:
            texts.append(text)
    if len(texts) == len(blocks.texts):
        return blocks
    return _within(Blocks(texts, blocks.offsets + added.cumsum()[blocks.offsets]), count, max_tokens)


def check_prompts(prompt: object, num_samples: int | None) -> tuple[list[str], int]:
    """One prompt of all samples or one of each, and the number of samples, by default that of the prompts.

    Raises:
        RuntimeInputError: prompts that are no texts, or of another number than the samples.
    """
    given = [""] if prompt is None else [prompt] if isinstance(prompt, str) else elements(prompt)
    if given is None or not given:
        raise RuntimeInputError(f"prompt is {shown(prompt)}; give a text or a list of them.")
    for place, text in enumerate(given):
        name = f"prompt[{place}]" if len(given) > 1 else "prompt"
        if sentence := text_complaint(name, text):
            raise RuntimeInputError(sentence)
    count = len(given) if num_samples is None else num_samples
    if len(given) not in (1, count):
        raise RuntimeInputError(
            f"{len(given)} prompts were given for {count} samples; give one prompt, or one for each sample."
        )
    return list(given), count


def block_seed(seed: int, number: int) -> int:
    """The seed of a document's block ``number``."""
    return (seed + number * SEED_STEP) % 2**64


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


class DocumentWriter:
    """Begins documents with prompts and appends decoded blocks to them.

    Args:
        encode: texts to token ids without special tokens.
        decode: token ids to their text, nothing stripped.
        room: most tokens of a block without special ones.
        num_prefix: how many tokens before a block the text decoder reads first.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], list[list[int]]],
        decode: Callable[[Sequence[int]], str],
        room: int,
        num_prefix: int,
    ) -> None:
        self.encode, self.decode, self.room, self.num_prefix = encode, decode, room, num_prefix
        # What a block begins with where the tokenizer drops it.
        self.space = "" if decode(encode([" a"])[0]).startswith(" ") else " "

    def count(self, texts: Sequence[str]) -> list[int]:
        """Numbers of tokens without special ones."""
        return [len(row) for row in self.encode(texts)]

    def begin(self, prompt: str) -> Document:
        """A document that has got as far as ``prompt``, whose last block may be gone on with."""
        text = tidied(prompt)
        if not text:
            return Document([], continues=False)
        blocks = cut_into_blocks([text], self.count, self.room).texts
        half = self.count(blocks[-1:])[0] <= self.room // 2
        return Document(blocks, continues=half or not ends_with_sentence(text))

    def prefix(self, document: Document) -> list[int]:
        """The last tokens of a document, which the decoder reads first; none at its beginning."""
        if not document.blocks or not self.num_prefix:
            return []
        ids: list[int] = []
        for block in reversed(document.blocks):
            if len(ids) >= self.num_prefix:
                break
            ids = self.encode([block])[0] + ids
        ids = ids[-self.num_prefix :]
        return ids[len(ids) % PREFIX_STEP if len(ids) > PREFIX_STEP else 0 :]

    def extend(self, document: Document, ids: Sequence[int], max_new_tokens: int) -> str:
        """Appends a block and returns its text; an empty one, or enough tokens, ends the document."""
        ids = ids[: max_new_tokens - document.num_tokens]
        text = self.decode(ids)
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
