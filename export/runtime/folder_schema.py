"""`FolderConfig`: the schema of an exported folder's ``config.json``, used for writing and reading."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .decoding import MOST_TOKENS, TOKEN, DecodingRules
from .errors import RuntimeInputError
from .guide_options import NAME
from .option_checks import OPTIONS, Choice, Number, Switch, Text, WholeNumber, too_many_for_a_file
from .records import ListOf, Maybe, TableOf, key, parse
from .sampling import OBJECTIVES, SAMPLERS
from .schedules import SPACINGS, is_schedule_name

FORMAT = 2
PRECISIONS = ("float32", "float16", "bfloat16", "int8")
GRAPHS = ("denoiser", "latents", "decoder", "cache")
TOKENIZER, RUNTIME, GUIDES = "tokenizer.json", "ld4lg_runtime", "guides.bin"
DISCRETE_SCHEDULES = ("linear", "cosine", "sqrt")
PROOFS = ("vocab_size", "sha256", "digest")  # keys that folders of version 0.1.0 lack, all of them

MOST_NUMBERS = 2**22  # of one sample's latents
COUNT = WholeNumber(0, 2**53)
SIZE = WholeNumber(1, 2**16)
CLASSES = 100_000


class FileName:
    """The name of a file in the folder or in its runtime, never a path out of it."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and bool(
            re.fullmatch(rf"({RUNTIME}/(serving/)?)?[A-Za-z0-9_][A-Za-z0-9_.-]{{0,99}}", value)
        )

    def __str__(self) -> str:
        return "the plain name of a file in the folder"


class Sha256:
    """A checksum in hexadecimal digits."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))

    def __str__(self) -> str:
        return "the 64 hexadecimal digits of a SHA-256"


@dataclass(frozen=True)
class TokenizerSettings:
    """Token ids that are left out of texts, and whether special tokens in a source text are encoded as text."""

    special_ids: tuple[int, ...] = key(ListOf(TOKEN, 10_000))
    encode_special_tokens: bool = key(Switch())


@dataclass(frozen=True)
class Source:
    """Of sequence-to-sequence models: the maximum number of tokens of a source text."""

    max_len: int = key(WholeNumber(1, MOST_TOKENS))


@dataclass(frozen=True)
class Documents:
    """Of models that go on with prompts.

    Args:
        context_blocks: the most blocks that are seen before the one that is written.
        block_tokens: the most tokens of a block, without special ones.
        prefix_tokens: how many tokens before a block the decoder reads first. between: special tokens between them and
            the block.
    """

    context_blocks: int = key(WholeNumber(1, 64))
    block_tokens: int = key(WholeNumber(1, MOST_TOKENS))
    prefix_tokens: int = key(WholeNumber(0, 4096))
    between: tuple[int, ...] = key(ListOf(TOKEN, 8))


@dataclass(frozen=True)
class Quality:
    """A preset; ``sampler`` None is the recipe's."""

    sampler: str | None = key(Maybe(Choice(SAMPLERS)))
    num_steps: int = key(WholeNumber(1, 10_000))
    spacing: str = key(Choice(SPACINGS))


@dataclass(frozen=True)
class Schedule:
    """Noise schedule: continuous with ``scale``, or recipe v1's table ``alphas_cumprod``."""

    name: str = key(Text())
    learned_times: tuple[float, ...] | None = key(Maybe(ListOf(Number(0, 1), 10_001, least=2)))
    scale: float | None = key(Number(1e-6, 1e6), optional=True, default=None)
    alphas_cumprod: tuple[float, ...] | None = key(
        ListOf(Number(0, 1, above=True), 100_000, least=1), optional=True, default=None
    )

    def levels(self) -> dict[str, Any]:
        """The entries for `schedules.sampling_grid`."""
        unused = "scale" if self.scale is None else "alphas_cumprod"
        return {name: value for name, value in asdict(self).items() if name != unused}


