"""Bar charts as SVG text, readable on light and dark pages and by screen readers: pure, without any library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Bar", "Panel", "chart", "shown"]

WIDTH = 760
LABEL = 210
VALUE = 120
ROW = 26
TOP = 56
GAP = 18
COLOURS = {"celers": "#2f9e77", "floor": "#8a8f98", "peer": "#b8793a"}
"""Each has a contrast of 3 or more with both a white page and a dark one; names stand beside the bars."""
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:15px}"
    ".n{fill:#57606a;font-size:12px}.w{stroke:#57606a;stroke-width:1.5}"
    + "".join(f".{kind}{{fill:{colour}}}" for kind, colour in COLOURS.items())
    + "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#9da7b3}.w{stroke:#e6edf3}}"
)


@dataclass(frozen=True)
class Bar:
    """One bar: its middle value, and the lowest and highest one seen."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    kind: str = "peer"


@dataclass(frozen=True)
class Panel:
    """Bars below each other that share a scale, with two lines above them; `unit` is written after each number."""

    title: str
    note: str
    bars: Sequence[Bar]
    unit: str


def shown(value: float) -> str:
    """Return a number as people write it: three digits that matter, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{round(value):,}"
    return f"{value:.3g}"


def chart(panels: Sequence[Panel]) -> str:
    """Return a chart of horizontal bars, in the order given.

    Parameters
    ----------
    panels
        At least one, each with at least one bar; none negative.
    """
    if not panels or not all(panel.bars for panel in panels):
        raise ValueError("a chart needs a bar")
    if any(bar.value < 0 for panel in panels for bar in panel.bars):
        raise ValueError("bars cannot be negative")
    heights = [TOP + ROW * len(panel.bars) + GAP for panel in panels]
    height = sum(heights) - GAP + 10
    title = "; ".join(panel.title for panel in panels)
    said = ". ".join(
        f"{panel.title}: " + ", ".join(f"{bar.label} {_value(bar, panel)}" for bar in panel.bars) for panel in panels
    )
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            ' role="img" aria-labelledby="title desc">'
        ),
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(said)}</desc>',
        f"<style>{STYLE}</style>",
    ]
    top = 0
    for panel, taken in zip(panels, heights, strict=True):
        parts += _drawn(panel, top)
        top += taken
    parts.append("</svg>\n")
    return "\n".join(parts)


def _value(bar: Bar, panel: Panel) -> str:
    return f"{shown(bar.value)} {panel.unit}".strip()


def _drawn(panel: Panel, top: int) -> Iterator[str]:
    most = max(max(bar.value, bar.high or 0.0) for bar in panel.bars) or 1.0
    room = WIDTH - LABEL - VALUE
    yield f'<text class="t" x="10" y="{top + 22}">{escape(panel.title)}</text>'
    yield f'<text class="n" x="10" y="{top + 41}">{escape(panel.note)}</text>'
    for index, bar in enumerate(panel.bars):
        y = top + TOP + ROW * index
        width = max(1.0, bar.value / most * room)
        kind = bar.kind if bar.kind in COLOURS else "peer"
        yield f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>'
        yield f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{width:.1f}" height="18" rx="2"/>'
        end = width
        if bar.low is not None and bar.high is not None and bar.high > bar.low:
            start, stop = LABEL + bar.low / most * room, LABEL + bar.high / most * room
            yield f'<line class="w" x1="{start:.1f}" y1="{y + 9}" x2="{stop:.1f}" y2="{y + 9}"/>'
            end = max(end, bar.high / most * room)
        yield f'<text x="{LABEL + end + 6:.1f}" y="{y + 14}">{escape(_value(bar, panel))}</text>'
