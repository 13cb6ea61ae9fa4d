"""`TextTokenizer`: the folder's tokenizer; every failure is one sentence."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer

from .errors import RuntimeInputError
from .folder_schema import TOKENIZER, TokenizerSettings
from .json_files import REMEDY, parse, size_of
from .tokenizer_checks import MOST_BYTES, check_ids, check_tokenizer


class TextTokenizer:
    """Encodes and decodes with ``tokenizer.json``.

    Args:
        vocabulary: number of tokens of the language model.
        limit: maximum number of tokens of an encoded text.

    Raises:
        RuntimeInputError: a file that cannot be read, or that belongs to another model.
    """

    def __init__(
        self, folder: Path, settings: TokenizerSettings, vocabulary: int, limit: int | None = None
    ) -> None:
        self._path, self._special = folder / TOKENIZER, frozenset(settings.special_ids)
        self._check(vocabulary)
        with self._one_sentence("cannot be read"):
            self._tokenizer = Tokenizer.from_file(str(self._path))
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            if limit is not None:
                self._tokenizer.enable_truncation(limit)
            self._tokenizer.encode_special_tokens = settings.encode_special_tokens
            unknown = [token for token in self._special if self._tokenizer.id_to_token(token) is None]
        if unknown:
            raise RuntimeInputError(
                f"{self._path} has no token {min(unknown)}, which is among tokenizer.special_ids; {REMEDY}."
            )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, special ones included, truncated to the limit."""
        with self._one_sentence("cannot encode these texts"):
            return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without special ones."""
        with self._one_sentence("cannot encode these texts"):
            found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in found]

    def decode_plain(self, ids: Sequence[int]) -> str:
        """The text of token ids without special ones, nothing stripped."""
        with self._one_sentence("cannot decode its own tokens"):
            return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def without_special(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """The rows without special tokens."""
        return [[token for token in row if token not in self._special] for row in rows]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of token ids, stripped and without special tokens."""
        kept = self.without_special(rows)
        with self._one_sentence("cannot decode its own tokens"):
            return [text.strip() for text in self._tokenizer.decode_batch(kept, skip_special_tokens=True)]

    def _check(self, vocabulary: int) -> None:
        """Checks the file before the library allocates memory for it."""
        if (size := size_of(self._path)) > MOST_BYTES:
            raise RuntimeInputError(
                f"{self._path} has {size} bytes, more than the {MOST_BYTES} that are read; {REMEDY}."
            )
        try:
            content = parse(self._path.read_text(encoding="utf-8"))
            check_tokenizer(content)
            check_ids(content, vocabulary)
        except (OSError, ValueError) as error:
            raise RuntimeInputError(f"{self._path} cannot be read: {error}; {REMEDY}.") from error

    @contextmanager
    def _one_sentence(self, what: str) -> Iterator[None]:
        """Raises the library's errors, which include panics that are not Exceptions, as one sentence."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
                raise
            raise RuntimeInputError(f"{self._path} {what} ({error}); {REMEDY}.") from error
