"""The page of `complete`: which model won, what relations look like, who is served badly, and novel triples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from xml.etree.ElementTree import Element

from equipoise.core.curves.intervals import Interval
from equipoise.report.details import details_section
from equipoise.report.knowledge_figures import attention_bars, geometry_map, model_strip
from equipoise.report.markup import Child, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import count, duration, estimate, interval, known, number, with_interval

Direction: TypeAlias = Literal["both", "tail", "head"]

_STYLE = """
.models { overflow-x: auto; } .models td, .relations td:not(:first-child) { white-space: nowrap; }
.models th + th, .models td + td { padding-left: 14px; } .models th { overflow-wrap: anywhere; }
.worst th:last-child, .worst td:last-child { text-align: left; }
.relations th + th, .relations td + td { padding-left: 16px; } .relations td:first-child { overflow-wrap: anywhere; }
.bar { background: var(--s1); height: 0.7em; display: inline-block; border-radius: 2px; margin-right: 8px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 20px 36px; }
.columns h3 { margin: 0 0 4px; } .columns ol { margin: 4px 0 0; padding-left: 1.6em; } .arrow { color: var(--faint); }
.hyperbolic { background: var(--s2); fill: var(--s2); } .euclidean { background: var(--s1); fill: var(--s1); }
.spherical { background: var(--s3); fill: var(--s3); }
circle.spot { stroke: var(--card); stroke-width: 1; fill-opacity: 0.75; }
.band { fill: var(--accent); } .swatch { width: 12px; height: 12px; border-radius: 3px; display: inline-block; }
.shares { display: grid; grid-template-columns: minmax(0, 11rem) 1fr; gap: 5px 12px; font-size: 0.875rem; }
.shares > span { overflow-wrap: anywhere; line-height: 1.25; }
.stack { display: flex; height: 1.1em; border-radius: 3px; overflow: hidden; }
.stack i { display: block; min-width: 0; } .best { stroke: var(--s2); fill: var(--s2); }
.strips circle { stroke: none; } .strips .one { stroke: var(--s1); fill: var(--s1); }
.strips line { stroke-width: 2.4; } .strips .grid { stroke-width: 1; }
"""
_FEW, _MOST_LISTED, _MOST_BARS = 5, 10, 14
# A largest share below this is close to one third each.
_EVEN = 0.4
_TITLES = {"mrr": "MRR", "adjusted_mean_rank_index": "adjusted mean rank index"}


_NOTES = (
    "Epochs and the model are chosen on the validation part; the test part was looked at once.",
    "The model that is kept was trained again on everything, for as many epochs as were best.",
    "Ranks are filtered by all three parts; of equal scores the true answer stands in the middle.",
    "On the validation part nothing of the test part is known, so its values are lower.",
    "Intervals are over triples. Kinds, hierarchy and curvature are of the whole graph.",
)


@dataclass(frozen=True)
class JudgedModel:
    """A model on the test part.

    Attributes:
        name: of the model.
        means: metric → mean over triples, both directions, with its interval.
        tail: the metric that decides, of (head, relation, ?).
        head: of (?, relation, tail).
        behind: by how much the chosen model is better, paired over triples; None for that one.
        validation: the metric that decides, on the validation part.
        epochs: that were best; 0 for a model that is not trained.
        seconds: of training.
    """

    name: str
    means: Mapping[str, Interval]
    tail: float
    head: float
    behind: Interval | None
    validation: float
    epochs: int
    seconds: float


@dataclass(frozen=True)
class TypeRow:
    """A kind of relation.

    Attributes:
        name: "1-1", "1-N", "N-1" or "N-N".
        triples: that were judged.
        tail: the metric that decides, of (head, relation, ?).
        head: of (?, relation, tail).
    """

    name: str
    triples: int
    tail: Interval
    head: Interval


@dataclass(frozen=True)
class RelationRow:
    """A relation.

    Attributes:
        name: of it.
        triples: in all parts.
        type: its kind; None without a triple.
        symmetry: share of links that go both ways.
        hierarchy: Krackhardt score.
        curvature: mean of sampled triangles; NaN where there is none.
        geometry: what the curvature points to.
        judged: triples of the test part.
        both: the metric that decides.
        tail: of (head, relation, ?).
        head: of (?, relation, tail).
        attention: on each of the spaces; empty without.
    """

    name: str
    triples: int
    type: str | None
    symmetry: float
    hierarchy: float
    curvature: float
    geometry: str | None
    judged: int
    both: Interval
    tail: Interval
    head: Interval
    attention: Sequence[float] = ()


@dataclass(frozen=True)
class NovelTriple:
    """A triple that the graph does not hold, by name, and its score."""

    head: str
    relation: str
    tail: str
    score: float


@dataclass(frozen=True)
class KnowledgeReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts about the graph, under the title.
        metric: what decides.
        chosen: name of the model that won on the validation part.
        baseline: name of the row to compare with at the least.
        judged: all models, that row among them.
        types: kinds of relations.
        relations: all relations.
        spaces: that the attention of relations is on; empty without.
        examples: novel triples, by relation.
        notes: what a reader must know of the data.
        level: of the intervals.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    metric: str
    chosen: str
    baseline: str
    judged: Sequence[JudgedModel]
    types: Sequence[TypeRow]
    relations: Sequence[RelationRow]
    spaces: Sequence[str]
    examples: Mapping[str, Sequence[NovelTriple]]
    notes: Sequence[str]
    level: float
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def knowledge_page(report: KnowledgeReport) -> str:
    """The page's text; the same report always gives the same text."""
    header = node(
        "header",
        node("p", "equipoise complete", class_="overline"),
        node("h1", report.title),
        node("p", *(node("span", fact) for fact in report.facts), class_="facts"),
    )
    sections = [_hero(report), _notes(report), _novel(report), _geometry(report), _models(report), _served(report)]
    return document(
        report.title, header, node("main", *sections, details_section(_NOTES, report.provenance)), extra_style=_STYLE
    )


