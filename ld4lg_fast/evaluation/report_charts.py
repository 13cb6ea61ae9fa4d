"""Charts of the report as SVG, without a plotting library.

Charts are 360 units wide, like a phone, so that text is never scaled down. Colours are the page's CSS classes ``s0`` …
``s7``.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 40
COLOURS = 8


class Point(NamedTuple):
    """A labelled dot at (x, y), outlined if ``hollow``."""

    x: float
    y: float
    label: str
    hollow: bool = False


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At least one and at most ``most`` round numbers from low to high."""
    spread = max(high - low, 1e-9)
    size = 10.0 ** math.floor(math.log10(spread))
    step = next(s for s in (size / 5, size / 2, size, 2 * size, 5 * size) if spread / s <= most - 1)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


class _Frame:
    """Axes with limits ``x`` and ``y`` (low, high), to which a chart adds marks."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str]) -> None:
        self.x, self.y, self.labels = x, y, labels
        self.marks: list[str] = []

    def across(self, value: float) -> float:
        return _scaled(value, self.x, LEFT, WIDTH - RIGHT)

    def up(self, value: float) -> float:
        return _scaled(value, self.y, HEIGHT - BOTTOM, TOP)

    def text(self, x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'

    def svg(self, x_ticks: Sequence[tuple[float, str]]) -> str:
        parts = []
        for value in ticks(*self.y):
            y = self.up(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(self.text(LEFT - 5, y + 4, f"{value:g}", "end"))
        parts += [self.text(self.across(value), HEIGHT - BOTTOM + 15, words) for value, words in x_ticks]
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, self.labels[0], more=' class="axis"'))
        turn = f' class="axis" transform="rotate(-90 11 {middle})"'
        parts.append(self.text(11, middle, self.labels[1], more=turn))
        body = "".join([*parts, *self.marks])
        title = escape(f"{self.labels[1]} against {self.labels[0]}")
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{body}</svg>'


def _scaled(value: float, limits: tuple[float, float], first: float, last: float) -> float:
    low, high = limits
    return first + (value - low) / max(high - low, 1e-12) * (last - first)


def legend(names: Sequence[str]) -> str:
    """A legend of the series' colours."""
    if len(names) < 2:
        return ""
    items = (f'<li><i class="s{k % COLOURS}"></i>{escape(name)}</li>' for k, name in enumerate(names))
    return f'<ul class="legend">{"".join(items)}</ul>'


def histogram(series: Mapping[str, Sequence[float]], labels: tuple[str, str], bins: int = 24) -> str:
    """Histogram of integer values for each series, as outlined areas."""
    low = min(min(values) for values in series.values())
    high = max(max(values) for values in series.values())
    width = max(1, math.ceil((high - low + 1) / bins))
    count = math.ceil((high - low + 1) / width)
    shares = {
        name: [
            sum(low + k * width <= value < low + (k + 1) * width for value in values) / len(values)
            for k in range(count)
        ]
        for name, values in series.items()
    }
    frame = _Frame((low, low + count * width), (0.0, max(map(max, shares.values()))), labels)
    for colour, heights in enumerate(shares.values()):
        path = f"M{frame.across(low):.1f} {frame.up(0):.1f}"
        for k, height in enumerate(heights):
            path += f"V{frame.up(height):.1f}H{frame.across(low + (k + 1) * width):.1f}"
        frame.marks.append(f'<path class="area s{colour % COLOURS}" d="{path}V{frame.up(0):.1f}"/>')
    return frame.svg([(value, f"{value:g}") for value in ticks(*frame.x)]) + legend(list(series))


def bars(categories: Sequence[str], series: Mapping[str, Sequence[float]], labels: tuple[str, str]) -> str:
    """A bar chart with a group per category and a bar per series."""
    frame = _Frame((0.0, float(len(categories))), (0.0, max(0.01, *map(max, series.values()))), labels)
    width = 0.8 / len(series)
    for colour, (name, heights) in enumerate(series.items()):
        for place, height in enumerate(heights):
            x = frame.across(place + 0.1 + colour * width)
            y = frame.up(height)
            size = frame.across(width) - frame.across(0)
            what = escape(f"{name}, {categories[place]}: {height:.3g}")
            frame.marks.append(
                f'<rect class="s{colour % COLOURS}" x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" '
                f'height="{frame.up(0) - y:.1f}"><title>{what}</title></rect>'
            )
    return frame.svg([(place + 0.5, name) for place, name in enumerate(categories)]) + legend(list(series))


def scatter(
    series: Mapping[str, Sequence[Point]],
    labels: tuple[str, str],
    path: Sequence[tuple[float, float]] = (),
    size: float = 5,
    joined: Collection[str] = (),
) -> str:
    """A scatter plot with labels that are shown on touch, and a line through ``path``.

    The dots of each series in ``joined`` are connected.
    """
    points = [point for group in series.values() for point in group]
    frame = _Frame(_padded([p.x for p in points]), _padded([p.y for p in points]), labels)
    if len(path) > 1:
        places = " ".join(f"{frame.across(x):.1f},{frame.up(y):.1f}" for x, y in path)
        frame.marks.append(f'<polyline class="front" points="{places}"/>')
    for colour, (name, group) in enumerate(series.items()):
        if name in joined:
            places = " ".join(f"{frame.across(point.x):.1f},{frame.up(point.y):.1f}" for point in group)
            frame.marks.append(f'<polyline class="sweep s{colour % COLOURS}" points="{places}"/>')
        for point in group:
            kind = f"dot s{colour % COLOURS}" + (" hollow" if point.hollow else "")
            frame.marks.append(
                f'<circle class="{kind}" cx="{frame.across(point.x):.1f}" cy="{frame.up(point.y):.1f}" r="{size:g}" '
                f'data-label="{escape(point.label)}"><title>{escape(point.label)}</title></circle>'
            )
    chart = frame.svg([(value, f"{value:g}") for value in ticks(*frame.x)])
    return chart + legend(list(series)) + '<p class="touched">Touch a dot to see what it is.</p>'


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return low - room, high + room
