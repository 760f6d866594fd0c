"""The page of `spectrum`: condition numbers, eigenvalues, predicted losses, and which layers hold the kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

import numpy as np

from equipoise.report.details import details_section
from equipoise.report.markup import Child, Frame, document, node, plain_table, ticks
from equipoise.report.model import Provenance
from equipoise.report.numbers import count, known, number

_STYLE = """
.kernels, .layers { overflow-x: auto; } .kernels td { white-space: nowrap; }
.kernels th + th, .kernels td + td { padding-left: 14px; } .layers td:last-child { text-align: left; }
.bar { background: var(--s1); height: 0.7em; display: inline-block; border-radius: 2px; margin-right: 8px; }
.line { width: 22px; height: 0; border-top: 3px solid; display: inline-block; }
.line.s1 { border-color: var(--s1); } .line.s2 { border-color: var(--s2); border-style: dashed; }
.line.s3 { border-color: var(--s3); border-style: dotted; }
.line.s4 { border-color: var(--s4); border-style: dashed; }
"""
_STYLES = ("s1", "s2", "s3", "s4")
_MOST_LAYERS = 40
# Decades of a picture, below its largest value.
_DECADES = 14
_NOTES = (
    "A condition number is the largest eigenvalue of the tangent kernel over the least. Gradient descent needs about "
    "so many steps, times the logarithm of the error.",
    "Without the mean the kernel is taken of samples less their mean: an activation that is positive gives all samples "
    "a feature in common, which is one large eigenvalue and no difficulty of the data.",
    "Expected kernels are means over random weights of two layers without biases; nets of finite width scatter around "
    "them, and real training changes the kernel.",
    "Predicted losses are those of full-batch gradient descent from zero outputs under a constant kernel, with one "
    "step size for both blocks. With the step that suits each block best there may be no crossing.",
    "The theory wants more samples than inputs plus one. With few inputs against samples (10 to 600, say) the gated "
    "block can have the smaller least eigenvalue.",
)


@dataclass(frozen=True)
class SpectrumRow:
    """A kernel.

    Attributes:
        name: whose.
        lambda_min: least eigenvalue.
        lambda_max: largest.
        condition_number: their ratio, infinite where the least is rounding.
        centred: the same without the mean over samples.
        effective_rank: eigenvalues above 1e-6 of the largest.
        samples: eigenvalues there are.
        top_share: share of the largest in the trace.
    """

    name: str
    lambda_min: float
    lambda_max: float
    condition_number: float
    centred: float
    effective_rank: int
    samples: int
    top_share: float


@dataclass(frozen=True)
class LayerRow:
    """A layer.

    Attributes:
        net: that it belongs to.
        name: of it.
        parameters: its own.
        share: of the kernel's trace.
        lambda_max: largest eigenvalue of its part.
    """

    net: str
    name: str
    parameters: int
    share: float
    lambda_max: float


@dataclass(frozen=True)
class SpectrumReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts, under the title.
        rows: kernels.
        spectra: kernel → eigenvalues, descending.
        compared: names of the plain and the gated kernel that the losses are of.
        layers: of the nets at hand.
        steps: of the predicted losses, ascending, the first 0.
        curves: kernel → loss at each step.
        crossing: step at which the gated block overtakes; None if it does not.
        eta: step size of both.
        notes: what a reader must know.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    rows: Sequence[SpectrumRow]
    spectra: Mapping[str, Sequence[float]]
    compared: tuple[str, ...]
    layers: Sequence[LayerRow]
    steps: Sequence[int]
    curves: Mapping[str, Sequence[float]]
    crossing: int | None
    eta: float
    notes: Sequence[str]
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def spectrum_page(report: SpectrumReport) -> str:
    """The page's text; the same report always gives the same text."""
    header = node(
        "header",
        node("p", "equipoise spectrum", class_="overline"),
        node("h1", report.title),
        node("p", *(node("span", fact) for fact in report.facts), class_="facts"),
    )
    sections = [
        _hero(report),
        _to_know(report),
        _kernels(report),
        _losses(report),
        _layers(report),
        details_section(_NOTES, report.provenance),
    ]
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def verdict(report: SpectrumReport) -> str:
    """What the comparison of the blocks came to, in a sentence."""
    ratio = _ratio(report)
    if not known(ratio):
        return "The least eigenvalue of a block is rounding, so the two cannot be compared."
    words = f"Plain over gated, the condition numbers are {figure(ratio)} to 1"
    if report.crossing is None:
        return f"{words}, and the gated block is not predicted to overtake with this step."
    return f"{words}, and the gated block is predicted to overtake at step {count(report.crossing)}."


def figure(value: float) -> str:
    """Three digits of a number of any size.

    >>> figure(15321.0), figure(5.017), figure(0.05), figure(float("inf"))
    ('15,300', '5.02', '0.0500', '∞')
    """
    if not known(value) or math.isinf(value):
        return number(value)
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.2e}".replace("-", "−")
    power = math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, 2 - power):,.{max(0, 2 - power)}f}".replace("-", "−")


def _ratio(report: SpectrumReport) -> float:
    plain, gated = (next(row for row in report.rows if row.name == name) for name in report.compared)
    found = plain.condition_number / gated.condition_number
    return found if math.isfinite(found) and found > 0 else math.nan


