"""Pictures of a model that meets unknown classes: the decision plane, and the curves of both questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.openworld.openset.confusion import OpenSetCurve
from equipoise.openworld.report import Decisions
from equipoise.report.markup import Frame, node

# More dots than this hide each other and make the page heavy.
_MOST_DOTS = 700
_MOST_POINTS = 400

STYLE = """
.dot { fill-opacity: 0.55; stroke: none; }
.dot.right { fill: var(--s1); } .dot.wrong { fill: var(--ink); } .dot.unknown { fill: var(--s2); }
.figures.whole figure { max-width: none; }
.figures.whole { display: block; }
.curve.soft { stroke-dasharray: 5 4; }
.keys span { margin-right: 18px; white-space: nowrap; }
.keys svg { vertical-align: -1px; margin-right: 5px; }
"""


@dataclass(frozen=True)
class Line:
    """A named line of a picture.

    Attributes:
        name: for the legend.
        x: (m,) places.
        y: (m,) values.
        style: class names of the style sheet, such as "s1" or "s3 soft".
    """

    name: str
    x: Tensor
    y: Tensor
    style: str


def decision_plane(seen: Decisions, known: Tensor, threshold: float | None) -> Element:
    """Every sample by how known it looks and how sure its class is.

    Args:
        seen: the samples.
        known: (n,) which of them belong to a known class.
        threshold: on `seen.open_score`, drawn as a line; samples to its left are rejected.
    """
    right = known & (seen.pred == seen.target)
    kinds = {"unknown": ~known, "wrong": known & ~right, "right": right}
    x, y = (values.cpu().double().numpy() for values in (seen.open_score, seen.margin))
    shown = {kind: _thinned(mask.cpu().numpy()) for kind, mask in kinds.items()}
    rows = np.concatenate(list(shown.values()))
    frame = Frame(_span(x[rows]), _span(y[rows]), width=860.0, height=380.0)
    shapes = frame.axes("open score: more to the right looks more known", "margin of the first class")
    if threshold is not None and frame.x[0] <= threshold <= frame.x[1]:
        shapes.append(frame.line((threshold, frame.y[0]), (threshold, frame.y[1]), class_="cut"))
    for kind, members in shown.items():
        for row in members:
            across, up = frame.at(float(x[row]), float(y[row]))
            shapes.append(node("circle", cx=across, cy=up, r=3.0, class_=f"dot {kind}"))
    names = {"right": "known, class right", "wrong": "known, class wrong", "unknown": "unknown"}
    keys = [node("span", _dot(kind), f"{label}: {int(kinds[kind].sum()):,}") for kind, label in names.items()]
    words = "Each dot is a sample. OpenAUC is the share of pairs of a known and an unknown sample in which the known "
    words += "one is blue and further right. "
    if threshold is not None:
        words += "Left of the dashed line samples are rejected."
    if len(rows) < len(x):
        words += f" At most {_MOST_DOTS} dots of a kind are drawn."
    return node(
        "figure",
        node("h3", "Decision plane"),
        node("p", *keys, class_="keys faint"),
        frame.picture("Samples by open score and margin of the predicted class.", *shapes),
        node("figcaption", words),
    )


def curve_figure(title: str, caption: str, x_title: str, y_title: str, lines: Sequence[Line]) -> Element:
    """Lines between 0 and 1 on either axis."""
    frame = Frame((0.0, 1.0), (0.0, 1.0))
    shapes = frame.axes(x_title, y_title)
    shapes += [_path(frame, line) for line in reversed(lines)]
    return _with_keys(title, caption, frame, shapes, lines)


def top_k_figure(accuracy: Tensor) -> Element:
    """Top-k accuracy over k from 1; AUTKC@K is the mean of its first K values."""
    k = torch.arange(1, len(accuracy) + 1)
    lines = [Line("top-k accuracy", k, accuracy, "s1"), Line("AUTKC@k", k, accuracy.cumsum(0) / k, "s3 soft")]
    frame = Frame((1.0, float(max(2, len(accuracy)))), (0.0, 1.0))
    shapes = [*frame.axes("k", "share of known samples"), *(_path(frame, line) for line in reversed(lines))]
    words = "AUTKC at k is the mean of the accuracies up to k: it falls behind where labels are found late."
    return _with_keys("Top-k list", words, frame, shapes, lines)


def threshold_figure(curve: OpenSetCurve, wanted: float) -> Element:
    """The measures at every threshold, by the share of known samples it accepts."""
    measures = {
        "f1_macro": ("open-set F1, macro", "s1"),
        "youden_macro": ("Youden's index", "s2"),
        "normalized_accuracy": ("normalised accuracy", "s3"),
        "unknown_rejected": ("unknown rejected", "s8 soft"),
    }
    accepted = curve.known_accepted
    lines = [Line(name, accepted, getattr(curve, key).clamp_min(0), style) for key, (name, style) in measures.items()]
    frame = Frame((0.0, 1.0), (0.0, 1.0))
    shapes = [*frame.axes("share of known samples accepted", ""), *(_path(frame, line) for line in reversed(lines))]
    shapes.append(frame.line((wanted, 0.0), (wanted, 1.0), class_="cut"))
    words = f"Dashed: the threshold that accepts {100 * wanted:.3g} % of the known samples. Values below 0 lie on 0."
    return _with_keys("One threshold", words, frame, shapes, lines)


def legend_values(values: Mapping[str, float]) -> str:
    """Names with their numbers, for a caption.

    >>> legend_values({"AUROC": 0.91234})
    'AUROC 0.912'
    """
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items() if not math.isnan(value))


def _with_keys(title: str, caption: str, frame: Frame, shapes: Sequence[Element], lines: Sequence[Line]) -> Element:
    keys = []
    for line in lines:
        stroke = node("line", x1=1, x2=27, y1=6, y2=6, class_=f"curve {line.style}")
        keys.append(node("span", node("svg", stroke, viewBox="0 0 28 12", width=28, height=12), line.name))
    return node(
        "figure",
        node("h3", title),
        node("p", *keys, class_="keys faint"),
        frame.picture(f"{title}: {', '.join(line.name for line in lines)}.", *shapes),
        node("figcaption", caption),
    )


def _path(frame: Frame, line: Line) -> Element:
    points = torch.stack([line.x.cpu().double(), line.y.cpu().double()], 1)
    if len(points) > _MOST_POINTS:
        points = points[torch.linspace(0, len(points) - 1, _MOST_POINTS).round().long()]
    return node("path", node("title", line.name), d=frame.path(points.numpy()), class_=f"curve {line.style}")


def _dot(kind: str) -> Element:
    circle = node("circle", cx=6, cy=6, r=4, class_=f"dot {kind}")
    return node("svg", circle, viewBox="0 0 12 12", width=12, height=12, aria_hidden="true")


def _thinned(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """At most so many rows of a mask, evenly from first to last."""
    rows = np.flatnonzero(mask)
    if len(rows) <= _MOST_DOTS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, _MOST_DOTS).round().astype(np.int64)]


def _span(values: NDArray[np.float64]) -> tuple[float, float]:
    """From the least finite value to the greatest, with a little room; infinite values fall outside."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    room = 0.03 * (high - low) or 0.5
    return low - room, high + room
