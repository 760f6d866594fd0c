"""The page of `curate`: what is kept of a folder of identities, why the rest is not, and how near a reference is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from equipoise.report.details import details_section
from equipoise.report.markup import Child, Frame, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import count, number, share
from equipoise.report.sections import hero_section, page_header, section, warnings_section

_STYLE = ".bar { fill: var(--one, #4477aa); } .cut { stroke: #cc3311; stroke-width: 1.5; stroke-dasharray: 5 4; }"
_MEANING = {
    "near copy": "almost the same as another picture of its identity",
    "outlier": "not of the largest group of its identity, or unlike its most central picture",
    "leaked": "too near to the reference",
    "surplus": "the identity has enough pictures nearer to its centre",
    "identity too small": "too few pictures of its identity are left",
    "identity leaked": "the centre of its identity is too near to the reference",
    "not embedded": "could not be compared",
}
_NOTES = (
    "No picture was changed, moved or deleted; pictures.csv has the decision and its reason for each.",
    "The largest group of an identity's pictures counts as the identity. Where most pictures of a folder show somebody "
    "else, that person is kept.",
    "A cosine below the threshold does not prove that two pictures show different people: it is as good as the "
    "embeddings.",
)
_SHOWN = 20


@dataclass(frozen=True)
class IdentityLine:
    """An identity.

    Attributes:
        name: of it.
        pictures: in its folder.
        kept: of them.
        left_out: verdict → pictures.
    """

    name: str
    pictures: int
    kept: int
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class CurationReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts, under the title.
        identities: in the order of their folders.
        out: identities that are kept.
        left_out: verdict → pictures.
        nearest: edges and counts of the cosine of kept pictures with the nearest reference; None without one.
        leakage_threshold: from which pictures were left out; None without a reference.
        largest_before: the largest cosine with the reference of any picture; None without a reference.
        notes: what a reader must know.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    identities: Sequence[IdentityLine]
    out: int
    left_out: Mapping[str, int]
    nearest: tuple[Sequence[float], Sequence[int]] | None = None
    leakage_threshold: float | None = None
    largest_before: float | None = None
    notes: Sequence[str] = ()
    provenance: Provenance = field(default_factory=lambda: Provenance(""))

    @property
    def verdicts(self) -> list[str]:
        """The verdicts there are, in a fixed order."""
        return [verdict for verdict in _MEANING if self.left_out.get(verdict)]

    @property
    def kept(self) -> int:
        """Pictures that are kept."""
        return sum(line.kept for line in self.identities)

    @property
    def pictures(self) -> int:
        """Pictures there are."""
        return sum(line.pictures for line in self.identities)


def verdict(report: CurationReport) -> str:
    """What was found, in a sentence.

    >>> line = IdentityLine("anna", 4, 3, {"outlier": 1})
    >>> verdict(CurationReport("t", (), [line], 1, {"outlier": 1}))
    '3 of 4 pictures and 1 of 1 identities are kept.'
    """
    words = (
        f"{report.kept:,} of {report.pictures:,} pictures and {report.out:,} of {len(report.identities):,} identities"
    )
    if report.leakage_threshold is None:
        return f"{words} are kept."
    leaked = sum(report.left_out.get(each, 0) for each in ("leaked", "identity leaked"))
    return f"{words} are kept; {leaked:,} pictures were left out as too near to the reference."


def curation_page(report: CurationReport) -> str:
    """The page's text; the same report always gives the same text."""
    tiles = [
        ("pictures kept", count(report.kept), share(report.kept, report.pictures)),
        ("identities kept", count(report.out), f"of {len(report.identities):,}"),
    ]
    if report.leakage_threshold is not None:
        words = f"left out from {number(report.leakage_threshold)}"
        tiles.append(("largest cosine with the reference", number(report.largest_before), words))
    sections = [
        hero_section("Curated", verdict(report), "", bool(report.kept), tiles),
        warnings_section("To know of these decisions", report.notes),
        _reasons(report),
        _nearest(report),
        _identities(report),
        details_section(_NOTES, report.provenance),
    ]
    header = page_header("curate", report.title, report.facts)
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def _reasons(report: CurationReport) -> Element | None:
    if not report.verdicts:
        return None
    cells: list[Sequence[Child]] = [["reason", "pictures", "meaning"]]
    cells += [[each, count(report.left_out[each]), _MEANING[each]] for each in report.verdicts]
    return section("Why pictures were left out", None, node("div", plain_table(cells)))


def _nearest(report: CurationReport) -> Element | None:
    if report.nearest is None or report.leakage_threshold is None:
        return None
    edges, counts = report.nearest
    most = max(*counts, 1)
    frame = Frame((-1.0, 1.0), (0.0, 1.05 * most), width=560, height=300)
    shapes = frame.axes("cosine with the nearest reference", "pictures kept")
    for low, high, size in zip(edges, edges[1:], counts, strict=False):
        if size:
            shapes.append(frame.box((low, high), (0.0, float(size)), class_="bar"))
    cut = report.leakage_threshold
    shapes.append(frame.line((cut, 0.0), (cut, 1.05 * most), class_="cut"))
    return section(
        "How near the reference is",
        "Pictures that are kept, by their cosine with the nearest reference; the line is the threshold.",
        node("figure", frame.picture("Kept pictures by nearest reference", *shapes)),
    )


def _identities(report: CurationReport) -> Element:
    order = sorted(report.identities, key=lambda line: (line.kept / line.pictures, line.name))
    cells: list[Sequence[Child]] = [["identity", "pictures", "kept", "left out"]]
    for line in order[:_SHOWN]:
        reasons = ", ".join(f"{name}: {size}" for name, size in line.left_out.items())
        cells.append([line.name, count(line.pictures), count(line.kept), reasons])
    rest = len(order) - _SHOWN
    more = f" {rest:,} more are in identities.csv." if rest > 0 else ""
    return section("Identities", f"Those with the least share kept first.{more}", node("div", plain_table(cells)))
