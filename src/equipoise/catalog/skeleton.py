"""Skeletons of a new method: every file that a method has, each of which fails with "write me" until it is written.

Only for a checkout of the repository: the skeletons stand in `src`, `tests` and `docs`.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from string import Template

from equipoise.catalog.papers import ROOMS, Paper, parse_catalog
from equipoise.catalog.table import update_methods_table
from equipoise.catalog.templates import CONTRACT, CONTRACTS, DOCS, FILES, NEXT, ROOM_FILES

_PAPERS = "src/equipoise/catalog/papers.toml"
_ROOMS_LAYER = re.compile(r'^  "(?P<rooms>ranking[a-z |]*)",$', re.MULTILINE)


def write_skeleton(root: Path, paper: Paper, topic: str = "", class_name: str = "") -> str:
    """Write the files of a method and enter it in the lists as a draft.

    Args:
        root: root of the checkout.
        paper: its row; taken from the catalogue by its slug if it stands there as planned, else added.
        topic: folder inside the room; empty for none.
        class_name: name of the loss, ending in Loss, which module and function are named after; of the slug if empty.

    Returns:
        The files, each created or edited, and what to do next.

    Raises:
        ValueError: if `root` is no checkout, a name is not of its form, the paper is no plan any more, or a file is
            there.
    """
    room, slug = paper.room, paper.slug.replace("-", "_")
    if not (root / _PAPERS).is_file():
        raise ValueError(f"{root.resolve()} is no checkout of Equipoise: it has no {_PAPERS}")
    for what, given in (("slug", paper.slug), ("topic", topic or "none")):
        if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", given):
            raise ValueError(f"{what}={given!r} must consist of lower-case words and digits, starting with a letter")
    class_name = class_name or "".join(word.capitalize() for word in slug.split("_")) + "Loss"
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]+Loss", class_name):
        raise ValueError(f"name={class_name!r} must be that of a class that ends in Loss, such as PairwiseAUCLoss")
    function = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()
    name, folder = function.removesuffix("_loss"), f"{topic}/" if topic else ""
    values = {"slug": paper.slug, "claim": slug, "name": name, "room": room, "folder": folder}
    values |= {"Class": class_name, "function": function}
    values["source"] = textwrap.fill(f"{paper.title}, {paper.venue}. Write me: equation numbers, code.", 118)
    values["problem"] = textwrap.fill(f"{paper.problem}.", 116)
    files = dict(FILES)
    edited = {_PAPERS: _with_row((root / _PAPERS).read_text("utf-8"), paper, (class_name, function))}
    if not (root / f"src/equipoise/{room}").exists():
        files |= ROOM_FILES
        for path, change in (("src/equipoise/__init__.pyi", _with_room), ("pyproject.toml", _with_layer)):
            edited[path] = change((root / path).read_text("utf-8"), room)
    if topic and not (root / f"src/equipoise/{room}/{topic}").exists():
        files["src/equipoise/$room/${folder}__init__.py"] = f'"""{topic.capitalize().replace("_", " ")}."""\n'
    created = {Template(path).substitute(values): Template(text).substitute(values) for path, text in files.items()}
    there = [path for path in created if (root / path).exists()]
    if there:
        raise ValueError(
            f"nothing was written, since {', '.join(there)} exists already; remove it or take another slug or name"
        )

    stub = f"src/equipoise/{room}/__init__.pyi"
    edited[stub] = _with_names(_read(root / stub), f"{topic}.{name}".lstrip("."), (class_name, function))
    contracts = f"tests/contracts/entries/{room}.py"
    entries = _read(root / contracts) or Template(CONTRACTS).substitute(values)
    edited[contracts] = with_entry(entries, Template(CONTRACT).safe_substitute(values), room)
    guide = _read(root / f"docs/{room}.md") or f"# {room.capitalize()}: a guide to the room\n"
    edited[f"docs/{room}.md"] = _with_section(guide, Template(DOCS).substitute(values))
    said = []
    for path, text in {**created, **edited}.items():
        said.append(f"{'edited ' if (root / path).exists() else 'created'} {path}\n")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    if update_methods_table(root / "README.md", parse_catalog(edited[_PAPERS])):
        said.append("edited  README.md\n")
    return "".join(said) + Template(NEXT).substitute(values)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _with_row(text: str, paper: Paper, names: tuple[str, str]) -> str:
    """The paper as a draft: its row if it has one, else a new row at the end of its room's."""
    provides = "".join(f'  "equipoise.{paper.room}.{name}",\n' for name in names)
    stand = {row.slug: row for row in parse_catalog(text)}
    head, *rows = text.split("[[paper]]\n")
    if paper.slug in stand:
        if stand[paper.slug].provides:
            raise ValueError(f"paper {paper.slug!r} is no longer planned: its status is {stand[paper.slug].status}")
        place = list(stand).index(paper.slug)
        row = rows.pop(place).replace('status = "planned"', 'status = "draft"')
    else:
        place = sum(ROOMS.index(row.room) <= ROOMS.index(paper.room) for row in stand.values())
        keys = ("slug", "title", "venue", "arxiv", "url", "room", "status", "problem")
        given = {**vars(paper), "status": "draft"}
        row = "".join(f"{key} = {json.dumps(given[key], ensure_ascii=False)}\n" for key in keys if given[key])
    rows.insert(place, f"{row.rstrip()}\nprovides = [\n{provides}]\n\n")
    return "[[paper]]\n".join([head, *(f"{row.rstrip()}\n\n" for row in rows)]).rstrip() + "\n"