def verdict(report: KnowledgeReport) -> str:
    """What the comparison with frequent answers came to, in a sentence."""
    gap = _gap(report)
    if gap is not None and gap.low > 0:
        return "Better than naming the most frequent answers of each relation."
    if gap is not None and gap.high < 0:
        return "Worse than naming the most frequent answers of each relation: its novel triples are not to be trusted."
    return "Not told apart from naming the most frequent answers of each relation."


def title(metric: str) -> str:
    """A metric as people write it.

    >>> title("mrr"), title("hits@10")
    ('MRR', 'Hits@10')
    """
    return _TITLES.get(metric, metric.capitalize())


def _gap(report: KnowledgeReport) -> Interval | None:
    return next((one.behind for one in report.judged if one.name == report.baseline), None)


def _hero(report: KnowledgeReport) -> Element:
    chosen = next(one for one in report.judged if one.name == report.chosen)
    gap = _gap(report)
    names = [report.metric, *(name for name in ("hits@1", "hits@10") if name != report.metric)]
    tiles = [(f"{title(name)} on the test part", chosen.means[name]) for name in names]
    if gap is not None:
        tiles.insert(1, (f"{title(report.metric)} above frequent answers", gap))
    clear = gap is not None and gap.low > 0
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
                    node("dt", words),
                    node("dd", node("b", estimate(value)), node("span", interval(value))),
                    class_="tile",
                )
                for words, value in tiles
            ),
            class_="tiles",
        ),
        class_="hero",
    )


def _notes(report: KnowledgeReport) -> Element | None:
    if not report.notes:
        return None
    return node(
        "section",
        node("h2", "To know of this graph"),
        node("ul", *(node("li", words) for words in report.notes)),
        class_="warnings",
    )


def _novel(report: KnowledgeReport) -> Element | None:
    if not report.examples:
        return None
    measured = {row.name: row for row in report.relations}
    cards = []
    for relation, triples in report.examples.items():
        row = measured[relation]
        told = (
            f"{title(report.metric)} {number(row.both.estimate)} on {_times(row.judged)}"
            if row.judged
            else "not judged"
        )
        items = (node("li", one.head, node("span", " → ", class_="arrow"), one.tail) for one in triples)
        cards.append(node("div", node("h3", relation), node("p", told, class_="faint"), node("ol", *items)))
    return node(
        "section",
        node("h2", "Triples that the graph does not hold"),
        node(
            "p",
            "The highest scores of some relations, each head once. They are guesses to be checked: scores order the "
            "answers of a question and are no probabilities.",
            class_="lead",
        ),
        node("div", *cards, class_="columns"),
    )


def _times(judged: int) -> str:
    return f"{count(judged)} test {'triple' if judged == 1 else 'triples'}"


