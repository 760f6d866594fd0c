"""The page of `recommend`: which model won, accuracy beside coverage, who is served badly, and one person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from equipoise.core.curves.intervals import Interval
from equipoise.report.details import details_section
from equipoise.report.markup import Child, Frame, document, node, plain_table, tick_label, ticks
from equipoise.report.model import Provenance
from equipoise.report.numbers import count, duration, estimate, interval, number

_STYLE = """
.dot { fill: var(--s1); } .dot.chosen { fill: var(--s2); }
.dots text { font-size: 12px; fill: var(--ink); } .dots .axis { fill: var(--faint); }
.dots line { stroke: var(--grid); }
.models { overflow-x: auto; } .models td { white-space: nowrap; }
.models th + th, .models td + td { padding-left: 14px; } .models th { overflow-wrap: anywhere; }
.served td:last-child { text-align: left; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 0 36px; }
.columns h3 { margin-bottom: 4px; } .columns ol { margin: 0; padding-left: 1.8em; }
.bar { background: var(--s1); height: 0.7em; display: inline-block; border-radius: 2px; margin-right: 8px; }
"""


_NOTES = (
    "Epochs and the model are chosen on the validation part; the test part was looked at once.",
    "The model that is kept was trained again on everything, for as many epochs as were best.",
    "Items that score the same stand in the order of the log. Intervals are over users.",
)


@dataclass(frozen=True)
class Judged:
    """A model on the test part.

    Attributes:
        name: of the model.
        means: metric → mean over users with its interval.
        shown: "coverage", "gini" and "popularity lift" of its lists.
        validation: value of the metric that decides, on the validation part.
        epochs: that were best; 0 for a model that is not trained.
        seconds: of training.
    """

    name: str
    means: Mapping[str, Interval]
    shown: Mapping[str, float]
    validation: float
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Group:
    """A group of users.

    Attributes:
        name: of the group.
        users: that were judged.
        value: mean of the metric that decides.
    """

    name: str
    users: int
    value: Interval


@dataclass(frozen=True)
class Example:
    """One person.

    Attributes:
        user: name.
        took: names of items.
        number: of all items that the person took.
        kinds: category → how many of them; empty without categories.
        shown: names of the items at the top of the list.
    """

    user: str
    took: Sequence[str]
    number: int
    kinds: Mapping[str, int]
    shown: Sequence[str]


@dataclass(frozen=True)
class RecommendationReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts about the log, under the title.
        metric: what decides.
        chosen: name of the model that won on the validation part.
        judged: all models.
        gap: by how much it is better than popularity, paired over users; None where that was not compared.
        groups: the metric of groups of users.
        example: one person.
        level: of the intervals.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    metric: str
    chosen: str
    judged: Sequence[Judged]
    gap: Interval | None
    groups: Sequence[Group]
    example: Example
    level: float
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def recommendation_page(report: RecommendationReport) -> str:
    """The page's text; the same report always gives the same text."""
    header = node(
        "header",
        node("p", "equipoise recommend", class_="overline"),
        node("h1", report.title),
        node("p", *(node("span", fact) for fact in report.facts), class_="facts"),
    )
    sections = [
        _hero(report),
        _models(report),
        _served(report) if report.groups else None,
        _person(report.example),
        details_section(_NOTES, report.provenance),
    ]
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def verdict(report: RecommendationReport) -> str:
    """What the comparison with popularity came to, in a sentence."""
    if [one.name for one in report.judged] == ["popular"]:
        return "Showing everybody what is popular is the least to compare with; no other model was asked for."
    if report.chosen == "popular":
        return "No model was better than showing everybody what is popular."
    if report.gap is None:
        return "Popularity was not among the models; a list of what is popular is the least to compare with."
    if report.gap.low > 0:
        return "Better than showing everybody what is popular."
    return "Not told apart from showing everybody what is popular."


def _hero(report: RecommendationReport) -> Element:
    chosen = next(one for one in report.judged if one.name == report.chosen)
    clear = report.gap is not None and report.gap.low > 0
    tiles = [("on the test part", report.metric, chosen.means[report.metric])]
    if report.gap is not None:
        tiles.append(("above popularity", report.metric, report.gap))
    return node(
        "section",
        node("p", "Chosen on the validation part", class_="overline"),
        node("h2", report.chosen),
        node("p", verdict(report), class_=f"judgement {'clear' if clear else 'close'}"),
        node(
            "dl",
            *(
                node(
                    "div",
                    node("dt", f"{name} {words}"),
                    node("dd", node("b", estimate(value)), node("span", interval(value))),
                    class_="tile",
                )
                for words, name, value in tiles
            ),
            class_="tiles",
        ),
        class_="hero",
    )


