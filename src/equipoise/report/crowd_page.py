"""The page of `rank`: the consensus and how sure it is, how methods differ, who should be looked at, own rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

from equipoise.core.curves.intervals import Interval
from equipoise.report.details import details_section
from equipoise.report.knowledge_figures import model_strip
from equipoise.report.markup import Child, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import UNKNOWN, count, known, number
from equipoise.report.pictures import STYLE, picture
from equipoise.report.sections import hero_section, page_header, section, warnings_section

_STYLE = (
    STYLE
    + """
.items, .people { overflow-x: auto; } .items td:first-child, .people td:first-child { overflow-wrap: anywhere; }
.people td:last-child, .people th:last-child { text-align: left; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 20px 36px; }
.columns h3 { margin: 0 0 4px; } .columns ol { margin: 4px 0 0; padding-left: 1.8em; }
.best { stroke: var(--s2); fill: var(--s2); } .strips circle { stroke: none; }
.strips .one { stroke: var(--s1); fill: var(--s1); } .strips line { stroke-width: 2.4; }
.strips .grid { stroke-width: 1; }
"""
)
_MOST_ITEMS, _MOST_PEOPLE, _LONGEST = 30, 20, 12
_NOTES = (
    "A group is begun by the best item left and takes the items below it up to the first whose difference to that item "
    "has an interval without 0; it is a rule, not a test.",
    "Held-out accuracy is the share of decided answers that go to the item with the higher score, on folds whose "
    "answers the scores had not seen.",
    "Agreement is with the Bradley–Terry scores of other annotators, and what is expected is that of somebody who "
    "answers by them with their uncertainty. Reasons stand at a share of false ones of 5 %.",
    "To be unlike the others is no fault: an expert among laymen leaves the consensus, too.",
)


@dataclass(frozen=True)
class RankedItem:
    """An item of the consensus.

    Attributes:
        name: of it.
        component: 1 for the largest; scores compare within one.
        rank: within the component.
        score: with its interval.
        standard_error: of the score; NaN where it is not known.
        ranks: the best and the worst rank of the interval; None where it is not known.
        group: number of the group of items that cannot be told apart; None where it is not known.
        others: rank by each other method.
    """

    name: str
    component: int
    rank: int
    score: Interval
    standard_error: float
    ranks: tuple[int, int] | None
    group: int | None
    others: Mapping[str, int]


@dataclass(frozen=True)
class Suspect:
    """An annotator to look at, with the reasons in words."""

    name: str
    answers: int
    agreement: float
    expected: float
    left: float
    expected_left: float
    place: int
    reasons: Sequence[str]


@dataclass(frozen=True)
class CrowdReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts about the answers, under the title.
        method: the consensus that is shown first.
        items: those of the consensus, by component and rank.
        groups: groups of items that cannot be told apart; None where that is not known.
        accuracy: method → held-out accuracy.
        agreement: method → Kendall's tau with the first one.
        inconsistency: share of the answers that no scores explain, by HodgeRank.
        suspects: annotators to look at.
        annotators: how many there are.
        read: how columns and labels were understood.
        path: the picture of the path; None without one.
        path_words: what the path says, in sentences.
        own: annotator → their buckets of tied items, of some.
        notes: what a reader must know of the data.
        confidence: of the intervals.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    method: str
    items: Sequence[RankedItem]
    groups: int | None
    accuracy: Mapping[str, float]
    agreement: Mapping[str, float]
    inconsistency: float
    suspects: Sequence[Suspect]
    annotators: int
    read: Sequence[str]
    path: Path | None
    path_words: Sequence[str]
    own: Mapping[str, Sequence[Sequence[str]]]
    notes: Sequence[str]
    confidence: float
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def crowd_page(report: CrowdReport) -> str:
    """The page's text; the same report always gives the same text."""
    sections = [
        _hero(report),
        warnings_section("To know of these answers", report.notes),
        _consensus(report),
        _methods(report),
        _path(report),
        _people(report),
        _own(report),
        section("How the table was read", None, node("ul", *(node("li", words) for words in report.read))),
        details_section(_NOTES, report.provenance),
    ]
    header = page_header("rank", report.title, report.facts)
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def verdict(report: CrowdReport) -> str:
    """How far the items can be told apart, in a sentence."""
    if report.groups is None:
        return "How sure the ranking is cannot be said."
    items = len(report.items)
    if report.groups == 1:
        return f"None of the {count(items)} items can be told from the best one."
    if report.groups == items:
        return "Every item can be told from the one above it."
    return f"{count(items)} items fall into {count(report.groups)} groups that can be told apart."


