"""Skeletons of a new method: every file that a method has, each of which fails with "write me" until it is written.

Only for a checkout of the repository: the skeletons stand in `src`, `tests` and `docs`.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from string import Template

from equipoise.catalog.papers import Paper, parse_catalog
from equipoise.catalog.table import update_methods_table
from equipoise.catalog.templates import CLAIM, CONTRACT, CONTRACTS, DOCS, FILES, ROOM

_PAPERS = "src/equipoise/catalog/papers.toml"
_ROOMS_LAYER = re.compile(r'^  "(?P<rooms>ranking[a-z |]*)",$', re.MULTILINE)


def write_skeleton(root: Path, paper: Paper, topic: str = "") -> list[Path]:
    """Write the files of a method and enter it in the lists; returns the files, new and changed.

    Args:
        root: root of the checkout.
        paper: its row; taken from the catalogue by its slug if it stands there as planned, else added.
        topic: folder inside the room; empty for none.

    Raises:
        ValueError: if `root` is no checkout, a name is not lower case, the paper works already, or a file is there.
    """
    room, name = paper.room, paper.slug.replace("-", "_")
    if not (root / _PAPERS).is_file():
        raise ValueError(f"{root.resolve()} is no checkout of Equipoise: it has no {_PAPERS}")
    for what, given in (("slug", paper.slug), ("topic", topic or "none")):
        if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", given):
            raise ValueError(f"{what}={given!r} must consist of lower-case words and digits, starting with a letter")
    module = f"{topic}.{name}" if topic else name
    class_name, function = "".join(word.capitalize() for word in name.split("_")) + "Loss", f"{name}_loss"
    changed = {_PAPERS: _with_row((root / _PAPERS).read_text("utf-8"), paper, (class_name, function))}
    values = {"slug": paper.slug, "name": name, "room": room, "Class": class_name, "function": function}
    values["source"] = textwrap.fill(f"{paper.title}, {paper.venue}.", 118)
    values["problem"], values["folder"] = paper.problem, f"{topic}/" if topic else ""
    new = {Template(path).substitute(values): Template(text).substitute(values) for path, text in FILES.items()}
    new[f"src/equipoise/claims/{room}/{name}.py"] = Template(CLAIM).substitute(values)
    there = [path for path in new if (root / path).exists()]
    if there:
        raise ValueError(
            f"nothing was written, since {', '.join(there)} exists already; remove it or take another slug"
        )

    stub = f"src/equipoise/{room}/__init__.pyi"
    contracts = f"tests/contracts/entries/{room}.py"
    if not (root / stub).exists():
        new[f"src/equipoise/{room}/__init__.py"] = Template(ROOM).substitute(values)
        claims = f"src/equipoise/claims/{room}/__init__.py"
        new[claims] = f'"""The claims of `{room}`, one module per paper."""\n'
        root_stub = "src/equipoise/__init__.pyi"
        changed[root_stub] = _with_room((root / root_stub).read_text("utf-8"), room)
        changed["pyproject.toml"] = _with_layer((root / "pyproject.toml").read_text("utf-8"), room)
    if topic and not (root / f"src/equipoise/{room}/{topic}").exists():
        new[f"src/equipoise/{room}/{topic}/__init__.py"] = f'"""{topic.capitalize().replace("_", " ")}."""\n'
    changed[stub] = _with_names(_read(root / stub), module, (class_name, function))
    entries = _read(root / contracts) or Template(CONTRACTS).substitute(values)
    changed[contracts] = _with_entry(entries, Template(CONTRACT).substitute(values))
    docs = f"docs/{room}.md"
    changed[docs] = (_read(root / docs) or f"# {room.capitalize()}: a guide to the room\n") + Template(DOCS).substitute(
        values
    )
    for path, text in {**new, **changed}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return [root / path for path in (*new, *changed)]


def update_readme(root: Path) -> None:
    """The README's table of methods by the catalogue on disk."""
    papers = parse_catalog((root / _PAPERS).read_text(encoding="utf-8"))
    update_methods_table(root / "README.md", papers)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _with_row(text: str, paper: Paper, names: tuple[str, str]) -> str:
    provides = "".join(f'  "equipoise.{paper.room}.{name}",\n' for name in names)
    rows = text.split("[[paper]]\n")
    for number, row in enumerate(rows):
        if f'slug = "{paper.slug}"\n' in row:
            if 'status = "working"' in row:
                raise ValueError(f"paper {paper.slug!r} works already")
            row = row.replace('status = "planned"', 'status = "working"').rstrip()
            rows[number] = f"{row}\nprovides = [\n{provides}]\n\n"
            return "[[paper]]\n".join(rows).rstrip() + "\n"
    keys = ("slug", "title", "venue", "arxiv", "room")
    row = "".join(f'{key} = "{getattr(paper, key)}"\n' for key in keys if getattr(paper, key))
    row += f'status = "working"\nproblem = "{paper.problem}"\nprovides = [\n{provides}]\n'
    parse_catalog(f"[[paper]]\n{row}")
    return f"{text.rstrip()}\n\n[[paper]]\n{row}"


def _with_names(stub: str, module: str, names: tuple[str, str]) -> str:
    lines = [*stub.splitlines(), *(f"from .{module} import {name} as {name}" for name in names)]
    return "\n".join(sorted(lines, key=_stub_order)) + "\n"


def _stub_order(line: str) -> tuple[str, int, str]:
    """The order of import sorters: by module, then constants, classes, functions."""
    _, module, _, name, *_ = line.split()
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return module, kind, name


def _with_room(stub: str, room: str) -> str:
    head, _, version = stub.partition("\n__version__")
    rooms = sorted({*re.findall(r"(\w+) as \w+", head), room})
    return "".join(f"from . import (\n    {name} as {name},\n)\n" for name in rooms) + f"\n__version__{version}"


def _with_layer(pyproject: str, room: str) -> str:
    return _ROOMS_LAYER.sub(lambda found: f'  "{found["rooms"]} | {room}",', pyproject, count=1)


def _with_entry(text: str, entry: str) -> str:
    """An entry at the end of ENTRIES, and the imports that it needs."""
    head, start, rest = text.partition("ENTRIES = (\n")
    inside, end, after = rest.partition("\n)\n") if not rest.startswith(")") else ("", ")\n", rest[2:])
    if not (start and end):
        raise ValueError("the contract entries must hold `ENTRIES = (`, one entry per line, and `)`")
    found = re.search(r"from contracts\.model import (?:\(([^)]*)\)|(.*))\n", head)
    known = re.findall(r"\w+", (found.group(1) or found.group(2)) if found else "")
    names = sorted({*known, "Function", "Loss", "binary", "one_class"}, key=lambda n: (n[0].islower(), n))
    line = f"from contracts.model import {', '.join(names)}\n"
    if len(line) > 120:
        line = "from contracts.model import (\n" + "".join(f"    {name},\n" for name in names) + ")\n"
    head = head.replace(found.group(0), line) if found else f"{head}{line}\n"
    return f"{head}{start}{inside}\n{entry})\n{after}" if inside else f"{head}{start}{entry})\n{after}"
