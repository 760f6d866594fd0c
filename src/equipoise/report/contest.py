"""The contest as a table that is a plot: a dot, its interval and its folds for each candidate, on common axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from equipoise.core.curves.intervals import Interval
from equipoise.report.markup import append, node, tick_label, ticks
from equipoise.report.model import ContestRow
from equipoise.report.numbers import duration, estimate, interval, known, number

_ROWS_IN_SIGHT = 8


@dataclass(frozen=True)
class _Axis:
    """A horizontal axis in per cent of a table cell, so that it stretches with the page."""

    low: float
    high: float
    most: int

    @classmethod
    def over(cls, values: Sequence[float], most: int) -> _Axis:
        held = [value for value in values if known(value)]
        low, high = (min(held), max(held)) if held else (0.0, 1.0)
        room = 0.06 * (high - low) or 0.01
        return cls(low - room, high + room, most)

    @property
    def ticks(self) -> list[float]:
        return ticks(self.low, self.high, self.most)

    def at(self, value: float) -> str:
        # The ends keep 3 % free, so that no dot or tick label is cut off.
        return f"{3 + 94 * (value - self.low) / (self.high - self.low):.2f}%"


def contest_table(rows: Sequence[ContestRow], metric: str, number_of: str, against: str, reference: str) -> Element:
    """One line per candidate.

    Args:
        rows: the candidates in the order to show.
        metric: what the dots measure.
        number_of: what the number is: "mean" of folds, or "estimate".
        against: whom the gains are measured against.
        reference: the badge of the one they are measured against.
    """
    gains = any(row.gain is not None for row in rows)
    times = any(known(row.seconds) for row in rows)
    mean_axis = _Axis.over([value for row in rows for value in (*_ends(row.mean), *row.folds)], most=5)
    gain_axis = _Axis.over([0.0, *(value for row in rows for value in _ends(row.gain))], most=3)
    head = ["", metric, f"{number_of} [interval]"]
    head += [f"difference to {against}", "difference [interval]"] if gains else []
    head += ["time per fold"] if times else []
    kinds = ["", "plot", "number"] + (["plot gain", "number"] if gains else []) + (["number"] if times else [])

    def line(cells: Sequence[Element | str | None], class_: str | None = None) -> Element:
        made = [
            node("td", cell, class_=kind or None, role="cell", data_label=label if kind == "number" else None)
            for cell, kind, label in zip(cells, kinds, head, strict=True)
        ]
        made[0].tag = "th"
        made[0].set("scope", "row")
        made[0].set("role", "rowheader")
        return node("tr", *made, class_=class_, role="row")

    body = node("tbody", role="rowgroup")
    for row in rows:
        name = node("span", row.name, class_="name")
        cells: list[Element | str | None] = [node("div", name, *_badges(row, reference)), _mean_plot(row, mean_axis)]
        cells.append(_pair(estimate(row.mean), interval(row.mean)))
        if gains:
            cells.append(_gain_plot(row, gain_axis))
            gain = _pair(estimate(row.gain, signed=True), interval(row.gain, signed=True))
            cells.append(node("span", "reference", class_="faint") if row.baseline else gain)
        if times:
            cells.append(duration(row.seconds))
        append(body, line(cells, "winner" if row.winner else None))

    def scale() -> Element:
        cells: list[Element | str | None] = [None, _scale(mean_axis, tick_label), None]
        if gains:
            digits = _step_digits(gain_axis)
            cells += [_scale(gain_axis, lambda value: number(value, digits=digits, signed=True)), None]
        made = line([*cells, *[None] * times], "scale")
        made.set("aria-hidden", "true")
        return made

    append(body, scale())
    if len(rows) > _ROWS_IN_SIGHT:  # the axis below would be out of sight
        body.insert(0, scale())
    titles = node(
        "tr",
        *(node("th", t, scope="col", role="columnheader", class_=k or None) for t, k in zip(head, kinds, strict=True)),
    )
    return node("table", node("thead", titles, role="rowgroup"), body, class_="contest", role="table")


def _ends(value: Interval | None) -> tuple[float, ...]:
    return () if value is None else (value.estimate, value.low, value.high)


def _badges(row: ContestRow, reference: str) -> list[Element]:
    badges = [node("span", "winner", class_="badge won")] if row.winner else []
    return badges + ([node("span", reference, class_="badge")] if row.baseline else [])


def _pair(value: str, ends: str) -> Element:
    return node("span", node("b", value), " ", node("span", ends, class_="faint"))


def _plot(description: str, *shapes: Element) -> Element:
    return node("svg", *shapes, role="img", aria_label=description, class_="strip")


def _grid(axis: _Axis) -> list[Element]:
    return [node("line", x1=axis.at(v), x2=axis.at(v), y1="0", y2="100%", class_="grid") for v in axis.ticks]


def _dot_and_interval(value: Interval | None, axis: _Axis, style: str) -> list[Element]:
    shapes = []
    if value is not None and known(value.low) and known(value.high):
        ends = {"x1": axis.at(value.low), "x2": axis.at(value.high)}
        shapes.append(node("line", **ends, y1="50%", y2="50%", class_=f"whisker {style}"))
    if value is not None and known(value.estimate):
        shapes.append(node("circle", cx=axis.at(value.estimate), cy="50%", r=5, class_=f"dot {style}"))
    return shapes


def _style(row: ContestRow) -> str:
    return "s1" if row.winner else "base" if row.baseline else "rest"


def _mean_plot(row: ContestRow, axis: _Axis) -> Element:
    folds = [
        node("circle", cx=axis.at(v), cy="50%", r=2.2, transform="translate(0 12)", class_="fold")
        for v in row.folds
        if known(v)
    ]
    words = f"{row.name}: {estimate(row.mean)} {interval(row.mean)}; folds {', '.join(number(v) for v in row.folds)}"
    title = node("title", f"folds: {', '.join(number(v) for v in row.folds)}") if row.folds else None
    shapes = [*_grid(axis), *_dot_and_interval(row.mean, axis, _style(row)), *folds]
    return _plot(words, *([title] if title is not None else []), *shapes)


def _gain_plot(row: ContestRow, axis: _Axis) -> Element:
    zero = node("line", x1=axis.at(0), x2=axis.at(0), y1="0", y2="100%", class_="zero")
    words = "the reference" if row.baseline else f"{estimate(row.gain, signed=True)} {interval(row.gain, signed=True)}"
    shapes = [*_grid(axis), zero, *_dot_and_interval(row.gain, axis, _style(row))]
    return _plot(f"{row.name}: {words}", *shapes)


def _scale(axis: _Axis, label: Callable[[float], str]) -> Element:
    marks = [node("text", label(v), x=axis.at(v), y="12", text_anchor="middle", class_="tick") for v in axis.ticks]
    return node("svg", *marks, class_="strip")


def _step_digits(axis: _Axis) -> int:
    marks = axis.ticks
    step = marks[1] - marks[0] if len(marks) > 1 else 0.1
    return next((digits for digits in range(1, 7) if abs(round(step, digits) - step) < 1e-9), 7)