def _models(report: RecommendationReport) -> Element:
    names = [name for name in report.judged[0].means if "@" in name] + ["auc"]
    names = [report.metric, *(name for name in names if name != report.metric)]
    head: list[Sequence[Child]] = [("model", *names, "coverage", "popularity lift", "epochs", "time")]
    for one in report.judged:
        values = [node("b" if place == 0 else "span", estimate(one.means[name])) for place, name in enumerate(names)]
        shown = (number(one.shown["coverage"]), number(one.shown["popularity lift"], signed=True))
        head.append((one.name, *values, *shown, count(one.epochs), duration(one.seconds)))
    return node(
        "section",
        node("h2", "Accuracy beside coverage"),
        node(
            "p",
            "All items that a user has not had are ranked. Coverage is the share of the catalogue that stands in some "
            "list. Popularity lift says how much more popular the shown items are than what people took before.",
            class_="lead",
        ),
        node("div", _dots(report), class_="figures"),
        node("div", plain_table(head), class_="models"),
    )


def _dots(report: RecommendationReport) -> Element:
    across = [one.shown["coverage"] for one in report.judged]
    up = [one.means[report.metric].estimate for one in report.judged]
    frame = Frame((0.0, max(1e-9, 1.15 * max(across))), (0.0, max(1e-9, 1.15 * max(up))), width=520, height=300)
    shapes: list[Element] = []
    for value in ticks(*frame.y):
        (left, y), (right, _) = frame.at(0, value), frame.at(frame.x[1], value)
        shapes += [
            node("line", x1=left, x2=right, y1=y, y2=y),
            node("text", tick_label(value), x=left - 8, y=y + 4, text_anchor="end", class_="axis"),
        ]
    for value in ticks(*frame.x):
        x, y = frame.at(value, 0)
        shapes.append(node("text", tick_label(value), x=x, y=y + 20, text_anchor="middle", class_="axis"))
    for one, x_value, y_value in zip(report.judged, across, up, strict=True):
        x, y = frame.at(x_value, y_value)
        kind = "dot chosen" if one.name == report.chosen else "dot"
        shapes += [node("circle", cx=x, cy=y, r=6, class_=kind), node("text", one.name, x=x + 10, y=y + 4)]
    middle, bottom = frame.at(frame.x[1] / 2, 0)
    shapes.append(node("text", "coverage", x=middle, y=bottom + 42, text_anchor="middle", class_="axis"))
    picture = node("svg", *shapes, viewBox=f"0 0 {frame.width:g} {frame.height:g}", role="img", class_="dots")
    return node("figure", node("figcaption", f"{report.metric} by coverage"), picture)


def _served(report: RecommendationReport) -> Element:
    most = max((group.value.estimate for group in report.groups), default=1.0) or 1.0
    rows: list[Sequence[Child]] = [("users", "judged", report.metric, f"{100 * report.level:.3g} % interval", "")]
    for group in report.groups:
        bar = node("span", "", class_="bar", style=f"width: {max(0.0, 8 * group.value.estimate / most):.2f}rem")
        rows.append((group.name, count(group.users), estimate(group.value), interval(group.value), bar))
    return node(
        "section",
        node("h2", "Who is served badly"),
        node("p", "The chosen model on the test part, by what its users did before.", class_="lead"),
        node("div", plain_table(rows), class_="served"),
    )


def _person(example: Example) -> Element:
    kinds = ", ".join(f"{name} ({number_of})" for name, number_of in example.kinds.items())
    return node(
        "section",
        node("h2", f"One person: user {example.user}"),
        node("p", f"The user with the median number of items, {example.number}.", class_="lead"),
        node("p", f"Interests: {kinds}.") if kinds else None,
        node(
            "div",
            node("div", node("h3", "Took"), node("ul", *(node("li", name) for name in example.took))),
            node("div", node("h3", "Is shown"), node("ol", *(node("li", name) for name in example.shown))),
            class_="columns",
        ),
    )
