"""`python -m equipoise.catalog README.md` writes the table of methods between the markers of that file;
`python -m equipoise.catalog new SLUG` writes the skeletons of a method; see CONTRIBUTING.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from equipoise.catalog.papers import Paper, load_catalog
from equipoise.catalog.skeleton import update_readme, write_skeleton
from equipoise.catalog.table import update_methods_table


def main(arguments: list[str]) -> int:
    """Update each named file, or write skeletons, and say what happened."""
    if arguments[:1] == ["new"]:
        return _new(arguments[1:])
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
    parser.add_argument("--title", help="title of a paper that is not in the catalogue")
    parser.add_argument("--venue", help="its venue and year")
    parser.add_argument("--problem", help="what a user has who needs it, in one sentence without a full stop")
    parser.add_argument("--root", type=Path, default=Path(), help="root of the checkout; here by default")
    asked = parser.parse_args(arguments)
    found = {paper.slug: paper for paper in load_catalog()}.get(asked.slug)
    needed = ("room", "title", "venue", "problem")
    missing = [f"--{key}" for key in needed if found is None and not getattr(asked, key)]
    if missing:
        parser.error(f"{asked.slug!r} is not in the catalogue; give {', '.join(missing)}")
    if found is not None and asked.room not in (None, found.room):
        parser.error(f"{asked.slug!r} stands in the catalogue as one of {found.room!r}, not {asked.room!r}")
    try:
        paper = found or Paper(asked.slug, asked.title, asked.venue, asked.room, "planned", asked.problem)
        paths = write_skeleton(asked.root, paper, asked.topic)
        update_readme(asked.root)
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write("".join(f"{path}\n" for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
