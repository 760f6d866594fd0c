"""Pictures of relations and models of a knowledge graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from equipoise.core.curves.intervals import Interval
from equipoise.report.markup import Frame, node, tick_label, ticks
from equipoise.report.numbers import count, known, number, with_interval

# Mean width of a letter at the size of labels, and how many letters a label may have.
_LETTER, _LONGEST, _MOST_LABELS = 6.6, 24, 9
_FLAT = 0.1
Box = tuple[float, float, float, float]


def geometry_map(relations: Sequence[tuple[str, float, float, int, str | None]]) -> Element:
    """Relations (name, curvature, hierarchy, triples, geometry) as dots whose area is their number of triples."""
    curvatures = [each[1] for each in relations]
    low, high = min(-0.25, *curvatures), max(0.25, *curvatures)
    room = 0.12 * (high - low)
    frame = Frame((low - room, high + room), (-0.1, 1.1), width=420, height=360, left=46)
    shapes = [frame.box((-_FLAT, _FLAT), frame.y, class_="band")]
    rows = [(value, tick_label(value)) for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
    shapes += frame.axes("curvature", "hierarchy", rows)
    most = max(max(each[3] for each in relations), 1)
    spots = []
    for name, curvature, hierarchy, triples, geometry in sorted(relations, key=lambda each: -each[3]):
        x, y = frame.at(curvature, hierarchy)
        radius = 3 + 13 * math.sqrt(triples / most)
        words = f"{name}: curvature {number(curvature)}, hierarchy {number(hierarchy)}, {count(triples)} triples"
        spot = node("circle", node("title", words), cx=x, cy=y, r=radius, class_=f"spot {geometry or 'euclidean'}")
        shapes.append(spot)
        spots.append((name, x, y, radius))
    described = f"Curvature and hierarchy of {count(len(relations))} relations"
    return frame.picture(described, *shapes, *_labels(spots, frame))


def _labels(spots: Sequence[tuple[str, float, float, float]], frame: Frame) -> list[Element]:
    """Names of the largest dots, where they cover neither another name nor the middle of another dot."""
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for _, x, y, _ in spots]
    labels = []
    for name, x, y, radius in spots:
        words = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
        width = _LETTER * len(words)
        for left, base in (
            (x + radius + 3, y + 4),
            (x - radius - 3 - width, y + 4),
            (x - width / 2, y - radius - 4),
            (x - width / 2, y + radius + 13),
        ):
            box = (left, base - 11, left + width, base + 3)
            inside = box[0] >= frame.left and box[2] <= frame.width and box[1] >= 0
            inside = inside and box[3] <= frame.height - frame.bottom
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                labels.append(node("text", words, x=left, y=base, class_="note tick"))
                break
        if len(labels) == _MOST_LABELS:
            break
    return labels


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def attention_bars(relations: Sequence[tuple[str, Sequence[float]]], spaces: Sequence[str]) -> Element:
    """A bar for each relation (name, weights), divided between the spaces."""
    cells = []
    for name, weights in relations:
        told = ", ".join(f"{space} {number(weight, digits=2)}" for space, weight in zip(spaces, weights, strict=True))
        parts = (
            node("i", "", class_=space, style=f"flex: {max(weight, 0.0):.4f} 1 0")
            for space, weight in zip(spaces, weights, strict=True)
        )
        cells += [node("span", name), node("div", *parts, class_="stack", title=told, role="img", aria_label=told)]
    return node("div", *cells, class_="shares")


def model_strip(models: Sequence[tuple[str, Interval, bool]]) -> Element:
    """An interval for each model (name, value, whether it was chosen), one below the other."""
    ends = [end for _, value, _ in models for end in (value.low, value.high, value.estimate) if math.isfinite(end)]
    low, high = min(0.0, *ends), max(*ends, 1e-9)
    room = 30.0
    height = room * len(models) + 34
    frame = Frame((low, 1.02 * high), (0, len(models)), width=420, height=height, left=92, top=4, bottom=30)
    shapes = []
    for tick in ticks(*frame.x):
        shapes.append(frame.line((tick, 0), (tick, len(models)), class_="grid"))
        shapes.append(frame.text(tick_label(tick), tick, 0, dy=18.0, class_="tick", text_anchor="middle"))
    for place, (name, value, chosen) in enumerate(models):
        middle, kind = len(models) - place - 0.5, "best" if chosen else "one"
        told = node("title", f"{name}: {with_interval(value)}")
        shapes.append(frame.text(name, low, middle, dx=-8.0, dy=4.5, text_anchor="end"))
        if known(value.low) and math.isfinite(value.low) and math.isfinite(value.high):
            shapes.append(frame.line((value.low, middle), (value.high, middle), class_=kind))
        x, y = frame.at(value.estimate, middle)
        shapes.append(node("circle", told, cx=x, cy=y, r=5, class_=kind))
    drawn = frame.picture("Models on the test part", *shapes)
    drawn.set("class", "plot strips")
    return drawn
