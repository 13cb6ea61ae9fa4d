"""The page of ``ld4lg bench all``: one HTML file without scripts or further files, for phones and desktops."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.ladder import LEGENDS, cell

LADDER = (
    *("name", "batch", "samples_per_s", "speedup_vs_published", "speedup_vs_remedies"),
    *("share_of_ceiling", "share_of_bf16_ceiling", "mfu", "denoise_ms_per_step", "decode_ms_per_sample"),
    *("added_peak_mib", "time_to_first_s", "first_call_s", "drift", "tokens_changed"),
    *("graph_captures", "graph_replays"),
)
OPS = (
    *("op", "shape", "dtype", "mode", "backend", "median_us", "floor_us", "share_of_ceiling"),
    *("speedup_vs_eager", "speedup_vs_compiled"),
)
DECODING = (
    *("name", "strategy", "batch", "sentences_per_s", "speedup_vs_generate", "latency_s", "token_agreement"),
    *("graph_captures", "graph_replays"),
)
DRIFT = ("precision", "part", "drift", "tokens_changed", "texts_changed")
FURTHER_LEGENDS = {
    "median_us": "microseconds of one call, median over interleaved rounds",
    "floor_us": "what its bytes or its FLOPs take at the rates of a large copy and a large matmul on this machine",
    "speedup_vs_eager": "times as fast as the reference in eager PyTorch",
    "speedup_vs_compiled": "times as fast as the reference under torch.compile",
    "sentences_per_s": "texts a second from given latents",
    "latency_s": "seconds of the whole batch",
    "speedup_vs_generate": "times as fast as generate of transformers in fp32",
    "token_agreement": "share of the tokens that generate gives in fp32",
    "texts_changed": "share of whole texts that differ from those of fp32",
    "part": "what has the precision: the denoiser, the decoder or both",
    "graph_captures": "CUDA graphs captured in the last timed call",
    "graph_replays": "CUDA graphs replayed in the last timed call",
    "difference": "largest difference of replayed from eager latents, over the largest latent",
    "busy": "share of the time in which a kernel runs (on a CPU: an operator of torch)",
}
GLANCE = ("title", "fastest", "batch", "speedup_vs_published", "speedup_vs_remedies", "share_of_bf16_ceiling")
BARS = {"speedup_vs_published", "share_of_ceiling", "speedup_vs_generate", "mfu", "share"}
STYLE = """
:root{color-scheme:light dark;--ink:#1c2128;--soft:#5c6672;--line:#d8dee5;--paper:#fff;--card:#f6f8fa;
--bar:#b9d7f5;--good:#1a7f37;--bad:#c02b2b;--wait:#8a6100}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#9aa5b1;--line:#39424d;--paper:#12161b;--card:#1b2129;
--bar:#24486b;--good:#4cc06a;--bad:#ff7b72;--wait:#e0b04a}}
*{box-sizing:border-box}body{margin:0 auto;max-width:76rem;padding:1rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:0 .6rem 0 0;display:inline}
section{border-top:1px solid var(--line);padding:1rem 0}p{margin:.4rem 0}
.soft,dt,figcaption{color:var(--soft);font-size:.87rem}code{font-size:.85em;color:var(--soft)}
.scroll{overflow:auto;max-height:80vh;margin:.6rem 0;border:1px solid var(--line);border-radius:.4rem}
table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.3rem .55rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{background:var(--card);font-weight:600;vertical-align:bottom;white-space:normal;min-width:4.5rem;
overflow-wrap:normal;position:sticky;top:0;z-index:1}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--card);white-space:normal;
min-width:8.5rem}th:first-child{z-index:2}
tr:last-child td{border-bottom:0}.done{color:var(--good)}.failed,.timeout{color:var(--bad)}
.skipped,.not-reached{color:var(--wait)}.status{font-weight:600;font-size:.87rem}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.2rem .9rem;margin:.5rem 0;font-size:.87rem}
dd{margin:0}pre{white-space:pre-wrap;background:var(--card);padding:.6rem;border-radius:.4rem;font-size:.8rem;
max-height:24rem;overflow:auto}nav a{margin-right:.9rem;color:inherit}
@media(max-width:40rem){body{padding:.7rem}th:first-child,td:first-child{min-width:6.5rem;max-width:9rem}
dl{grid-template-columns:minmax(5rem,9rem) 1fr}}
"""


def table(rows: Sequence[Mapping], columns: Iterable[str]) -> str:
    """A table of the columns that any row has, and what they mean."""
    shown = [name for name in columns if any(row.get(name) is not None for row in rows)]
    most = {name: max((row.get(name) or 0 for row in rows), default=0) for name in shown if name in BARS}

    def data(row: Mapping, name: str) -> str:
        value, style = row.get(name), ""
        if most.get(name) and value:
            width = 100 * value / most[name]
            style = (
                f' style="background:linear-gradient(90deg,var(--bar) {width:.0f}%,transparent {width:.0f}%)"'
            )
        return f"<td{style}>{escape(cell(value))}</td>"

    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in shown)
    body = "".join("<tr>" + "".join(data(row, name) for name in shown) + "</tr>" for row in rows)
    known = {name: text for name, text in (LEGENDS | FURTHER_LEGENDS).items() if name in shown}
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>' + _legend(known)


def _legend(known: Mapping[str, str]) -> str:
    if not known:
        return ""
    lines = "".join(f"<dt>{escape(n.replace('_', ' '))}</dt><dd>{escape(t)}</dd>" for n, t in known.items())
    return f"<details><summary class=soft>What the columns mean</summary><dl>{lines}</dl></details>"


def facts(values: Mapping[str, Any]) -> str:
    """Names and values below each other."""

    def text(value: object) -> str:
        return ", ".join(map(str, value)) if isinstance(value, list) else cell(value)

    lines = "".join(
        f"<dt>{escape(n.replace('_', ' '))}</dt><dd>{escape(text(v))}</dd>" for n, v in values.items()
    )
    return f"<dl>{lines}</dl>"


def _rows(result: Mapping) -> str:
    rows = result["rows"]
    return table(rows, DECODING if "strategy" in rows[0] else DRIFT)


def _replays(result: Mapping) -> str:
    worst: dict[tuple, dict] = {}
    for row in result["replays"]:
        key = row["config"], row["sampler"]
        kept = worst.setdefault(key, row | {"comparisons": 0})
        kept["comparisons"] += 1
        kept["difference"] = max(kept["difference"], row["difference"])
    return table(list(worst.values()), ("sampler", "config", "comparisons", "difference"))


def _profiles(result: Mapping) -> str:
    parts = []
    for found in result["profiles"]:
        gaps = {f"gaps {name}": value for name, value in (found["gaps"] or {}).items()}
        shown = {name: found[name] for name in ("batch", "kernels", "span_ms", "busy")}
        parts.append(f"<h3>{escape(found['name'])}</h3>" + facts(shown | gaps))
        parts.append(table(found["top"], ("name", "calls", "total_ms", "share")))
    return "".join(parts)


def _stages(result: Mapping) -> str:
    rows = [
        {"stage": stage, "of": kind, "largest_relative_difference": value}
        for stage, found in result["stages"].items()
        for kind, value in found["largest_relative_difference"].items()
    ]
    return table(rows, ("stage", "of", "largest_relative_difference"))


def _seconds(result: Mapping) -> str:
    rows = [
        {"task": task, "way": way, "median_s": timing["median"]}
        for task, ways in result["seconds"].items()
        for way, timing in ways.items()
    ]
    return table(rows, ("task", "way", "median_s"))


def _tests(result: Mapping) -> str:
    counts = {"passed": result["passed"], "failed": len(result["failed"]), "skipped": len(result["skipped"])}
    lines = "".join(f"<li>{escape(line)}</li>" for line in [*result["failed"], *result["skipped"]])
    return facts(counts) + f"<ul>{lines}</ul>"


KINDS: dict[str, Callable[[Mapping], str]] = {
    "rungs": lambda result: table(result["rungs"], LADDER),
    "ops": lambda result: table(result["ops"], OPS),
    "rows": _rows,
    "replays": _replays,
    "profiles": _profiles,
    "stages": _stages,
    "seconds": _seconds,
    "passed": _tests,
}
"""What a result is shown as, by a key that only its kind has."""


def piece_section(piece: Mapping) -> str:
    """One piece: its command, its table, and its errors or why it has no result."""
    status = piece["status"]
    parts = [
        f'<section id="{escape(piece["name"])}"><h2>{escape(piece["title"])}</h2>'
        f'<span class="status {status.replace(" ", "-")}">{escape(status)}</span>'
        f"<p class=soft>{piece['seconds']:.0f} s, <code>{escape(' '.join(piece['command']))}</code></p>"
    ]
    result = piece["result"]
    if result is not None:
        kind = next((shown for key, shown in KINDS.items() if result.get(key)), None)
        parts.append(kind(result) if kind else "<p class=soft>Its figures are in bench.json.</p>")
        if result.get("ceilings"):
            parts.append(facts(result["ceilings"]))
        parts += [f'<p class="failed">{escape(error)}</p>' for error in result.get("errors", [])]
    if piece["reason"]:
        parts.append(f"<pre>{escape(piece['reason'])}</pre>")
    return "".join(parts) + "</section>"


def fastest_rungs(pieces: Sequence[Mapping]) -> list[dict]:
    """Of every ladder and batch the rung that is fastest against the published code, with its piece's ``title``."""
    best: dict[tuple, dict] = {}
    for piece in pieces:
        for rung in (piece["result"] or {}).get("rungs", []):
            if not rung["speedup_vs_published"]:
                continue
            key = piece["name"], rung.get("stage"), rung["batch"]
            if key not in best or rung["speedup_vs_published"] > best[key]["speedup_vs_published"]:
                best[key] = rung | {"title": piece["title"], "fastest": rung["name"]}
    return list(best.values())


def page(found: Mapping) -> str:
    """The whole page of what ``all.py`` gathered."""
    pieces = found["pieces"]
    statuses = [piece["status"] for piece in pieces]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    minutes = sum(piece["seconds"] for piece in pieces) / 60
    links = " ".join(f'<a href="#{escape(p["name"])}">{escape(p["title"])}</a>' for p in pieces)
    missing = facts(found["missing"]) if found["missing"] else "<p>Nothing.</p>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>ld4lg-fast: benchmarks</title><style>{STYLE}</style>"
        f"<h1>ld4lg-fast on {escape(found['device']['name'])}</h1>"
        f"<p>{escape(counts)}; {minutes:.0f} minutes of measuring.</p><nav class=soft>{links}</nav>"
        f"<section><h2>At a glance</h2>{table(fastest_rungs(pieces), GLANCE)}</section>"
        f"<section><h2>Machine</h2>{facts(found['device'] | {'cpu': found['cpu']['name']})}"
        f"{facts({'cpu features': found['cpu']['features']} | found['versions'])}</section>"
        + "".join(map(piece_section, pieces))
        + f"<section><h2>Missing</h2>{missing}</section></html>\n"
    )
