"""Which claims there are, and a fingerprint of the code that their numbers come of."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect

from equipoise.catalog import find_paper, load_catalog
from equipoise.claims.model import Claim


def available_claims() -> list[str]:
    """Slugs of the papers whose claim can be run, in the order of the catalogue."""
    return [paper.slug for paper in load_catalog() if paper.working]


def load_claim(slug: str) -> Claim:
    """The claim of a paper, from `equipoise.claims.<room>`.

    Raises:
        ValueError: if there is no such paper, or it is only planned.
        ImportError: if its experiment needs a library that is not installed.
    """
    paper = find_paper(slug)
    if not paper.provides:
        raise ValueError(f"{slug!r} is planned and has no claim yet; those that run: {', '.join(available_claims())}")
    try:
        module = importlib.import_module(f"equipoise.claims.{paper.room}.{slug.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("equipoise."):
            raise
        raise ImportError(f"the claim {slug!r} needs {error.name}; pip install 'equipoise[cli]'") from error
    claim: Claim = module.CLAIM
    return claim


def fingerprint(claim: Claim) -> str:
    """Hash of the code that measures: the claim's modules and those of `equipoise.claims` that they import.

    Docstrings, comments and the `CLAIM` itself are left out: what is said and judged may change without a new run.
    """
    waiting, seen = {experiment.run.__module__ for experiment in claim.experiments}, set[str]()
    texts = []
    while waiting - seen:
        name = min(waiting - seen)
        seen.add(name)
        text, imported = measuring_code(inspect.getsource(importlib.import_module(name)))
        texts.append(f"{name}\n{text}")
        waiting |= imported
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16]


def measuring_code(source: str) -> tuple[str, set[str]]:
    """The lines of a module that make numbers, and the modules of `equipoise.claims` that it imports.

    >>> measuring_code("'''Words.'''\\nRATE = 0.1  # fast\\n\\nCLAIM = 'it works'\\n")
    ('RATE = 0.1  # fast', set())
    """
    left_out, imported = set[int](), set[str]()
    for node in ast.walk(ast.parse(source)):
        words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if words or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CLAIM"):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("equipoise.claims."):
            imported.add(node.module or "")
    lines = [line for number, line in enumerate(source.splitlines(), 1) if number not in left_out]
    code = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return "\n".join(code), imported - {"equipoise.claims.model"}
