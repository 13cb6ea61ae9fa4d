"""An evaluation as one self-contained HTML page: metrics, plots, one sample step by step, searchable samples."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib import resources
from pathlib import Path

from ld4lg_fast.checkpoints.files import read_json, write_atomically
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.evaluation.ngrams import ngrams
from ld4lg_fast.evaluation.report import READINGS, readings_of, reasons
from ld4lg_fast.evaluation.report_charts import Point, bars, histogram, scatter
from ld4lg_fast.evaluation.report_latents import Film, LatentMap
from ld4lg_fast.export.runtime.renamed import current_entries
from ld4lg_fast.export.runtime.similarity import word_pattern

BETTER_LOW = {"perplexity", "memorization"}
AGAINST_DIVERSITY = ("mauve", "perplexity", "memorization", "rougeL", "sacrebleu")
ORDER = 4
SHARED_BY = ((2, 2), (3, 4), (5, 8), (9, 16), (17, None))
"""Ranges (from, to) of the number of texts that share an n-gram."""

_LETTER = r"(?:\w|(?<=\w)['’](?=\w))"  # of a word; an apostrophe is one inside


def write_page(
    path: Path,
    content: Mapping,
    *,
    class_names: Sequence[str] | None = None,
    film: Film | None = None,
    latents: LatentMap | None = None,
    earlier: Mapping[str, Mapping] | None = None,
) -> None:
    """Writes the page.

    Args:
        content: the evaluation's JSON file.
        film, latents: omitted if None.
        earlier: other evaluations of the run by name, for the frontier.
    """
    first_seed = next(iter(content["texts"].values()))
    series = {"real texts": content["references"]["texts"]} | {
        name: _first_candidates(texts, content) for name, texts in first_seed.items()
    }
    plots = [
        ("Frontier", _frontier(content, earlier or {})),
        ("Guides", _guides(content["rows"])),
        ("Length", _lengths(series)),
        ("Distinct n-grams", _distinct(series)),
        (f"How many texts share a {ORDER}-gram", _shared(series)),
        ("Latent map", None if latents is None else _map(latents, series, next(iter(first_seed)))),
    ]
    parts = {
        "title": escape(f"{content['run']}: {len(series['real texts'])} samples"),
        "facts": _facts(content),
        "table": _table(content["rows"]),
        "tolerance": _tolerance(content.get("decoder_tolerance")),
        "plots": "".join(_figure(name, *plot) for name, plot in plots if plot is not None),
        "phrases": _phrases(series),
        "film": "" if film is None else _film_section(),
        "data": _as_script(
            {
                "samples": content["texts"],
                "references": content["references"]["texts"],
                "sources": content["references"]["sources"],
                "classes": _classes(content["references"]["labels"], class_names),
                "candidates": _num_candidates(content),
                "film": None if film is None else asdict(film),
            }
        ),
    }
    template = (resources.files("ld4lg_fast.evaluation") / "report.html").read_text(encoding="utf-8")
    page = re.sub(r"<!--(\w+)-->", lambda found: parts[found[1]], template)
    write_atomically(path, page.encode(errors="backslashreplace"))


def earlier_evaluations(path: Path) -> dict[str, Mapping]:
    """The other evaluations in the folder of ``path``, by file name; other files are ignored."""
    found: dict[str, Mapping] = {}
    for other in sorted(path.parent.glob("*.json")):
        if other.resolve() == path.resolve():
            continue
        try:
            content = read_json(other, "an evaluation")
        except CheckpointError:
            continue
        if content.get("rows") and "references" in content:
            found[other.stem] = content
    return found


def _num_candidates(content: Mapping) -> int:
    return content["settings"]["generation"]["num_candidates"]


def _first_candidates(texts: Sequence[str], content: Mapping) -> list[str]:
    return list(texts[:: _num_candidates(content)])


def _classes(labels: Sequence[int] | None, names: Sequence[str] | None) -> list[str] | None:
    if labels is None:
        return None
    return [names[label] if names and label < len(names) else f"class {label}" for label in labels]


def _as_script(data: Mapping) -> str:
    # "</script>" in a text must not end the script.
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


def _facts(content: Mapping) -> str:
    how, versions = current_entries("generation", content["settings"]["generation"]), content["versions"]
    facts = {
        "run": content["checkpoint"] or content["run"],
        "corpus": f"{content['dataset']['name']}, {content['references']['split']} texts",
        "sampler": f"{how['sampler']}, {how['num_inference_steps']} steps",
        "guidance": f"{how['guidance_scale']:g}",
        "seeds": ", ".join(name.removeprefix("seed ") for name in content["texts"]),
        "device": content["device"],
        "versions": ", ".join(
            f"{name} {versions[name]}" for name in ("ld4lg-fast", "torch") if name in versions
        ),
    }
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())


def _table(rows: Sequence[Mapping]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in ("texts", "number", *names))
    body = ""
    for row in rows:
        doubtful = {name for name in row["metrics"] if name.startswith("mauve") and row.get("cautions")}
        cells = "".join(
            f"<td>{_figure_cell(row['metrics'].get(name))}{' (!)' if name in doubtful else ''}</td>"
            for name in names
        )
        body += f"<tr><th>{escape(row['name'])}</th><td>{row['num_texts']}</td>{cells}</tr>"
    doubts = reasons(dict.fromkeys([row["name"]], why) for row in rows for why in row.get("cautions", ()))
    notes = "".join(f"<li>(!) {escape(', '.join(n))}: {escape(why)}.</li>" for why, n in doubts.items())
    missing = reasons(row["skipped"] for row in rows)
    notes += "".join(f"<li>{escape(', '.join(n))} skipped: {escape(why)}.</li>" for why, n in missing.items())
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<ul class="notes">{notes}</ul>'
    )


def _tolerance(found: Mapping | None) -> str:
    """How the decoder takes latents of each kind, and what it means; "" for evaluations of earlier versions."""
    if found is None:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("latents", *READINGS))
    body = ""
    for kind, own in readings_of(found).items():
        cells = "".join(f"<td>{own[name]:.3f}</td>" for name in READINGS)
        body += f"<tr><th>{escape(kind.replace('_', ' '))}</th>{cells}</tr>"
    notes = "".join(f"<li>{escape(check['line'])}.</li>" for check in found["checks"])
    return (
        '<section id="tolerance"><h2>The decoder’s tolerance</h2><p class="hint">How the decoder reads real texts from '
        "their own latents, clean, noised and sampled again, and its own texts from sampled ones; per token, in nats."
        f'</p><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<ul class="notes">{notes}</ul></section>'
    )


def _figure_cell(figure: Mapping | None) -> str:
    if figure is None:
        return "–"
    text = f"{figure['mean']:.4g}"
    if "interval_95" in figure:
        text += f"<small> ± {figure['interval_95'][1] - figure['mean']:.2g}</small>"
    return text


def _figure(name: str, chart: str, caption: str) -> str:
    return f"<figure><h3>{escape(name)}</h3>{chart}<figcaption>{escape(caption)}</figcaption></figure>"


def _frontier(content: Mapping, earlier: Mapping[str, Mapping]) -> tuple[str, str] | None:
    """Quality against diversity of each decoding, in this and in earlier evaluations."""
    groups = {"this evaluation": [("", row) for row in content["rows"]]}
    groups["earlier ones"] = [(name, row) for name, other in earlier.items() for row in other["rows"]]
    rows = [row for group in groups.values() for _, row in group]
    metric = next((m for m in AGAINST_DIVERSITY if any(m in row["metrics"] for row in rows)), None)
    if metric is None:
        return None
    series: dict[str, list[Point]] = {"real texts": [], "this evaluation": [], "earlier ones": []}
    swept: list[str] = []
    for group, members in groups.items():
        for name, row in members:
            figures = row["metrics"]
            if (
                metric not in figures
                or "diversity" not in figures
                or row.get("class")
                or row.get("interpolated")
                or row.get("guide")
            ):
                continue
            x, y = figures["diversity"]["mean"], figures[metric]["mean"]
            real = "strategy" not in row
            if real and (group != "this evaluation" or series["real texts"]):
                continue
            label = f"{name + ': ' if name else ''}{row['name']} – diversity {x:.3g}, {metric} {y:.3g}"
            place = "real texts" if real else group
            if "sampling_steps" in row and group == "this evaluation":
                place = f"{row['strategy']}, guidance {row['guidance_scale']:g}"
                swept.append(place)
            series.setdefault(place, []).append(Point(x, y, label, hollow=real))
    series = {name: points for name, points in series.items() if points}
    if not any(name != "real texts" for name in series):
        return None
    sign = -1 if metric in BETTER_LOW else 1
    made = sorted(
        ((p.x, p.y) for name, points in series.items() if name != "real texts" for p in points), reverse=True
    )
    front: list[tuple[float, float]] = []
    for x, y in made:  # by falling diversity
        if not front or sign * y > sign * front[-1][1]:
            front.append((x, y))
    caption = (
        f"Diversity to the right; {metric} {'below' if metric in BETTER_LOW else 'above'} is better. The line joins "
        "what nothing else beats in both."
    )
    if swept:
        caption += " Dots of one guidance scale are joined in the order of their steps."
    return scatter(series, ("diversity", metric), front, joined=set(swept)), caption


def _guides(rows: Sequence[Mapping]) -> tuple[str, str] | None:
    """What each guide's texts lose in fluency, or variety, for having the attribute, over its weights."""
    led = [row for row in rows if "guide" in row]
    across = next(
        (name for name in ("attribute", "miss") if any(name in row["metrics"] for row in led)), None
    )
    names = ("perplexity", "diversity", "diversity_words")
    up = next((name for name in names if any(name in row["metrics"] for row in led)), None)
    if across is None or up is None:
        return None
    series: dict[str, list[Point]] = {}
    for row in led:
        if across in row["metrics"] and up in row["metrics"]:
            x, y = row["metrics"][across]["mean"], row["metrics"][up]["mean"]
            label = f"{row['guide']}, weight {row['guide_weight']:g} – {across} {x:.3g}, {up} {y:.3g}"
            series.setdefault(row["guide"], []).append(Point(x, y, label, hollow=row["guide_weight"] == 0))
    meaning = {"attribute": "the share of texts that are what was asked for", "miss": "the distance from it"}
    caption = f"{across}: {meaning[across]}, by their words. Weights of a guide are joined; a hollow dot is without it."
    return scatter(series, (across, up.replace("_", " ")), joined=set(series)), caption


