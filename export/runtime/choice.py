"""One text out of several of the same latent: the one most like the others (Kumar & Byrne 2004)."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

# sacrebleu's tokenisation 13a: in turn, each pattern is set apart by spaces.
_13A = (
    (re.compile(r"([\{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
LONGEST = 4  # tokens of an n-gram


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU as sacrebleu computes it: smoothed (NIST), of as many orders as the text has, 0 to 100."""
    words, others = _words(text), _words(reference)
    logs, halving = [], 1.0
    for order in range(1, min(LONGEST, len(words)) + 1):
        ours, theirs = _ngrams(words, order), _ngrams(others, order)
        common, total = (ours & theirs).total(), ours.total()
        if not common:
            if order == 1:
                return 0.0
            halving *= 2
            common = 1 / halving
        logs.append(math.log(common / total))
    if not logs:
        return 0.0
    brevity = min(0.0, 1 - len(others) / len(words))
    return 100 * math.exp(brevity + sum(logs) / len(logs))


def _words(text: str) -> list[str]:
    text = text.strip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, apart in _13A:
        text = pattern.sub(apart, text)
    return text.split()


def _ngrams(words: Sequence[str], order: int) -> Counter:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def rouge_l(text: str, reference: str) -> float:
    """F-measure of ROUGE-L (Lin 2004) over lower-case words and numbers, 0 to 100."""
    ours, theirs = (re.findall("[a-z0-9]+", string.lower()) for string in (text, reference))
    above = [0] * (len(theirs) + 1)  # lengths of common subsequences
    for word in ours:
        row = [0]
        for place, other in enumerate(theirs):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[-1]))
        above = row
    return 200 * above[-1] / max(1, len(ours) + len(theirs))


SIMILARITIES: dict[str, Callable[[str, str], float]] = {"bleu": bleu, "rougeL": rouge_l}


def most_like_the_others(texts: Sequence[str], similarity: Callable[[str, str], float]) -> int:
    """Which of the texts is most like the others on average; the first of equals."""
    means = [
        sum(similarity(text, other) for place, other in enumerate(texts) if place != number)
        for number, text in enumerate(texts)
    ]
    return means.index(max(means))