def _hero(report: SpectrumReport) -> Element:
    tiles = [(f"condition number, {row.name}", figure(row.condition_number)) for row in report.rows]
    return node(
        "section",
        node("p", "Two blocks of as many weights", class_="overline"),
        node("p", verdict(report), class_=f"judgement {'clear' if _ratio(report) > 1 else 'close'}"),
        node(
            "dl",
            *(node("div", node("dt", words), node("dd", node("b", value)), class_="tile") for words, value in tiles),
            class_="tiles",
        ),
        class_="hero",
    )


def _to_know(report: SpectrumReport) -> Element | None:
    if not report.notes:
        return None
    return node(
        "section",
        node("h2", "To know of these numbers"),
        node("ul", *(node("li", words) for words in report.notes)),
        class_="warnings",
    )


def _kernels(report: SpectrumReport) -> Element:
    head = ("kernel", "λ min", "λ max", "condition", "without the mean", "effective rank", "share of the top")
    cells: list[Sequence[Child]] = [head]
    for row in report.rows:
        values = (figure(row.lambda_min), figure(row.lambda_max), node("b", figure(row.condition_number)))
        rank = f"{count(row.effective_rank)} of {count(row.samples)}"
        cells.append((row.name, *values, figure(row.centred), rank, number(row.top_share)))
    points = {
        name: [(float(place), value) for place, value in enumerate(values, 1)]
        for name, values in report.spectra.items()
    }
    picture = _log_picture(points, "number of the eigenvalue", "eigenvalue", "Eigenvalues of the kernels, descending.")
    return node(
        "section",
        node("h2", "Eigenvalues"),
        _legend(list(report.spectra)),
        node("div", node("figure", picture), class_="figures wide"),
        node("div", plain_table(cells), class_="kernels"),
    )


def _losses(report: SpectrumReport) -> Element:
    points = {
        name: [(math.log10(1 + step), loss) for step, loss in zip(report.steps, values, strict=True)]
        for name, values in report.curves.items()
    }
    mark = None if report.crossing is None else math.log10(1 + report.crossing)
    picture = _log_picture(points, "log₁₀(1 + step)", "mean loss", "Predicted losses of both blocks over steps.", mark)
    crossing = "There is no crossing." if report.crossing is None else f"They cross at step {count(report.crossing)}."
    return node(
        "section",
        node("h2", "Predicted training"),
        node(
            "p",
            f"Full-batch gradient descent on the sum of squares with step {figure(report.eta)} for both, from zero "
            f"outputs. {crossing}",
            class_="lead",
        ),
        _legend(list(report.curves)),
        node("div", node("figure", picture), class_="figures wide"),
    )


def _layers(report: SpectrumReport) -> Element:
    order = sorted(report.layers, key=lambda row: -row.share) if len(report.layers) > _MOST_LAYERS else report.layers
    cells: list[Sequence[Child]] = [("layer", "net", "parameters", "λ max", "share of the trace", "")]
    for row in order[:_MOST_LAYERS]:
        share = row.share if known(row.share) else 0.0
        bar = node("span", "", class_="bar", style=f"width: {max(0.0, 8 * share):.2f}rem")
        cells.append((row.name, row.net, count(row.parameters), figure(row.lambda_max), number(row.share), bar))
    more = len(report.layers) - len(cells) + 1
    words = "The kernel is the sum over layers; a share is that of its trace."
    if more > 0:
        words += f" The {_MOST_LAYERS} largest; {count(more)} more are in layers.csv."
    return node(
        "section",
        node("h2", "Layers"),
        node("p", words, class_="lead"),
        node("div", plain_table(cells), class_="layers"),
    )


def _legend(names: Sequence[str]) -> Element:
    items = (
        node("li", node("span", "", class_=f"line {style}"), name) for name, style in zip(names, _STYLES, strict=False)
    )
    return node("ul", *items, class_="legend")


def _log_picture(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_title: str,
    y_title: str,
    words: str,
    mark: float | None = None,
) -> Element:
    """Lines whose height is logarithmic; what is not above 0 or too small to draw ends its line."""
    top = max((y for points in series.values() for _, y in points if math.isfinite(y)), default=1.0)
    top = top if top > 0 else 1.0
    floor = top * 10.0**-_DECADES
    drawn = {name: [(x, math.log10(y)) for x, y in points if y > floor] for name, points in series.items()}
    heights = [y for points in drawn.values() for _, y in points] or [0.0]
    across = [x for points in series.values() for x, _ in points] or [0.0]
    low, high = math.floor(min(heights)), math.ceil(max(heights))
    frame = Frame(
        (min(across), max(max(across), min(across) + 1)), (float(low), float(max(high, low + 1))), 520.0, 320.0, 62.0
    )
    marks = [(value, f"{10.0**value:g}".replace("-", "−")) for value in ticks(*frame.y) if value == round(value)]
    shapes = frame.axes(x_title, y_title, marks)
    if mark is not None and frame.x[0] <= mark <= frame.x[1]:
        shapes.append(frame.line((mark, frame.y[0]), (mark, frame.y[1]), class_="cut"))
        shapes.append(frame.text("crossing", mark, frame.y[1], dx=6.0, dy=14.0, class_="note"))
    for (name, points), style in zip(drawn.items(), _STYLES, strict=False):
        if points:
            path = frame.path(np.array(points))
            shapes.append(node("path", node("title", name), d=path, class_=f"curve {style}"))
    return frame.picture(words, *shapes)