def _words(texts: Sequence[str]) -> list[list[str]]:
    return [word_pattern(_LETTER).findall(text.lower()) for text in texts]


def _lengths(series: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    lengths = {name: [len(words) for words in _words(texts)] for name, texts in series.items()}
    return histogram(lengths, ("words", "share of texts")), "Words a text."


def _distinct(series: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    orders = (1, 2, 3, 4)
    shares: dict[str, list[float]] = {}
    for name, texts in series.items():
        words, shares[name] = _words(texts), []
        for order in orders:
            grams = [gram for row in words for gram in ngrams(row, order)]
            shares[name].append(len(set(grams)) / len(grams) if grams else 0.0)
    caption = (
        "Different n-grams among all n-grams; what is below the real texts repeats itself more than they do."
    )
    return bars([f"n = {order}" for order in orders], shares, ("words in a row", "distinct share")), caption


def _texts_by_gram(texts: Sequence[str]) -> Counter:
    return Counter(gram for row in _words(texts) for gram in set(ngrams(row, ORDER)))


def _shared(series: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    names = [str(low) if low == high else f"{low}–{high}" if high else f"{low}+" for low, high in SHARED_BY]
    shares = {}
    for name, texts in series.items():
        counts = _texts_by_gram(texts)
        total = max(sum(counts.values()), 1)
        shares[name] = [
            sum(n for n in counts.values() if low <= n <= (high or n)) / total for low, high in SHARED_BY
        ]
    caption = f"Share of the {ORDER}-grams that stand in two texts or more; the others stand in one."
    return bars(names, shares, ("texts", f"share of {ORDER}-grams")), caption


def _phrases(series: Mapping[str, Sequence[str]]) -> str:
    """The n-grams shared by most samples, and their counts in real texts."""
    (_, real), *others = series.items()
    known, rows = _texts_by_gram(real), ""
    counts = {name: _texts_by_gram(texts) for name, texts in others}
    common = [gram for gram, _ in sum(counts.values(), Counter()).most_common(10)]
    common = [gram for gram in common if max(count[gram] for count in counts.values()) > 1]
    if not common:
        return f"<p>No {ORDER} words in a row stand in two samples.</p>"
    for gram in common:
        cells = "".join(f"<td>{count[gram]}</td>" for count in counts.values())
        rows += f"<tr><th>{escape(' '.join(gram))}</th>{cells}<td>{known[gram]}</td></tr>"
    head = "".join(f"<th>{escape(name)}</th>" for name in counts)
    return (
        f'<div class="wide"><table><thead><tr><th>words</th>{head}<th>real texts</th></tr></thead><tbody>{rows}'
        "</tbody></table></div>"
    )


def _map(latents: LatentMap, series: Mapping[str, Sequence[str]], decoding: str) -> tuple[str, str]:
    def points(places: Sequence[Sequence[float]], texts: Sequence[str]) -> list[Point]:
        shown = [text for text in texts if text.strip()]
        return [Point(x, y, text) for (x, y), text in zip(places, shown, strict=False)]

    dots = {
        "real texts": points(latents.real, series["real texts"]),
        decoding: points(latents.sampled, series[decoding]),
    }
    across, up = (f"component {k + 1} ({100 * share:.0f} %)" for k, share in enumerate(latents.shares))
    caption = (
        "The latents that the encoder gives each text, on the two principal components of the real ones; in brackets "
        "their share of the variance."
    )
    return scatter(dots, (across, up), size=3.2), caption


def _film_section() -> str:
    return (
        '<section id="film"><h2>One sample, step by step</h2><p class="hint">What the model predicts after each step '
        "of denoising, decoded; words that will not stay are struck through. Below it the latents, a row for each "
        'position.</p><p class="frame" aria-live="polite"></p><div class="controls"><button type="button">Play'
        '</button><input type="range" min="0" value="0" aria-label="step"><output></output></div>'
        '<canvas role="img" aria-label="latents after this step"></canvas></section>'
    )
