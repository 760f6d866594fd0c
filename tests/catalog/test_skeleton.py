"""The skeletons of a new method lint, import, stand in every list, and fail until they are written."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from equipoise.catalog.__main__ import main
from equipoise.catalog.papers import parse_catalog
from equipoise.catalog.skeleton import stub_order, with_entry
from equipoise.catalog.table import START

ROOT = Path(__file__).parents[2]
UNWRITTEN = "test_nothing_of_a_working_paper_is_left_to_write"
TOY = ["toy", "--room", "ranking", "--title", "A Toy", "--venue", "Nowhere 2026", "--problem", "Toys in a wrong order."]


@pytest.fixture
def checkout(tmp_path):
    """The parts of the repository that skeletons touch."""
    ignored = shutil.ignore_patterns("__pycache__", "golden_cases")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "conftest.py", "docs/ranking.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def _without(root, room):
    """The checkout as it was before a room was opened, its papers planned."""
    for path in (f"src/equipoise/{room}", f"src/equipoise/claims/{room}", f"tests/{room}"):
        shutil.rmtree(root / path)
    for path in (root / "tests/contracts/entries").glob(f"{room}*.py"):
        path.unlink()
    stub = root / "src/equipoise/__init__.pyi"
    stub.write_text(stub.read_text("utf-8").replace(f"from . import (\n    {room} as {room},\n)\n", ""), "utf-8")
    project = root / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace(f" | {room}", ""), "utf-8")
    catalog = root / "src/equipoise/catalog/papers.toml"
    head, *rows = catalog.read_text("utf-8").split("[[paper]]\n")
    for k, row in enumerate(rows):
        if f'room = "{room}"' in row:
            kept = [line for line in row.splitlines() if re.match(r"(slug|title|venue|room|problem) = ", line)]
            rows[k] = "\n".join([*kept, 'status = "planned"']) + "\n\n"
    catalog.write_text("[[paper]]\n".join([head, *rows]), "utf-8")


def _text(root):
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path: path.read_bytes() for path in files}


def _run(root, *command):
    environment = {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1", "PATH": ""}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=root, env=environment)


def test_a_planned_paper_in_a_new_room_gets_every_file_and_its_tests_fail(checkout, capsys):
    _without(checkout, "generative")
    before = _text(checkout)
    assert main(["new", "hybrid-generative-fusion", "--topic", "curation", "--root", str(checkout)]) == 0
    said = capsys.readouterr().out
    created, edited = (set(re.findall(rf"^{done} +(.+)$", said, re.MULTILINE)) for done in ("created", "edited"))
    after = _text(checkout)
    assert {checkout / path for path in created} == set(after) - set(before)
    assert {checkout / path for path in edited} == {path for path in before if before[path] != after[path]}
    assert "equipoise reproduce hybrid-generative-fusion --output docs" in said
    row = {p.slug: p for p in parse_catalog((checkout / "src/equipoise/catalog/papers.toml").read_text("utf-8"))}
    assert "equipoise.generative.HybridGenerativeFusionLoss" in row["hybrid-generative-fusion"].provides
    assert re.search(r'"ranking[a-z |]*\| generative"', (checkout / "pyproject.toml").read_text("utf-8"))
    assert row["hybrid-generative-fusion"].status == "draft"
    assert "#hybrid-generative-fusion" not in (checkout / "README.md").read_text("utf-8")
    asked = (
        "import equipoise as e; print(e.generative.HybridGenerativeFusionLoss(strength=2).strength, e.ranking.AUROC)"
    )
    assert _run(checkout, "-c", asked).stdout.startswith("2 ")
    if importlib.util.find_spec("ruff"):
        for command in (["check"], ["format", "--check"]):
            result = _run(checkout, "-m", "ruff", *command, "src", "tests")
            assert result.returncode == 0, result.stdout + result.stderr
    asked = (
        "from equipoise.catalog.declarations import declarations, rooms; print('generative' in rooms(), declarations())"
    )
    assert _run(checkout, "-c", asked).stdout.startswith("True ")
    module = "src/equipoise/generative/curation/hybrid_generative_fusion.py"
    result = _run(
        checkout, "-m", "pytest", "-q", "tests/generative", module, "tests/catalog/test_papers.py::" + UNWRITTEN
    )
    assert "9 failed, 1 passed" in result.stdout
    catalog = checkout / "src/equipoise/catalog/papers.toml"
    catalog.write_text(catalog.read_text("utf-8").replace('"draft"', '"working"'), "utf-8")
    result = _run(checkout, "-m", "pytest", "-q", "tests/catalog/test_papers.py::" + UNWRITTEN)
    assert "hybrid" in result.stdout
    assert "is to be written" in result.stdout


def test_a_paper_that_nobody_planned_needs_a_title_and_is_then_appended(checkout, capsys):
    before = _text(checkout)
    with pytest.raises(SystemExit):
        main(["new", "toy", "--room", "ranking", "--root", str(checkout)])
    assert "give --title, --venue, --problem" in capsys.readouterr().err
    assert _text(checkout) == before
    assert main(["new", *TOY, "--root", str(checkout)]) == 0
    papers = parse_catalog((checkout / "src/equipoise/catalog/papers.toml").read_text("utf-8"))
    last = [paper for paper in papers if paper.room == "ranking"][-1]
    assert (last.slug, last.status, last.problem) == ("toy", "draft", "Toys in a wrong order")
    assert papers.index(last) < len(papers) - 1
    entries = (checkout / "tests/contracts/entries/ranking.py").read_text("utf-8")
    assert 'f"{ROOM}.ToyLoss"' in entries
    compile(entries, "entries", "exec")
    guide = (checkout / "docs/ranking.md").read_text("utf-8")
    assert guide.index("\n\n## `ToyLoss`\n\n") < guide.index("\n\n## What the claims found here\n\n")


@pytest.mark.parametrize(
    "text",
    ["ENTRIES = (\n)\n", "ENTRIES: list = []\n", "ENTRIES = [\n    one,\n]\n", "ENTRIES = (\n    one,\n)\n\nX = 1\n"],
)
def test_an_entry_is_put_at_the_end_of_a_list_or_tuple(text):
    found = with_entry(f"{text}", "    two,\n", "ranking")
    held = {"one": 1, "two": 2}
    body = found[found.index("ENTRIES") :]
    exec(compile(body, "entries", "exec"), held)
    assert list(held["ENTRIES"]) == ([1, 2] if "one" in text else [2])
    assert ("X" in held) == ("X" in text)


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.pyi")), ids=lambda path: path.parent.name)
def test_names_of_others_stay_where_they_stand(path):
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("from .") and " as " in line]
    assert sorted(lines, key=stub_order) == lines


@pytest.mark.parametrize(
    ("url", "row"),
    [
        ("https://arxiv.org/pdf/1234.56789v2", 'arxiv = "1234.56789"\n'),
        ("https://a.org/b", 'url = "https://a.org/b"\n'),
    ],
)
def test_a_name_names_module_function_and_tests_and_an_address_leads_to_the_paper(checkout, url, row):
    assert main(["new", *TOY, "--name", "OrderedTPRLoss", "--url", url, "--root", str(checkout)]) == 0
    assert "def ordered_tpr_loss(" in (checkout / "src/equipoise/ranking/ordered_tpr.py").read_text("utf-8")
    assert "import ordered_tpr_loss" in (checkout / "tests/ranking/test_ordered_tpr.py").read_text("utf-8")
    assert (checkout / "src/equipoise/claims/ranking/toy.py").is_file()
    assert row in (checkout / "src/equipoise/catalog/papers.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (TOY, "exists already"),
        (["tpauc"], "no longer planned"),
        (["er", "--title", "E"], "those of its row"),
        ([*TOY, "--name", "Toy"], "ends in Loss"),
        ([*TOY, "--url", "nowhere"], "must be an address"),
        (["er", "--room", "ranking"], "one of 'knowledge'"),
        (["Toy!", *TOY[1:]], "lower-case"),
        ([*TOY[:2], "attic", *TOY[3:]], "attic"),
        (["er", "--topic", "Up/.."], "lower-case"),
    ],
)
def test_nothing_is_overwritten_or_half_done(checkout, capsys, arguments, message):
    (checkout / "src/equipoise/ranking/toy.py").write_text("mine\n")
    before = _text(checkout)
    with pytest.raises(SystemExit):
        main(["new", *arguments, "--root", str(checkout)])
    assert message in capsys.readouterr().err
    assert _text(checkout) == before


def test_a_folder_that_is_no_checkout_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["new", "er", "--root", str(tmp_path)])
    assert "no checkout" in capsys.readouterr().err


def test_without_new_the_named_pages_are_updated(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"{START}\n<!-- methods:end -->\n")
    assert main([str(page)]) == 0
    assert "updated" in capsys.readouterr().out
    assert main([]) == 2