def _with_section(guide: str, section: str) -> str:
    """The section at the end of a guide, but before what the claims found."""
    before, *results = re.split(r"(?=\n## What the claims found)", guide, maxsplit=1)
    return "".join([before, section, *results])


def _with_names(stub: str, module: str, names: tuple[str, str]) -> str:
    lines = [*stub.splitlines(), *(f"from .{module} import {name} as {name}" for name in names)]
    return "\n".join(sorted(lines, key=stub_order)) + "\n"


def stub_order(line: str) -> tuple[str, int, str, str]:
    """The order of import sorters: by module, then constants, classes, functions."""
    _, module, _, name, *_ = line.split()
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return module, kind, name.lower(), name


def _with_room(stub: str, room: str) -> str:
    head, _, version = stub.partition("\n__version__")
    rooms = sorted({*re.findall(r"(\w+) as \w+", head), room})
    return "".join(f"from . import (\n    {name} as {name},\n)\n" for name in rooms) + f"\n__version__{version}"


def _with_layer(pyproject: str, room: str) -> str:
    return _ROOMS_LAYER.sub(lambda found: f'  "{found["rooms"]} | {room}",', pyproject, count=1)


def with_entry(text: str, entry: str, room: str) -> str:
    """An entry at the end of ENTRIES, written as the others, and the imports that it needs."""
    if "\nROOM = " not in text:
        entry = entry.replace('f"{ROOM}.', f'"equipoise.{room}.')
    listed = re.search(r"^ENTRIES[^=\n]*= ([(\[])", text, re.MULTILINE)
    close = {"(": ")", "[": "]"}[listed[1]] if listed else ""
    rest = text[listed.end() :] if listed else ""
    if rest.startswith(close):
        inside, end, after = "", close, rest[1:].removeprefix("\n")
    else:
        inside, end, after = rest.partition(f"\n{close}\n")
    if listed is None or not end:
        raise ValueError("the contract entries must hold `ENTRIES = (`, one entry per line, and `)`")
    head, start, inside = text[: listed.start()], f"{listed[0]}\n", inside.removeprefix("\n")
    found = re.search(r"from contracts\.model import (?:\(([^)]*)\)|(.*))\n", head)
    known = re.findall(r"\w+", (found.group(1) or found.group(2)) if found else "")
    names = sorted({*known, "Function", "Loss", "binary", "one_class"}, key=lambda n: (n[0].islower(), n))
    line = f"from contracts.model import {', '.join(names)}\n"
    if len(line) > 120:
        line = "from contracts.model import (\n" + "".join(f"    {name},\n" for name in names) + ")\n"
    head = head.replace(found.group(0), line) if found else f"{head}{line}\n"
    return f"{head}{start}{inside}\n{entry}{close}\n{after}" if inside else f"{head}{start}{entry}{close}\n{after}"