@dataclass(frozen=True)
class Diffusion:
    """The denoiser, its diffusion process, and the statistics of its latents."""

    objective: str = key(Choice(OBJECTIVES))
    schedule: Schedule = key(Schedule)
    sampler: str = key(Choice(SAMPLERS))
    guidance_scale: float = key(OPTIONS["guidance_scale"])
    num_latents: int = key(SIZE)
    dim_latent: int = key(SIZE)
    has_mask: bool = key(Switch())
    self_condition: bool = key(Switch())
    num_classes: int = key(WholeNumber(0, CLASSES))
    class_modulates: bool = key(Switch())
    default_class: int | None = key(Maybe(WholeNumber(0, CLASSES)))
    project: bool = key(Switch())
    divisor: float = key(Number(0, 1e6, above=True))
    mean: tuple[float, ...] = key(ListOf(Number(-1e6, 1e6), SIZE.most))


@dataclass(frozen=True)
class Statistics:
    """Lengths and classes of the training texts."""

    length_counts: tuple[int, ...] = key(ListOf(COUNT, MOST_TOKENS + 1))
    class_names: tuple[str, ...] | None = key(Maybe(ListOf(Text(), CLASSES)))
    class_counts: tuple[int, ...] | None = key(Maybe(ListOf(COUNT, CLASSES)))


class GuideName:
    """The name of a guide."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and bool(NAME.fullmatch(value))

    def __str__(self) -> str:
        return "a letter and at most 63 letters, digits, _ or -"


@dataclass(frozen=True)
class GuideEntry:
    """A guide: its classes (None: it is of a number), and the sizes of its arrays in `GUIDES`."""

    classes: tuple[str, ...] | None = key(Maybe(ListOf(Text(), 1000, least=1)))
    num_hidden: int = key(SIZE)
    num_outputs: int = key(WholeNumber(1, 1001))
    num_levels: int = key(WholeNumber(1, 1000))


@dataclass(frozen=True)
class FolderConfig:
    """All that the runtime needs besides the graphs.

    Args:
        vocab_size: of the language model. files, sha256: sizes and checksums of the other files. digest: the
            checksum of everything else in ``config.json``, see `digest_of`.

    Raises:
        RuntimeInputError: keys that contradict each other.
    """

    format: int = key(WholeNumber(FORMAT, FORMAT))
    written_by: str = key(Text())
    precision: str = key(Choice(PRECISIONS))
    opset: int = key(WholeNumber(1, 1000))
    max_len: int = key(WholeNumber(2, MOST_TOKENS))
    generation: DecodingRules = key(DecodingRules)
    tokenizer: TokenizerSettings = key(TokenizerSettings)
    source: Source | None = key(Maybe(Source))
    qualities: Mapping[str, Quality] = key(TableOf(Quality, 100))
    diffusion: Diffusion = key(Diffusion)
    statistics: Statistics = key(Statistics)
    files: Mapping[str, int] = key(TableOf(WholeNumber(0, 2**50), 1000, FileName()))
    vocab_size: int | None = key(WholeNumber(1, 2**24), optional=True, default=None)
    sha256: Mapping[str, str] | None = key(TableOf(Sha256(), 1000, FileName()), optional=True, default=None)
    digest: str | None = key(Sha256(), optional=True, default=None)
    documents: Documents | None = key(Maybe(Documents), optional=True, default=None)
    guides: Mapping[str, GuideEntry] | None = key(
        Maybe(TableOf(GuideEntry, 1000, GuideName())), optional=True, default=None
    )

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs of the folder."""
        return (
            *GRAPHS,
            *["source"] * (self.source is not None),
            *["encoder", "context"] * (self.documents is not None),
        )

    def __post_init__(self) -> None:
        for holds, sentence in _relations(self):
            if not holds:
                raise RuntimeInputError(sentence)


