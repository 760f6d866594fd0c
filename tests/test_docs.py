"""The examples of the README and the guides run as they stand, and the paths that they name are there."""

import importlib
import json
import re
import statistics
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SLOW = re.compile(r"tiny_clip\(\)|tiny_text_to_image\(\)|cross_val_score")  # trains for half a minute or more
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{number}", marks=pytest.mark.slow if SLOW.search(code) else ())
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


def _anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(textwrap.dedent(code), "example", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_are_fenced_and_closed(page):
    fences = re.findall(r"^ *```(\w*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert not any(fences[1::2]), "an example opens where one before it is not closed"
    assert len(fences) % 2 == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_dotted_names_and_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"`equipoise((?:\.\w+)+)", text)):
        thing = importlib.import_module("equipoise")
        for part in name.split(".")[1:]:
            if not hasattr(thing, part):
                importlib.import_module(f"{thing.__name__}.{part}")
            thing = getattr(thing, part)
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if not target.startswith("https://"):
            linked = page.parent / target if target else page
            assert linked.exists(), target
            assert not anchor or anchor in _anchors(linked), f"{target}#{anchor}"


def test_gated_units_and_adapters_have_their_own_examples():
    text = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert "GLUBlock.named" in sections["Gated units"]
    assert "GLUBlock" not in sections["Adapters"]
    assert "add_adapter(" in sections["Adapters"]


def test_the_figures_of_tucka_are_those_of_its_claim():
    text = (ROOT / "docs" / "language.md").read_text(encoding="utf-8").partition("### TuckA\n")[2]
    held = json.loads((ROOT / "docs" / "claims" / "tucka.json").read_text(encoding="utf-8"))
    for arm, experiment in (
        ("TuckA, 8 groups", "Every batch from one of four regimes"),
        ("LoRA", "Every batch from one of four regimes"),
        ("MoE-LoRA", "Every batch from one of four regimes"),
        ("TuckA, 1 group", "Every batch from one of four regimes"),
        ("TuckA, 8 groups", "Negative control: every batch from all regimes"),
        ("LoRA", "Negative control: every batch from all regimes"),
        ("TuckA, 8 groups, routed by sample", "Negative control: every batch from all regimes"),
    ):
        runs = [held[block]["experiments"][experiment]["measures"][arm]["test MSE"] for block in ("recorded", "fresh")]
        first, second = (f"{statistics.fmean(values):.4f}"[1:] for values in runs)
        assert re.search(rf"\{first}\b.{{0,45}} and \{second}\b", text.replace("\n", " ")), (arm, experiment)