def _hero(report: CrowdReport) -> Element:
    best = [item.name for item in report.items if item.component == 1 and item.rank == 1]
    clear = report.groups is not None and report.groups > 1
    share = f"{100 * report.inconsistency:.1f} %"
    tiles = [
        ("held-out answers kept", number(report.accuracy[report.method]), "of decided ones"),
        ("what no ranking explains", share, "of the answers, by HodgeRank"),
        ("annotators to look at", count(len(report.suspects)), f"of {count(report.annotators)}"),
    ]
    return hero_section(f"Ranked first by {report.method}", ", ".join(best[:3]), verdict(report), clear, tiles)


def _consensus(report: CrowdReport) -> Element:
    several = any(item.component > 1 for item in report.items)
    head = ["item", *(["component"] if several else []), "rank", "ranks", "score", "error", "group"]
    cells: list[Sequence[Child]] = [head]
    for item in report.items[:_MOST_ITEMS]:
        ranks = UNKNOWN if item.ranks is None else f"{item.ranks[0]} – {item.ranks[1]}"
        shown = [str(item.rank), ranks, number(item.score.estimate), number(item.standard_error)]
        part = [str(item.component)] if several else []
        cells.append([item.name, *part, *shown, UNKNOWN if item.group is None else str(item.group)])
    first = [item for item in report.items if item.component == 1][:_MOST_ITEMS]
    strip = [(_short(item.name), item.score, item.rank == 1) for item in first]
    level = f"{100 * report.confidence:.3g} % intervals"
    more = len(report.items) - _MOST_ITEMS
    words = f"Scores of {report.method}, the higher the better, with {level} of the bootstrap."
    if more > 0:
        words += f" The first {_MOST_ITEMS}; {count(more)} more are in consensus.csv."
    return section(
        "One ranking",
        words,
        node("div", node("figure", node("figcaption", f"scores, {level}"), model_strip(strip)), class_="figures"),
        node("div", plain_table(cells), class_="items"),
    )


def _methods(report: CrowdReport) -> Element:
    cells: list[Sequence[Child]] = [["method", "held-out answers kept", f"agreement with {report.method}"]]
    for name, value in report.accuracy.items():
        tau = number(report.agreement[name])
        cells.append([node("b", name) if name == report.method else name, number(value), tau])
    names = [name for name in report.accuracy if name != report.method]
    ranks: list[Sequence[Child]] = [["item", report.method, *names]]
    ranks += [
        [item.name, str(item.rank), *(str(item.others[name]) for name in names)]
        for item in report.items[: _MOST_ITEMS // 2]
    ]
    return section(
        "Methods side by side",
        "Agreement is Kendall's τ over the items of the largest component: 1 is the same order. Elo depends on the "
        "order of the answers.",
        plain_table(cells),
        node("h3", "Ranks by each method"),
        node("div", plain_table(ranks), class_="items"),
    )


def _path(report: CrowdReport) -> Element | None:
    if report.path is None:
        return None
    caption = (
        "Above, a line for each annotator, those to look at in colour; below, the mean loss of held-out answers by "
    )
    caption += "everybody's own scores (dense) and by the consensus for all who have not left it (sparse). Dotted: the "
    caption += "time that was chosen for who has left."
    return section(
        "Who leaves the consensus",
        " ".join(report.path_words),
        picture(report.path, "deviation of each annotator, and held-out loss, over the time of the path", caption),
    )


def _people(report: CrowdReport) -> Element:
    if not report.suspects:
        return section("Annotators to look at", "None stands out.")
    cells: list[Sequence[Child]] = [["annotator", "answers", "agrees", "expected", "left", "expected", "leaves", "why"]]
    for one in report.suspects[:_MOST_PEOPLE]:
        shares = [_percent(value) for value in (one.agreement, one.expected, one.left, one.expected_left)]
        cells.append([one.name, count(one.answers), *shares, str(one.place or UNKNOWN), "; ".join(one.reasons)])
    more = len(report.suspects) - _MOST_PEOPLE
    words = "Those with most reasons first; all are in annotators.csv."
    return section(
        "Annotators to look at",
        words if more <= 0 else f"{words} {count(more)} more are not shown.",
        node("div", plain_table(cells), class_="people"),
    )


def _own(report: CrowdReport) -> Element | None:
    if not report.own:
        return None
    cards = []
    for name, buckets in report.own.items():
        lines = (node("li", ", ".join(bucket[:8]) + (", …" if len(bucket) > 8 else "")) for bucket in buckets[:6])
        cards.append(node("div", node("h3", name), node("ol", *lines)))
    return section(
        "Own rankings",
        "Items that somebody holds equal stand in one line; six lines of those furthest from the consensus. All are in "
        "individual.csv.",
        node("div", *cards, class_="columns"),
    )


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if known(value) else UNKNOWN


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
