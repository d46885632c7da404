"""Line charts as SVG, written by hand: no library is needed for two pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 900, 480
LEFT, RIGHT, TOP, BOTTOM = 70, 250, 50, 60
# Okabe and Ito's colours, which most people can tell apart, then darker ones of the same.
COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#e69f00", "#999999", "#000000", "#7a5c00", "#5b2a86")
Points = Mapping[float, float]


def lines(title: str, across: str, up: str, series: Mapping[str, Points], thick: Callable[[str], bool], doubling: bool = False) -> str:
    """`series`: a line's name -> x -> y. `thick` lines stand out; with `doubling` each doubling of x is as wide as the next."""
    places = sorted({place for points in series.values() for place in points})
    most = max((value for points in series.values() for value in points.values()), default=1.0)
    ticks = _ticks(most)

    def scale(place: float) -> float:
        return math.log2(place) if doubling else place

    low, high = (scale(places[0]), scale(places[-1])) if len(places) > 1 else (0.0, 1.0)

    def x(place: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (scale(place) - low) / (high - low)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / ticks[-1]

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 28, title, size=17),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 15, across, anchor="middle"),
        f'<text transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{escape(up)}</text>',
    ]
    for tick in ticks:
        parts.append(f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end"))
    parts += [_text(x(place), HEIGHT - BOTTOM + 20, f"{place:g}", anchor="middle") for place in places]
    for number, (name, points) in enumerate(series.items()):
        colour, width = COLOURS[number % len(COLOURS)], 3.5 if thick(name) else 1.8
        path = "L".join(f"{x(place):.1f} {y(points[place]):.1f}" for place in sorted(points))
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        parts += [f'<circle cx="{x(place):.1f}" cy="{y(points[place]):.1f}" r="{width}" fill="{colour}"/>' for place in points]
        row = TOP + 20 * number
        parts.append(f'<path d="M{WIDTH - RIGHT + 18} {row}h26" stroke="{colour}" stroke-width="{width}"/>')
        parts.append(_text(WIDTH - RIGHT + 52, row + 4, name))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _ticks(most: float) -> Sequence[float]:
    """Four to eight round steps from 0 to what is at least `most`."""
    rough = max(most, 1e-9) / 5
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * times for times in (1, 2, 5, 10) if size * times >= rough)
    return [step * number for number in range(math.ceil(most / step) + 1)]
