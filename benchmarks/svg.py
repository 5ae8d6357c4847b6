"""A bar chart as SVG text, readable on light and dark pages: pure, without any library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Bar", "bars", "shown"]

WIDTH = 760
LABEL = 210
VALUE = 150
ROW = 26
TOP = 58
COLOURS = {"celers": "#1f7a5c", "floor": "#8a8f98", "peer": "#b8793a"}
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:15px}.n{fill:#57606a;font-size:12px}"
    ".w{stroke:#57606a;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#9da7b3}.w{stroke:#9da7b3}}"
)


@dataclass(frozen=True)
class Bar:
    """One bar: its middle value, and the lowest and highest one seen."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    kind: str = "peer"


def shown(value: float) -> str:
    """Return a number as people write it: three digits that matter, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{round(value):,}"
    return f"{value:.3g}"


def bars(title: str, note: str, values: Sequence[Bar], unit: str) -> str:
    """Return a chart of horizontal bars, in the order given.

    Parameters
    ----------
    title, note
        Two lines above the bars.
    values
        At least one bar; none negative.
    unit
        Written after each number.
    """
    if not values:
        raise ValueError("a chart needs a bar")
    if any(bar.value < 0 for bar in values):
        raise ValueError("bars cannot be negative")
    most = max(max(bar.value, bar.high or 0.0) for bar in values) or 1.0
    room = WIDTH - LABEL - VALUE
    height = TOP + ROW * len(values) + 10
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            f' role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">'
        ),
        f"<style>{STYLE}</style>",
        f'<text class="t" x="10" y="22">{escape(title)}</text>',
        f'<text class="n" x="10" y="41">{escape(note)}</text>',
    ]
    for index, bar in enumerate(values):
        y = TOP + ROW * index
        width = max(1.0, bar.value / most * room)
        colour = COLOURS.get(bar.kind, COLOURS["peer"])
        parts.append(f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="18" rx="2" fill="{colour}"/>')
        end = width
        if bar.low is not None and bar.high is not None and bar.high > bar.low:
            start, stop = LABEL + bar.low / most * room, LABEL + bar.high / most * room
            parts.append(f'<line class="w" x1="{start:.1f}" y1="{y + 9}" x2="{stop:.1f}" y2="{y + 9}"/>')
            end = max(end, bar.high / most * room)
        text = f"{shown(bar.value)} {unit}".strip()
        parts.append(f'<text x="{LABEL + end + 6:.1f}" y="{y + 14}">{escape(text)}</text>')
    parts.append("</svg>\n")
    return "\n".join(parts)