def _geometry(report: KnowledgeReport) -> Element | None:
    drawn = [row for row in report.relations if known(row.curvature) and known(row.hierarchy)]
    shown = [row for row in report.relations if row.attention and all(map(known, row.attention))]
    if not drawn and not shown:
        return None
    more = len(report.relations) - len(drawn)
    kinds = [kind for kind in ("hyperbolic", "euclidean", "spherical") if any(row.geometry == kind for row in drawn)]
    left = right = None
    if drawn:
        words = "Curvature of a relation's graph, and the share of its links that no link answers. A dot's area is "
        words += "the number of triples; the band is flat."
        if more:
            words += f" {count(more)} more {'relation has' if more == 1 else 'relations have'} no triangle to measure."
        left = node(
            "figure",
            node("h3", "Curvature and hierarchy"),
            _legend(kinds),
            geometry_map([(row.name, row.curvature, row.hierarchy, row.triples, row.geometry) for row in drawn]),
            node("figcaption", words),
        )
    if shown:
        most = sorted(shown, key=lambda row: -row.triples)[:_MOST_BARS]
        words = "Where the model's attention is, on average over the heads of a relation"
        words += f"; the {len(most)} largest relations." if len(shown) > len(most) else "."
        if max(max(row.attention) for row in shown) < _EVEN:
            words += " All are close to a third each: the model does not tell the geometries apart."
        right = node(
            "figure",
            node("h3", "Attention of gie"),
            _legend(report.spaces),
            attention_bars([(row.name, row.attention) for row in most], report.spaces),
            node("figcaption", words),
        )
    return node(
        "section",
        node("h2", "Relations by geometry"),
        node(
            "p",
            "Trees and hierarchies are at home in hyperbolic space, rings in spherical, the rest in flat space.",
            class_="lead",
        ),
        node("div", left, right, class_="figures wide"),
    )


def _legend(kinds: Sequence[str]) -> Element:
    items = (node("li", node("span", "", class_=f"swatch {kind}"), kind) for kind in kinds)
    return node("ul", *items, class_="legend")


def _models(report: KnowledgeReport) -> Element:
    names = [name for name in report.judged[0].means if name == "mrr" or name.startswith("hits@")]
    names = [report.metric, *(name for name in names if name != report.metric)]
    cells: list[Sequence[Child]] = [("model", *map(title, names), "tails", "heads", "behind", "epochs", "time")]
    for one in report.judged:
        values = [node("b" if place == 0 else "span", estimate(one.means[name])) for place, name in enumerate(names)]
        behind = "chosen" if one.behind is None else with_interval(one.behind)
        sides = (number(one.tail), number(one.head))
        cells.append((one.name, *values, *sides, behind, count(one.epochs), duration(one.seconds)))
    return node(
        "section",
        node("h2", "Models on the test part"),
        node(
            "p",
            "All entities are ranked for (head, relation, ?) and (?, relation, tail), known answers left out. Tails "
            f"and heads are the {title(report.metric)} of each question; behind is how far a model is behind the "
            f"chosen one on the same triples. The model called {report.baseline} names what a relation has most often.",
            class_="lead",
        ),
        node(
            "div",
            node(
                "figure",
                node("figcaption", f"{title(report.metric)}, {100 * report.level:.3g} % interval"),
                model_strip([(one.name, one.means[report.metric], one.behind is None) for one in report.judged]),
            ),
            class_="figures",
        ),
        node("div", plain_table(cells), class_="models"),
    )


def _served(report: KnowledgeReport) -> Element:
    level = f"{100 * report.level:.3g} % interval"
    kinds: list[Sequence[Child]] = [("kind of relation", "judged", "tails", level, "heads", level)]
    for kind in report.types:
        sides = [text for side in (kind.tail, kind.head) for text in (node("b", estimate(side)), interval(side))]
        kinds.append((kind.name, count(kind.triples), *sides))
    judged = [row for row in report.relations if row.judged >= _FEW]
    few = not judged
    judged = judged or [row for row in report.relations if row.judged]
    worst = sorted(judged, key=lambda row: row.both.estimate)[:_MOST_LISTED]
    rows: list[Sequence[Child]] = [("relation", "kind", "triples", "judged", "tails", "heads", title(report.metric))]
    for row in worst:
        width = max(0.0, min(1.0, row.both.estimate)) * 5
        bar = node("span", node("span", "", class_="bar", style=f"width: {width:.2f}rem"), number(row.both.estimate))
        sides = [number(row.tail.estimate), number(row.head.estimate)]
        rows.append((row.name, row.type or "–", count(row.triples), count(row.judged), *sides, bar))
    many = "" if few else f", of those with at least {_FEW} judged triples"
    return node(
        "section",
        node("h2", "Who is served badly"),
        node(
            "p",
            f"{title(report.metric)} of the chosen model on the test part, of tails and of heads. A relation is 1-N "
            "where a head has many tails; the side with many answers is the hard one.",
            class_="lead",
        ),
        node("div", plain_table(kinds), class_="relations"),
        node("h3", f"The relations with the lowest {title(report.metric)}{many}"),
        node("div", plain_table(rows), class_="relations worst"),
    )
