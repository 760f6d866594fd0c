"""The API reference, one Markdown page per package, from stubs, signatures and docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from equipoise.catalog.papers import Paper, load_catalog

PACKAGES = ("core.pairs", "core.curves", "data", "training", "estimators", "workflows", "claims", "report", "catalog")


def reference_pages() -> dict[str, str]:
    """Page name → Markdown, of the rooms that work and of the packages around them."""
    rooms = list(dict.fromkeys(paper.room for paper in load_catalog() if paper.working))
    return {name: package_page(f"equipoise.{name}") for name in (*rooms, *PACKAGES)}


def package_page(name: str) -> str:
    """Every public name of a package: signature, first paragraph, the paper and the source of its formulas."""
    package = importlib.import_module(name)
    papers = {provided: paper for paper in load_catalog() for provided in paper.provides}
    sections = [
        _section(f"{name}.{public}", getattr(package, public), papers.get(f"{name}.{public}"))
        for public in sorted(package.__all__, key=str.lower)
    ]
    return "\n".join([f"# {name}", "", _first_paragraph(package), "", *sections])


def write_reference(folder: Path) -> list[Path]:
    """Write every page into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, page in reference_pages().items():
        paths.append(folder / f"{name}.md")
        paths[-1].write_text(page, encoding="utf-8")
    return paths


def _section(name: str, thing: Any, paper: Paper | None) -> str:
    lines = [f"## {name.rpartition('.')[2]}", ""]
    if callable(thing):
        lines += ["```python", f"{name}{_signature(thing)}", "```", ""]
    if isinstance(thing, ModuleType) or callable(thing):
        lines += [_first_paragraph(thing), ""]
    if paper is not None:
        lines += [
            f"Paper: [`{paper.slug}`](../claims.md#{paper.slug}), {paper.title}, {paper.venue}. {_source(paper)}",
            "",
        ]
    return "\n".join(lines)


def _signature(thing: Any) -> str:
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return "(...)"
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    text = str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    return re.sub(
        r"<function (?:\S+\.)?(<lambda>|\w+) at 0x\w+>", lambda found: found[1].replace("<lambda>", "..."), text
    )


def _first_paragraph(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0]


def _source(paper: Paper) -> str:
    parts = [f"checked against the code of `{paper.code}`"] if paper.code else []
    parts += [f"in the paper, {'; '.join(paper.equations)}"] if paper.equations else []
    parts += [f"reconstructed: {'; '.join(paper.reconstructed)}"] if paper.reconstructed else []
    return f"Source: {'. '.join(parts)}."