def _relations(config: FolderConfig) -> Iterator[tuple[bool, str]]:
    """Conditions between keys, each with the sentence for its violation."""
    diffusion, statistics, schedule = config.diffusion, config.statistics, config.diffusion.schedule
    classes, latents = diffusion.num_classes, diffusion.num_latents
    numbers = latents * diffusion.dim_latent
    yield (
        numbers <= MOST_NUMBERS,
        f"diffusion.num_latents times diffusion.dim_latent is {numbers}; it must be at most {MOST_NUMBERS}.",
    )
    yield (
        len(diffusion.mean) == diffusion.dim_latent,
        f"diffusion.mean has {len(diffusion.mean)} entries; it must have diffusion.dim_latent, {diffusion.dim_latent}.",
    )
    yield (
        (schedule.scale is None) != (schedule.alphas_cumprod is None),
        "diffusion.schedule must have either scale or alphas_cumprod.",
    )
    yield (
        not (config.documents and (config.source or diffusion.has_mask)),
        "documents exclude source and diffusion.has_mask.",
    )
    for name, guide in (config.guides or {}).items():
        wanted = (1,) if guide.classes is None else (len(guide.classes), len(guide.classes) + 1)
        yield (
            guide.num_outputs in wanted,
            f"guides.{name}.num_outputs is {guide.num_outputs}; it must be {' or '.join(map(str, wanted))}.",
        )
    yield (
        not config.guides or GUIDES in config.files or not config.files,
        f"guides need the file {GUIDES}.",
    )
    alphas = schedule.alphas_cumprod
    discrete = alphas is not None
    yield (
        diffusion.has_mask == discrete,
        "diffusion.has_mask must be true with alphas_cumprod, and false without.",
    )
    yield (
        bool(classes) or not diffusion.class_modulates,
        "diffusion.class_modulates is true, but there are no classes.",
    )
    yield (
        schedule.name in DISCRETE_SCHEDULES if discrete else is_schedule_name(schedule.name),
        f"diffusion.schedule.name is {schedule.name[:60]!r}; it must be the name of a noise schedule.",
    )
    yield (
        alphas is None or _falls(alphas, strictly=True) and alphas[0] < 1,
        "diffusion.schedule.alphas_cumprod must fall strictly, below 1.",
    )
    yield _falls(schedule.learned_times or ()), "diffusion.schedule.learned_times must fall."
    yield (
        diffusion.default_class in (None, classes or None),
        f"diffusion.default_class is {diffusion.default_class}; it must be diffusion.num_classes, {classes}, or null.",
    )
    for name in ("class_names", "class_counts"):
        entries = getattr(statistics, name)
        yield (
            len(entries or ()) == classes or (name == "class_counts" and entries is None),
            f"statistics.{name} has {len(entries or ())} entries; it must have diffusion.num_classes, {classes}.",
        )
    yield (
        not statistics.class_counts or any(statistics.class_counts),
        "statistics.class_counts must not be 0 alone.",
    )
    if diffusion.has_mask:
        yield (
            any(statistics.length_counts[1:]) and len(statistics.length_counts) <= latents + 1,
            f"statistics.length_counts must count texts of 1 to diffusion.num_latents, {latents}, tokens.",
        )
    counts = {name: getattr(config.generation, name) for name in ("num_beams", "num_decodes")}
    sentence = too_many_for_a_file("generation.", **counts)
    yield sentence is None, sentence or ""
    longest = config.generation.max_length
    yield (
        longest <= config.max_len + 1,
        f"generation.max_length is {longest}; it must be at most max_len, {config.max_len}, plus 1.",
    )


def _falls(numbers: tuple[float, ...], strictly: bool = False) -> bool:
    pairs = zip(numbers, numbers[1:], strict=False)
    return all(first > second or (first == second and not strictly) for first, second in pairs)


def parse_config(content: Any) -> FolderConfig:
    """The content of ``config.json``.

    Raises:
        RuntimeInputError: a key that is missing, unknown or of a wrong value, or keys that contradict each other.
    """
    generation = content.get("generation") if isinstance(content, Mapping) else None
    if isinstance(generation, Mapping):  # version 0.1.0 leaves out a limit that is the model's own
        content = {**content, "generation": {"max_length": content.get("max_len"), **generation}}
    return parse(FolderConfig, content, "")


def digest_of(content: Mapping[str, Any]) -> str:
    """The checksum of ``config.json`` without its ``digest``, independent of order and white space."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
