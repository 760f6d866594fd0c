"""`python -m equipoise.catalog README.md` writes the table of methods between the markers of that file;
`python -m equipoise.catalog new SLUG` writes the skeletons of a method, see CONTRIBUTING.md;
`python -m equipoise.catalog reference docs/reference` writes the API reference.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from equipoise.catalog.papers import Paper, load_catalog
from equipoise.catalog.reference import write_reference
from equipoise.catalog.skeleton import write_skeleton
from equipoise.catalog.table import update_methods_table


def main(arguments: list[str]) -> int:
    """Update each named file, or write skeletons, and say what happened."""
    if arguments[:1] == ["new"]:
        return _new(arguments[1:])
    if arguments[:1] == ["reference"]:
        paths = write_reference(Path(*arguments[1:2] or ["docs/reference"]))
        sys.stdout.write("".join(f"{path}\n" for path in paths))
        return 0
    if not arguments:
        sys.stderr.write("usage: python -m equipoise.catalog README.md\n       python -m equipoise.catalog new SLUG\n")
        return 2
    for name in arguments:
        changed = update_methods_table(Path(name))
        sys.stdout.write(f"{name}: {'updated' if changed else 'up to date'}\n")
    return 0


def _new(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m equipoise.catalog new", description="skeletons of a new method")
    parser.add_argument("slug", help="short name of the paper, in lower case with hyphens")
    parser.add_argument("--room", help="package it belongs to; of a planned paper that of its row")
    parser.add_argument("--topic", default="", help="folder inside the room; none by default")
    parser.add_argument("--name", default="", help="class of the loss, such as PairwiseAUCLoss; by default of the slug")
    parser.add_argument("--title", help="title of a paper that is not in the catalogue")
    parser.add_argument("--venue", help="its venue and year")
    parser.add_argument("--problem", help="what a user has who needs it, in one sentence")
    parser.add_argument("--url", default="", help="where the paper can be read, if anywhere")
    parser.add_argument("--root", type=Path, default=Path(), help="root of the checkout; here by default")
    asked = parser.parse_args(arguments)
    found = {paper.slug: paper for paper in load_catalog()}.get(asked.slug)
    needed = ("room", "title", "venue", "problem")
    missing = [f"--{key}" for key in needed if not getattr(asked, key)]
    if found is None and missing:
        parser.error(f"{asked.slug!r} is not in the catalogue; give {', '.join(missing)}")
    if found is not None and asked.room not in (None, found.room):
        parser.error(f"{asked.slug!r} stands in the catalogue as one of {found.room!r}, not {asked.room!r}")
    if found is not None and (asked.title or asked.venue or asked.problem or asked.url):
        parser.error(f"{asked.slug!r} stands in the catalogue: title, venue, problem and url are those of its row")
    try:
        paper = found or _paper(asked)
        sys.stdout.write(write_skeleton(asked.root, paper, asked.topic, asked.name))
    except ValueError as error:
        parser.error(str(error))
    return 0


def _paper(asked: argparse.Namespace) -> Paper:
    arxiv = re.fullmatch(r"https?://arxiv\.org/(?:abs|pdf)/(\d+\.\d+)(?:v\d+)?(?:\.pdf)?", asked.url)
    return Paper(
        asked.slug,
        asked.title,
        asked.venue,
        asked.room,
        "planned",
        asked.problem.strip().rstrip("."),
        arxiv=arxiv[1] if arxiv else None,
        url="" if arxiv else asked.url,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
