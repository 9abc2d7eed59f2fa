"""Draws the results against their targets, as SVG."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.rows import Result

ROW_HEIGHT, BAR_HEIGHT, TOP = 30, 16, 44
LABELS, TARGET_AT, WIDTH = 430, 200, 980
# What is further out than this many times the target is cut there.
FURTHEST = 2.2
MET, MISSED, INK = "#2e7d32", "#c62828", "#212121"


def svg(title: str, results: Sequence[Result]) -> str:
    """A picture: one bar a result, as long as its share of the target, which is the line that all bars have."""
    height = TOP + ROW_HEIGHT * len(results) + 10
    line = LABELS + TARGET_AT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        f'<g font-family="sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{line}" y="{TOP - 4}" text-anchor="middle">target</text>',
        *(_row(result, TOP + ROW_HEIGHT * number) for number, result in enumerate(results)),
        f'<line x1="{line}" y1="{TOP}" x2="{line}" y2="{height - 10}" stroke="{INK}" stroke-dasharray="4 3"/>',
        "</g></svg>",
    ]
    return "\n".join(parts) + "\n"


def _row(result: Result, y: int) -> str:
    length = TARGET_AT * min(FURTHEST, result.measured / result.target)
    sign, colour = "≥" if result.at_least else "≤", MET if result.is_met else MISSED
    text = f"{result.measured:.2f} ({sign} {result.target:.2f})"
    middle = y + BAR_HEIGHT - 1
    return (
        f'<text x="12" y="{middle}">{escape(result.title)}</text>'
        f'<rect x="{LABELS}" y="{y + 2}" width="{length:.1f}" height="{BAR_HEIGHT}" fill="{colour}"/>'
        f'<text x="{max(LABELS + length, LABELS + TARGET_AT) + 8:.1f}" y="{middle}">{escape(text)}</text>'
    )
