"""HTML and SVG as a tree, so that no text can ever become markup; and the few shapes that all plots share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from xml.etree.ElementTree import Element, tostring

import numpy as np
from numpy.typing import NDArray

Child = Element | str | None


def node(tag: str, *children: Child, **attributes: object) -> Element:
    """An element; text is escaped when it is written. `class_="x"` and `stroke_width=2` name their attributes.

    >>> render(node("p", "1 < 2", node("b", "!"), class_="x"))
    '<p class="x">1 &lt; 2<b>!</b></p>'
    """
    element = Element(tag, {_name(key): _value(value) for key, value in attributes.items() if value is not None})
    for child in children:
        append(element, child)
    return element


def append(parent: Element, child: Child) -> None:
    """Put a child or a text behind what `parent` holds; None is nothing."""
    if isinstance(child, Element):
        parent.append(child)
    elif child is not None:
        if len(parent):
            parent[-1].tail = (parent[-1].tail or "") + child
        else:
            parent.text = (parent.text or "") + child


def render(element: Element) -> str:
    """The element as HTML."""
    return tostring(element, encoding="unicode", method="html")


def document(title: str, *body: Child, extra_style: str = "") -> str:
    """A page as the text of an HTML file: nothing is loaded and nothing is run, whatever its texts hold."""
    style = files("equipoise.report").joinpath("style.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", http_equiv="Content-Security-Policy", content=policy),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("meta", name="color-scheme", content="light dark"),
        node("link", rel="icon", href="data:,"),
        node("title", title),
        node("style", style + extra_style),
    )
    return "<!doctype html>\n" + render(node("html", head, node("body", *body), lang="en")) + "\n"


def plain_table(cells: Sequence[Sequence[Child]]) -> Element:
    """A table, its header first, whose words stand before the cells on a narrow screen."""
    header, *rows = cells
    labels = [None, *(text if isinstance(text, str) and text else None for text in header[1:])]
    return node(
        "table",
        node("thead", node("tr", *(node("th", text, scope="col") for text in header))),
        node(
            "tbody",
            *(
                node("tr", *(node("td", text, data_label=label) for text, label in zip(row, labels, strict=True)))
                for row in rows
            ),
        ),
    )


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers from `low` to `high`.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= most - 1 + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounded to the step's digits, so that 3 · 0.1 is 0.3; `+ 0.0` drops the sign of zero.
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(k * step, digits) + 0.0 for k in range(first, last + 1)]


def tick_label(value: float) -> str:
    """A tick's number.

    >>> tick_label(0.05), tick_label(-2.0)
    ('0.05', '−2')
    """
    return f"{value:.6g}".replace("-", "−")


@dataclass(frozen=True)
class Frame:
    """A plot's box: data coordinates inside, room for labels around it. Lengths are in the SVG's units."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float = 380.0
    height: float = 350.0
    left: float = 52.0
    right: float = 12.0
    top: float = 12.0
    bottom: float = 50.0

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        inner_width, inner_height = self.width - self.left - self.right, self.height - self.top - self.bottom
        return self.left + across * inner_width, self.top + (1 - up) * inner_height

    def path(self, points: NDArray[np.float64], close: bool = False) -> str:
        """The points as an SVG path; points that fall together at the drawing's resolution are joined."""
        steps: list[str] = []
        for x, y in points.tolist():
            across, up = self.at(x, y)
            step = f"{across:.1f} {up:.1f}"
            if not steps or steps[-1] != step:
                steps.append(step)
        return "M" + "L".join(steps) + ("Z" if close else "")

    def box(self, x: tuple[float, float], y: tuple[float, float], **attributes: object) -> Element:
        """A rectangle from data coordinates."""
        left, top = self.at(x[0], y[1])
        right, bottom = self.at(x[1], y[0])
        return node("rect", x=left, y=top, width=right - left, height=bottom - top, **attributes)

    def line(self, start: tuple[float, float], end: tuple[float, float], **attributes: object) -> Element:
        """A straight line between data coordinates."""
        (x1, y1), (x2, y2) = self.at(*start), self.at(*end)
        return node("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)

    def text(
        self, words: str, x: float, y: float, *, dx: float = 0.0, dy: float = 0.0, **attributes: object
    ) -> Element:
        """Words at data coordinates, moved by (dx, dy)."""
        across, up = self.at(x, y)
        return node("text", words, x=across + dx, y=up + dy, **attributes)

    def axes(self, x_title: str, y_title: str, y_ticks: Iterable[tuple[float, str]] | None = None) -> list[Element]:
        """Grid, tick labels and titles."""
        if y_ticks is None:
            y_ticks = [(v, tick_label(v)) for v in ticks(*self.y)]
        shapes = []
        for value in ticks(*self.x, most=8):
            shapes.append(self.line((value, self.y[0]), (value, self.y[1]), class_="grid"))
            shapes.append(self.text(tick_label(value), value, self.y[0], dy=18.0, class_="tick", text_anchor="middle"))
        for value, label in y_ticks:
            shapes.append(self.line((self.x[0], value), (self.x[1], value), class_="grid"))
            shapes.append(self.text(label, self.x[0], value, dx=-7.0, dy=4.5, class_="tick", text_anchor="end"))
        middle = (self.left + self.width - self.right) / 2
        shapes.append(node("text", x_title, x=middle, y=self.height - 8, class_="axis", text_anchor="middle"))
        down = (self.top + self.height - self.bottom) / 2
        turned = f"translate(14 {down:.1f}) rotate(-90)"
        shapes.append(node("text", y_title, transform=turned, class_="axis", text_anchor="middle"))
        return shapes

    def picture(self, description: str, *shapes: Element) -> Element:
        """The whole drawing, with its description for those who do not see it."""
        view = f"0 0 {_value(self.width)} {_value(self.height)}"
        return node("svg", *shapes, viewBox=view, role="img", aria_label=description, class_="plot")
