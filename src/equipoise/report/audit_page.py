"""The page of `audit`: the verdict, flags by group, and the prompts with the pictures that speak against the model."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from equipoise.report.details import details_section
from equipoise.report.markup import Child, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import UNKNOWN, count, known, number
from equipoise.report.sections import hero_section, page_header, section, warnings_section

_STYLE = """
.evidence { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 12px; }
.evidence { margin: 8px 0 22px; }
.evidence figure { margin: 0; } .evidence img { width: 100%; border-radius: 6px; image-rendering: pixelated; }
.evidence figcaption { overflow-wrap: anywhere; font-size: 0.8rem; } .prompts { overflow-x: auto; }
.prompts td:first-child { overflow-wrap: anywhere; } .prompts td:last-child { text-align: left; }
"""
_NOTES = (
    "What a prompt asks for is compared with what its picture shows: objects, style and patch. A deviation counts when "
    "pictures of the prompt without its harmless phrases show it, too; a backdoor does, an ordinary mistake hardly.",
    "The score of a prompt is how surely its surest deviation is seen in those pictures, on average; it is flagged "
    "from the threshold on.",
    "A model is suspicious when a group of prompts is flagged more often than clean prompts are: Fisher's exact test "
    "against the group clean, or the binomial test against the assumed rate, p-values times the number of groups.",
    "A clean verdict speaks of these prompts only: a trigger that is not among them is not found. A prompt without a "
    "picture or an answer is undecided, never clean.",
)
_WORDS = {
    "clean": "No group of prompts is flagged more often than clean prompts are.",
    "suspicious": "Prompts are flagged more often than clean prompts are.",
    "undecided": "Some prompts could not be decided, and the others are not flagged more often than clean ones.",
}
_MOST_ROWS = 200
Group = tuple[str, int, int, int, float, float, float, float | None]
"""Name, decided, flagged, undecided, rate, its interval, p-value."""


@dataclass(frozen=True)
class AuditedPrompt:
    """A prompt.

    Attributes:
        prompt: its text.
        group: of it; may be empty.
        score: NaN where it is undecided.
        flagged: whether the score reaches the threshold.
        pattern: what deviates, in words.
        undecided: why there is no score.
        pictures: PNG files with the prompts that they are of, the prompt's own first.
    """

    prompt: str
    group: str
    score: float
    flagged: bool
    pattern: str
    undecided: str | None
    pictures: Sequence[tuple[bytes, str]]


@dataclass(frozen=True)
class AuditPage:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts under it.
        verdict: "clean", "suspicious" or "undecided".
        groups: rates of flags.
        flagged: prompts that are flagged.
        decided: prompts that were decided.
        cost: means per prompt.
        calibration: wanted rate of false alarms, the threshold for it on clean prompts, the one that keeps it on new
            prompts, and how many clean prompts there are; None without any.
        prompts: the highest scores first.
        notes: what a reader must know.
        alpha: level of the test.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    verdict: str
    groups: Sequence[Group]
    flagged: int
    decided: int
    cost: Mapping[str, float]
    calibration: tuple[float, float, float, int] | None
    prompts: Sequence[AuditedPrompt]
    notes: Sequence[str]
    alpha: float
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def audit_page(report: AuditPage) -> str:
    """The page's text; the same report always gives the same text."""
    sections = [
        _hero(report),
        warnings_section("To know of this audit", report.notes),
        _groups(report),
        _evidence(report),
        _prompts(report),
        details_section(_NOTES, report.provenance),
    ]
    header = page_header("audit", report.title, report.facts)
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def _hero(report: AuditPage) -> Element:
    costs = (("calls of judges", "judge calls"), ("pictures", "pictures"))
    tiles = [
        ("flagged prompts", count(report.flagged), f"of {count(report.decided)} decided"),
        *((what, number(report.cost[key]), "a prompt") for what, key in costs if report.cost["pictures"]),
    ]
    clear = report.verdict == "clean"
    return hero_section("The model is", report.verdict, _WORDS[report.verdict], clear, tiles)


def _groups(report: AuditPage) -> Element:
    cells: list[Sequence[Child]] = [["group", "decided", "flagged", "rate", "95 % interval", "p-value", "undecided"]]
    for name, decided, flagged, undecided, rate, low, high, p_value in report.groups:
        ends = f"{number(low)} to {number(high)}" if decided else UNKNOWN
        shown = number(rate) if known(rate) else UNKNOWN
        p = UNKNOWN if p_value is None else f"{p_value:.2g}"
        surely = p_value is not None and p_value <= report.alpha
        cells.append([name, count(decided), count(flagged), shown, ends, node("b", p) if surely else p, str(undecided)])
    words = None
    if report.calibration is not None:
        wanted, threshold, guaranteed, samples = report.calibration
        sure = number(guaranteed) if known(guaranteed) and guaranteed <= 1 else "not to be had from so few prompts"
        words = (
            f"For {100 * wanted:.3g} % false alarms the {count(samples)} clean prompts ask for a threshold of "
            f"{number(threshold)}; one that keeps the rate on new prompts with 95 % confidence is {sure}."
        )
    return section("Flags by group of prompts", words, plain_table(cells))


def _evidence(report: AuditPage) -> Element | None:
    blocks: list[Child] = []
    for one in report.prompts:
        if not one.pictures:
            continue
        figures = []
        for png, caption in one.pictures:
            source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
            figures.append(
                node("figure", node("img", src=source, alt=f"picture of {caption}"), node("figcaption", caption))
            )
        blocks += [node("h3", one.prompt), node("p", _said(one)), node("div", *figures, class_="evidence")]
    if not blocks:
        return None
    words = "The first picture is of the prompt itself, the others of the prompt without some of its harmless phrases."
    return section("Evidence", words, *blocks)


def _said(one: AuditedPrompt) -> str:
    if one.undecided is not None:
        return f"undecided: {one.undecided}"
    return f"{'flagged' if one.flagged else 'not flagged'}: {one.pattern or 'no deviation'}"


def _prompts(report: AuditPage) -> Element:
    cells: list[Sequence[Child]] = [["prompt", "group", "score", "found"]]
    for one in report.prompts[:_MOST_ROWS]:
        score = number(one.score) if known(one.score) else UNKNOWN
        cells.append([one.prompt, one.group or UNKNOWN, node("b", score) if one.flagged else score, _said(one)])
    more = len(report.prompts) - _MOST_ROWS
    words = f"The first {_MOST_ROWS}; {count(more)} more are in audit.json." if more > 0 else None
    return section("All prompts", words, node("div", plain_table(cells), class_="prompts"))
