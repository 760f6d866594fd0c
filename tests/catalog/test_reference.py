"""The API reference holds every public name, with its signature, its meaning and its paper."""

import importlib
import inspect
from pathlib import Path

import pytest

from equipoise.catalog.papers import load_catalog
from equipoise.catalog.reference import package_page, reference_pages, write_reference

PAGES = reference_pages()


@pytest.mark.parametrize("name", PAGES)
def test_every_public_name_has_its_section(name):
    package = importlib.import_module(f"equipoise.{name}")
    headings = [line.removeprefix("## ") for line in PAGES[name].splitlines() if line.startswith("## ")]
    assert sorted(headings) == sorted(package.__all__)
    for public in package.__all__:
        thing = getattr(package, public)
        if callable(thing):
            assert f"equipoise.{name}.{public}(" in PAGES[name]
            assert inspect.getdoc(thing).partition("\n")[0] in PAGES[name]


def test_every_room_has_a_page_and_every_paper_its_source():
    working = [paper for paper in load_catalog() if paper.working]
    assert {paper.room for paper in working} <= set(PAGES)
    text = "\n".join(PAGES.values())
    for paper in working:
        assert f"[`{paper.slug}`]" in text
        assert paper.code in text
        assert all(part in text for part in (*paper.equations, *paper.reconstructed))


def test_a_signature_says_defaults_and_no_memory_addresses():
    page = package_page("equipoise.ranking")
    assert "equipoise.ranking.PairwiseAUCLoss(surrogate='squared_hinge', margin=1.0, *, gather=False)" in page
    assert not [line for text in PAGES.values() for line in text.splitlines() if " at 0x" in line]


def test_the_pages_in_the_repository_are_those_of_today():
    folder = Path(__file__).parents[2] / "docs" / "reference"
    found = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    changed = [name for name in sorted({*found, *PAGES}) if found.get(name) != PAGES.get(name)]
    assert not changed, "run `python -m equipoise.catalog reference docs/reference`"


def test_pages_are_written_where_asked(tmp_path):
    paths = write_reference(tmp_path / "reference")
    assert {path.stem for path in paths if path.parent == tmp_path / "reference"} == set(PAGES)
    assert (tmp_path / "reference" / "ranking.md").read_text(encoding="utf-8") == PAGES["ranking"]
