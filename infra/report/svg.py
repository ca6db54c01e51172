"""Drawing for the page: inline SVG, so that it needs no file beside it and prints sharp."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape


def figure(width: float, height: float, parts: Iterable[Markup], label: str) -> Markup:
    """An SVG that scales with the page; `label` is what a screen reader says."""
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return (
        head.format(number(width), number(height), label)
        + Markup("").join(parts)
        + Markup("</svg>")
    )


def rect(
    x: float, y: float, width: float, height: float, css: str, *, title: str = "", fill: str = ""
) -> Markup:
    """A rectangle; `title` is shown while the pointer rests on it."""
    style = Markup(' style="fill:{}"').format(fill) if fill else Markup("")
    shape = Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"{}>')
    inner = shape.format(number(x), number(y), number(max(width, 0)), number(height), css, style)
    return inner + _title(title) + Markup("</rect>")


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A straight line."""
    shape = Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>')
    return shape.format(number(x1), number(y1), number(x2), number(y2), css)


def circle(x: float, y: float, radius: float, css: str, *, title: str = "") -> Markup:
    """A filled circle; `title` is shown while the pointer rests on it."""
    shape = Markup('<circle cx="{}" cy="{}" r="{}" class="{}">')
    return shape.format(number(x), number(y), radius, css) + _title(title) + Markup("</circle>")


def path(points: Sequence[tuple[float, float]], css: str, colour: str) -> Markup:
    """A line through all points."""
    places = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    shape = Markup('<polyline points="{}" class="{}" style="stroke:{}"/>')
    return shape.format(places, css, colour)


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> Markup:
    """Words at a place; `anchor` says which end of them is there."""
    shape = Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>')
    return shape.format(number(x), number(y), css, anchor, content)


def number(value: float) -> str:
    """A coordinate with at most two decimals, so that the page stays small."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _title(content: str) -> Markup:
    return Markup("<title>{}</title>").format(escape(content)) if content else Markup("")
