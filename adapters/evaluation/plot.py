"""Plot: curves over the thresholds of a map, as an SVG picture that any browser shows."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from camcore.adapters.files import writing

_WIDTH, _HEIGHT = 480, 300  # of the field, in pixels
_LEFT, _TOP, _BOTTOM = 44, 32, 44  # around it
_LEGEND = 215  # at its right
# Okabe & Ito's, which the colour-blind tell apart: https://jfly.uni-koeln.de/color/
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_OTHER = "#c8c8c8"
_NAMESPACE = "http://www.w3.org/2000/svg"  # a file states it, a page need not


def curves_svg(
    thresholds: Sequence[float], curves: Mapping[str, Sequence[float]], what: str
) -> str:
    """Shares, 0 to 1, at each threshold, 0 to 1, as a picture for a page; `what` stands above.

    The curves with the highest points are coloured and named, with that point; the others are grey.

    >>> curves_svg([0, 0.5], {"cam": [0.25, 0.5]}, "share").count("<polyline")
    1
    """
    ranked = sorted(curves, key=lambda name: -max(curves[name]))
    width, height = _LEFT + _WIDTH + _LEGEND, _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_grid(what),
    ]
    # The best ones last, above the others.
    for place, name in reversed([*enumerate(ranked)]):
        colour = _COLOURS[place] if place < len(_COLOURS) else _OTHER
        points = " ".join(
            f"{_x(threshold):.1f},{_y(share):.1f}"
            for threshold, share in zip(thresholds, curves[name], strict=True)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8">'
            f"<title>{escape(name)}</title></polyline>"
        )
        if place < len(_COLOURS):
            y = _TOP + 12 + 20 * place
            x = _LEFT + _WIDTH + 14
            parts.append(f'<path d="M{x} {y - 4}h18" stroke="{colour}" stroke-width="3"/>')
            highest = f"{max(curves[name]):.1%}"
            parts.append(f'<text x="{x + 24}" y="{y}">{escape(name)}: {highest}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _grid(what: str) -> list[str]:
    lines = []
    for tenth in range(0, 11, 2):
        share, x, y = f"{tenth / 10:.0%}", _x(tenth / 10), _y(tenth / 10)
        lines += [
            f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share}</text>',
            f'<text x="{x:.1f}" y="{_TOP + _HEIGHT + 16}" text-anchor="middle">{share}</text>',
        ]
    middle, below = _LEFT + _WIDTH / 2, _TOP + _HEIGHT + 36
    return [
        *lines,
        f'<text x="{_LEFT}" y="{_TOP - 14}">{escape(what)}</text>',
        f'<text x="{middle}" y="{below}" text-anchor="middle">threshold, of the maximum</text>',
    ]


def _x(threshold: float) -> float:
    return _LEFT + _WIDTH * threshold


def _y(share: float) -> float:
    return _TOP + _HEIGHT * (1 - share)


def write_curves(path: Path, found: Mapping[str, Any]) -> None:
    """Write the curves of MaxBoxAcc and MaxBoxAccV2, as `Localisation.figures` has them.

    Raises:
        FileError: the picture cannot be written.
    """
    curves = {"MaxBoxAcc, IoU 0.5": found["box_acc"]}
    curves |= {f"V2, IoU {iou}": each for iou, each in found["box_acc_v2"].items()}
    with writing(path):
        svg = curves_svg(found["thresholds"], curves, "share of objects whose box is right")
        alone = svg.replace("<svg", f'<svg xmlns="{_NAMESPACE}"', 1)
        path.write_text(alone, encoding="utf-8")
