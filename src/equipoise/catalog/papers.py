"""The rows of `papers.toml`: which papers there are and where each lives."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from types import ModuleType
from typing import Any

ROOMS = (
    "ranking",
    "openworld",
    "longtail",
    "dense",
    "semisup",
    "recsys",
    "knowledge",
    "language",
    "multimodal",
    "generative",
    "crowd",
)
STATUSES = ("working", "draft", "planned")


@dataclass(frozen=True)
class Paper:
    """One paper of the corpus.

    Attributes:
        slug: its short name, e.g. in `equipoise reproduce SLUG`.
        title: as printed.
        venue: where and when it appeared.
        room: the package `equipoise.<room>` that it belongs to.
        status: `working` when `provides` can be used and the claim was run, `draft` while both are written, else
            `planned`.
        problem: what a user has who needs it.
        provides: dotted public names.
        arxiv: number on arXiv; None where not known.
        url: where it can be read, if it is not on arXiv; empty where not known.
        code: the authors' public repository, as owner/name, where formulas were checked against it; empty where not.
        equations: "what: where", the places in the paper that formulas were checked against.
        reconstructed: what neither the code nor the text of the paper says.
    """

    slug: str
    title: str
    venue: str
    room: str
    status: str
    problem: str
    provides: tuple[str, ...] = ()
    arxiv: str | None = None
    url: str = ""
    code: str = ""
    equations: tuple[str, ...] = ()
    reconstructed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.room not in ROOMS or self.status not in STATUSES:
            raise ValueError(f"paper {self.slug!r}: room={self.room!r} or status={self.status!r} is not known")
        if (self.status == "planned") == bool(self.provides):
            raise ValueError(f"paper {self.slug!r}: a working paper and a draft have `provides`, a planned one has not")
        if self.problem.endswith(".") or "|" in self.problem + self.title:
            raise ValueError(f"paper {self.slug!r}: problem={self.problem!r} must end in no full stop and hold no |")
        if self.url and not re.fullmatch(r"https?://[^\s)]+", self.url):
            raise ValueError(f"paper {self.slug!r}: url={self.url!r} must be an address")
        if self.code and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.code):
            raise ValueError(f"paper {self.slug!r}: code={self.code!r} must read owner/name")
        if not all(re.fullmatch(r"[^:]+: .+", equation) for equation in self.equations):
            raise ValueError(f"paper {self.slug!r}: equations must read 'what: where', got {self.equations}")

    @property
    def working(self) -> bool:
        """Whether it can be used now."""
        return self.status == "working"

    @property
    def link(self) -> str:
        """Where it can be read; empty where not known."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url

    def objects(self) -> dict[str, Any]:
        """Import what the paper provides: dotted name → object.

        Raises:
            ImportError, AttributeError: if a name is not there.
        """
        found = {}
        for name in self.provides:
            module, _, attribute = name.rpartition(".")
            found[name] = getattr(importlib.import_module(module), attribute)
        return found


@lru_cache(maxsize=1)
def load_catalog() -> tuple[Paper, ...]:
    """All papers, in the order of `papers.toml`.

    >>> len(load_catalog()) >= 50
    True
    """
    text = resources.files("equipoise.catalog").joinpath("papers.toml").read_text(encoding="utf-8")
    return parse_catalog(text)


def parse_catalog(text: str) -> tuple[Paper, ...]:
    """The papers of a TOML text.

    Raises:
        ValueError: if a row has an unknown or missing key or a bad value, or a slug stands twice.
    """
    known = {field.name for field in fields(Paper)}
    required = {"slug", "title", "venue", "room", "status", "problem"}
    papers: dict[str, Paper] = {}
    for row in _toml().loads(text).get("paper", []):
        slug = row.get("slug", "?")
        wrong = (set(row) - known) | (required - set(row))
        if wrong:
            raise ValueError(f"paper {slug!r}: unknown or missing keys {', '.join(sorted(wrong))}")
        if slug in papers:
            raise ValueError(f"paper {slug!r} stands in the catalogue twice")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}
        papers[slug] = Paper(**values)
    return tuple(papers.values())


def find_paper(slug: str) -> Paper:
    """The paper of that slug.

    Raises:
        ValueError: if there is none; the message suggests slugs that look alike.

    >>> find_paper("tpauc").room
    'ranking'
    """
    papers = {paper.slug: paper for paper in load_catalog()}
    if slug not in papers:
        close = difflib.get_close_matches(slug.lower(), papers, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "`equipoise methods` lists them all"
        raise ValueError(f"there is no paper {slug!r} in the catalogue; {hint}")
    return papers[slug]


def _toml() -> ModuleType:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    try:
        return importlib.import_module("tomli")
    except ImportError as error:
        raise ImportError("reading the catalogue on Python 3.10 needs `pip install tomli`") from error
