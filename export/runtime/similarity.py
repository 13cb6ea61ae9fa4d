"""Text similarity (BLEU, ROUGE-L) and minimum Bayes risk, the same in the package and the exported runtime.

Tokens depend on the script: ASCII texts have those of sacrebleu and rouge-score; otherwise a word is a run of letters,
digits and their marks, or in scripts without spaces one character with its marks. Uses the standard library only.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

# Scripts without spaces, by the classes ID, CJ, SA, AK and AS of Unicode's line breaking (UAX 14).
_SPACELESS = (
    r"\u0E00-\u0EFF"  # Thai, Lao
    r"\u0F00-\u109F"  # Tibetan, Myanmar
    r"\u1780-\u17FF\u1950-\u19FF\u1A20-\u1AAF\u1B00-\u1B7F"  # Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese
    r"\u2E80-\u303F"  # radicals, punctuation of the scripts below
    r"\u3040-\u312F\u31A0-\u31FF"  # kana, Bopomofo
    r"\u3200-\uA4CF\uF900-\uFAFF"  # Han, Yi
    r"\uA980-\uA9FF\uAA60-\uAADF"  # Javanese, Myanmar, Tai Viet
    r"\uFE30-\uFE4F\uFF00-\uFFEF"  # forms of another width
    r"\U00011700-\U0001174F\U00016FE0-\U00018DFF\U0001AFF0-\U0001B2FF"  # Ahom; Tangut, Khitan; kana, Nüshu
    r"\U0001F200-\U0001F2FF\U00020000-\U0003FFFF"  # Han
)
_JOINERS = "\u200c\u200d"  # within words of Persian, Hindi, …
_ASCII_WORD = re.compile("[a-z0-9]+")
_OTHER_WIDTHS = re.compile("[\uff00-\uffef]+")

# sacrebleu's tokenisation 13a: in turn, each pattern is set apart by spaces.
_13A = (
    (re.compile(r"([\{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
LONGEST = 4  # tokens of an n-gram
KEPT_TEXTS = 1024  # whose tokens are cached, as every candidate is compared with every other


@lru_cache(KEPT_TEXTS)
def words(text: str) -> tuple[str, ...]:
    """Words and numbers, ignoring case, Unicode normalization and width; of a text without any, its symbols (emoji)."""
    if text.isascii():
        return tuple(_ASCII_WORD.findall(text.lower()))
    text = _OTHER_WIDTHS.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    found = word_pattern(f"(?![{_set('No')}])[^\\W_]").findall(text)
    return tuple(found or [symbol for symbol in text if unicodedata.category(symbol)[0] == "S"])


@cache
def word_pattern(letter: str, shortest: int = 1) -> re.Pattern[str]:
    """Matches words of ``shortest`` or more ``letter``, their marks included, and in scripts without spaces single
    characters."""
    spaced, mark = f"(?![{_SPACELESS}]){letter}", f"[{_set('M')}{_JOINERS}]"
    return re.compile(f"(?={letter})[{_SPACELESS}]{mark}*|{spaced}(?:{spaced}|{mark}){{{shortest - 1},}}")


def set_apart(text: str) -> str:
    """The text with spaces around characters of scripts without spaces."""
    if text.isascii() or not re.search(f"[{_SPACELESS}]", text):
        return text
    return " ".join(re.sub(f"[{_SPACELESS}][{_set('M')}]*", r" \g<0> ", text).split())


@cache
def _set(category: str) -> str:
    """The characters of a Unicode category, as ranges of a pattern's set."""
    codes = [*range(0x20000), *range(0xE0100, 0xE01F0)]  # beyond are Han, variation selectors and private use
    codes = [code for code in codes if unicodedata.category(chr(code)).startswith(category)]
    starts = [code for before, code in zip([-2, *codes], codes, strict=False) if code != before + 1]
    ends = [code for code, after in zip(codes, [*codes[1:], -2], strict=True) if code != after - 1]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU, 0 to 100, with NIST smoothing and effective order; bit-identical to sacrebleu's."""
    tokens, others = _tokens(text), _tokens(reference)
    logs, halving = [], 1
    for order in range(1, min(LONGEST, len(tokens)) + 1):
        ours, theirs = _ngrams(tokens, order), _ngrams(others, order)
        common, total = (ours & theirs).total(), ours.total()
        if not common:
            if order == 1:
                return 0.0
            halving *= 2
            common, total = 1, halving * total
        logs.append(math.log(100.0 * common / total))
    if not logs:
        return 0.0
    brevity = math.exp(1 - len(others) / len(tokens)) if len(tokens) < len(others) else 1.0
    return brevity * math.exp(sum(logs) / len(logs))


@lru_cache(KEPT_TEXTS)
def _tokens(text: str) -> tuple[str, ...]:
    text = set_apart(text).strip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, apart in _13A:
        text = pattern.sub(apart, text)
    return tuple(text.split())


def _ngrams(tokens: Sequence[str], order: int) -> Counter:
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def rouge_l(text: str, reference: str) -> float:
    """F-measure of ROUGE-L (Lin 2004) over `words`, unstemmed, 0 to 100."""
    ours, theirs = words(text), words(reference)
    return 200 * _common(ours, theirs) / max(1, len(ours) + len(theirs))


def _common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of the longest common subsequence by the bit-parallel algorithm of Hyyrö (2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(theirs):
        places[word] = places.get(word, 0) | 1 << place
    whole = (1 << len(theirs)) - 1
    row = whole
    for word in ours:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & whole
    return len(theirs) - row.bit_count()


SIMILARITIES: dict[str, Callable[[str, str], float]] = {"bleu": bleu, "rougeL": rouge_l}
SCORE = "score"  # chooses by the decoder's log-probability
CHOICES = (SCORE, *SIMILARITIES)


def minimum_bayes_risk(texts: Sequence[str], similarity: Callable[[str, str], float] = bleu) -> int:
    """Index of the first text with the highest mean similarity to the others (Kumar & Byrne 2004)."""
    means = [
        sum(similarity(text, other) for place, other in enumerate(texts) if place != number)
        for number, text in enumerate(texts)
    ]
    return means.index(max(means))
