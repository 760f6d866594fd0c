"""The catalogue holds all papers, and what it says of the working ones is true."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from equipoise.catalog import Paper, find_paper, load_catalog, methods_table, update_methods_table
from equipoise.catalog.papers import ROOMS, parse_catalog
from equipoise.catalog.table import END, START
from equipoise.claims import load_claim

SLUGS = [
    "abkd",
    "adauc",
    "aucseg",
    "autkc",
    "bep",
    "bilt",
    "blackmirror",
    "bridge-garden",
    "dcr",
    "deep-svp",
    "dirmixe",
    "dmoe",
    "dpcml",
    "dpcml-plus",
    "dr-moe",
    "drauc",
    "edge",
    "er",
    "focal-sam",
    "gie",
    "glu",
    "hybrid-generative-fusion",
    "icehrnet",
    "interneg",
    "isplit-lbi",
    "lightfair",
    "localization",
    "maxmatch",
    "meta-wrapper",
    "mixbridge",
    "multiclass-auc",
    "multitask-auc",
    "nc-generalization",
    "nc-grassmannian",
    "openauc",
    "openworldauc",
    "pauc-two-formulations",
    "pauci",
    "reconboost",
    "sfcml",
    "si-sod",
    "siopt",
    "soprc",
    "sse-sam",
    "tfcl",
    "tkpr",
    "tpauc",
    "tucka",
    "ue-mcm",
    "voice-face",
]
ROOT = Path(__file__).parents[2]
WORKING = [paper for paper in load_catalog() if paper.working]
ROW = '[[paper]]\nslug = "a"\ntitle = "A"\nvenue = "V"\nroom = "ranking"\nstatus = "planned"\nproblem = "P"\n'


def test_all_fifty_papers_stand_in_it_once():
    slugs = [paper.slug for paper in load_catalog()]
    assert len(set(slugs)) == len(slugs)
    assert set(SLUGS) <= set(slugs)
    assert len(SLUGS) == 50


def test_the_first_two_papers_work():
    assert {"multiclass-auc", "tpauc"} <= {paper.slug for paper in WORKING}


@pytest.mark.parametrize("paper", WORKING, ids=lambda p: p.slug)
def test_what_a_working_paper_provides_can_be_imported(paper):
    assert all(callable(thing) for thing in paper.objects().values())
    assert any(name.startswith(f"equipoise.{paper.room}.") for name in paper.provides)


@pytest.mark.parametrize("paper", WORKING, ids=lambda p: p.slug)
def test_a_working_paper_has_a_claim_that_asserts_something(paper):
    claim = load_claim(paper.slug)
    assert claim.slug == paper.slug
    assert any(part.asserted for experiment in claim.experiments for part in experiment.parts)


@pytest.mark.parametrize("paper", WORKING, ids=lambda p: p.slug)
def test_a_working_paper_says_where_its_formulas_are_from(paper):
    assert paper.code or paper.equations or paper.reconstructed


def test_nothing_of_a_working_paper_is_left_to_write():
    """A file that says "write me" names what it is of; the catalogue itself, that writes these words, stands aside."""
    drafts = [paper for paper in load_catalog() if paper.status == "draft"]
    names = {name.rpartition(".")[2] for paper in drafts for name in (paper.slug, *paper.provides)}
    files = [path for folder in ("src", "tests", "docs") for path in (ROOT / folder).rglob("*.*")]
    for path in files:
        if path.suffix in (".py", ".json", ".md") and "catalog" not in path.parts:
            text = path.read_text(encoding="utf-8")
            if "write me" in text.lower():
                assert names & set(re.findall(r"[\w-]+", text)), f"{path} is to be written, and no draft is named in it"


def test_the_rows_stand_by_room():
    rooms = [ROOMS.index(paper.room) for paper in load_catalog()]
    assert rooms == sorted(rooms)


def test_an_unknown_slug_is_answered_with_one_that_looks_alike():
    with pytest.raises(ValueError, match=r"'tpac'.*did you mean 'tpauc'"):
        find_paper("tpac")
    with pytest.raises(ValueError, match="equipoise methods"):
        find_paper("qqqqqqqq")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW + ROW, "twice"),
        (ROW + 'venu = "x"\n', "venu"),
        (ROW.replace('title = "A"\n', ""), "title"),
        (ROW.replace("ranking", "attic"), "attic"),
        (ROW.replace("planned", "done"), "done"),
        (ROW.replace("planned", "working"), "a working paper and a draft have"),
        (ROW.replace("planned", "draft"), "a working paper and a draft have"),
        (ROW + 'provides = ["x.y"]\n', "planned one has not"),
        (ROW + 'code = "somewhere"\n', "owner/name"),
        (ROW.replace('"P"', '"P."'), "full stop"),
        (ROW.replace('"A"', '"A|B"'), "hold no"),
        (ROW + 'url = "nowhere"\n', "must be an address"),
        (ROW + 'equations = ["Theorem 1"]\n', "what: where"),
    ],
)
def test_a_bad_row_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_catalog(text)


def test_the_table_has_a_row_a_paper_and_the_working_ones_come_first():
    rows = methods_table().splitlines()[4:]
    assert len(rows) == len(load_catalog())
    planned = ["planned, in" in row for row in rows]
    assert planned == sorted(planned)
    assert "`WeightedPartialAUCLoss`" in methods_table()


def test_the_table_is_written_between_the_markers_and_only_once(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nobsolete\n{END}\nafter\n")
    assert update_methods_table(page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "obsolete" not in text
    assert methods_table() in text
    assert not update_methods_table(page)


@pytest.mark.parametrize("text", ["nothing", f"{END} {START}", f"{START} {END} {START} {END}"])
def test_a_page_without_the_two_markers_is_refused(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="must hold"):
        update_methods_table(page)
    assert page.read_text() == text


def test_the_readme_holds_the_table_of_today():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{START}\n{methods_table()}\n{END}" in readme, "run `python -m equipoise.catalog README.md`"


def test_a_title_leads_to_where_the_paper_can_be_read():
    paper = Paper("a", "A", "V", "ranking", "planned", "P", url="https://nowhere.org/a")
    assert "[A](https://nowhere.org/a), V |" in methods_table([paper])
    assert "[A](https://arxiv.org/abs/1234.56789), V |" in methods_table([replace(paper, arxiv="1234.56789")])
    assert "`a`: A, V |" in methods_table([replace(paper, url="")])
