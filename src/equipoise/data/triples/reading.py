"""Knowledge graphs from files: tables of triples, folders of parts, OpenKE's and RecBole's formats, arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from equipoise.core.signature import checked
from equipoise.data.triples.graph import PARTS, KGDataset, Part
from equipoise.data.triples.lines import Row, cells, check_width, missing_file, stem_of, table

_STEMS: Mapping[Part, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("valid", "validation", "dev", "val"),
    "test": ("test",),
}
_TEXT = (".txt", ".tsv", ".csv")
_ENDINGS = (*_TEXT, *(f"{ending}.gz" for ending in _TEXT))
# Names that headers give to the columns, in lower case and without what RecBole puts behind a colon.
_ROLES: Mapping[str, frozenset[str]] = {
    "head": frozenset({"head", "h", "head_id", "subject", "subj", "s", "source", "src", "from", "node1"}),
    "relation": frozenset(
        {"relation", "r", "relation_id", "rel", "predicate", "pred", "p", "edge", "property", "label"}
    ),
    "tail": frozenset({"tail", "t", "tail_id", "object", "obj", "o", "target", "dst", "to", "node2"}),
}


@dataclass(frozen=True)
class _Named:
    """Triples by name, (head, relation, tail)."""

    rows: Sequence[tuple[str, str, str]]


@checked
def read_triples(
    path: str | Path, *, head: str | None = None, relation: str | None = None, tail: str | None = None
) -> KGDataset:
    """Read a knowledge graph, whatever common form it has.

    - a file of three columns (.tsv, .txt, .csv, also .gz), with or without a header: all of it is the training part,
      which `split_triples` divides;
    - a folder with train and, as far as they are there, valid (validation, dev) and test, each such a file;
    - a folder of OpenKE: entity2id.txt, relation2id.txt, train2id.txt, ..., whose columns are head, tail, relation;
    - RecBole's .kg file, or a folder with one; a .link file of the same name beside it gives `items`;
    - an .npz file with arrays train, valid and test, n_entities and n_relations; names are read from
      NAME_entities.csv and NAME_relations.csv beside it (also .gz) if they are there.

    Names are text as written: "None", "NA" and "01" are names like others. Entities and relations are numbered in the
    order of their sorted names, so the order of the rows does not matter.

    Args:
        path: a file or a folder.
        head: the column of heads in a file with a header of other names than the usual (head, subject, source, ...).
        relation: the column of relations, likewise (relation, predicate, ...).
        tail: the column of tails, likewise (tail, object, target, ...).

    Raises:
        FileNotFoundError: if there is nothing at `path`, or no training part in the folder.
        ValueError: if a row has not three fields, a field is empty, a column is not there, or a count or number does
            not fit; with file and line.
    """
    path = Path(path)
    columns = {"head": head, "relation": relation, "tail": tail}
    if not path.exists():
        raise FileNotFoundError(missing_file(path))
    if path.is_dir():
        return _folder(path, columns)
    if path.suffix == ".npz":
        return _arrays(path)
    if path.suffix == ".kg":
        return _atomic(path, columns)
    return _named({"train": _triples(path, columns)})


def _folder(path: Path, columns: Mapping[str, str | None]) -> KGDataset:
    if (path / "train2id.txt").exists():
        return _openke(path)
    files = {part: _part_file(path, stems) for part, stems in _STEMS.items()}
    if files["train"] is None:
        atomic = sorted(path.glob("*.kg"))
        if len(atomic) == 1:
            return _atomic(atomic[0], columns)
        held = ", ".join(sorted(each.name for each in path.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{path} has no train.txt, train.tsv, train.csv, train2id.txt or .kg file; it has {held}"
        )
    return _named({part: _triples(file, columns) for part, file in files.items() if file is not None})


def _part_file(folder: Path, stems: Sequence[str]) -> Path | None:
    found = [folder / f"{stem}{ending}" for stem in stems for ending in _ENDINGS]
    found = [file for file in found if file.exists()]
    if len(found) > 1:
        raise ValueError(f"{folder} has both {found[0].name} and {found[1].name}; leave one")
    return found[0] if found else None


def _triples(path: Path, columns: Mapping[str, str | None]) -> _Named:
    rows = table(path)
    places = _places(path, rows[0], columns)
    body = rows if places is None else rows[1:]
    if not body:
        raise ValueError(f"{path} has a header but no triples")
    for row in body:
        check_width(path, row, len(rows[0].cells) if places else 3, "head, relation and tail")
    at = places or (0, 1, 2)
    return _Named([(row.cells[at[0]], row.cells[at[1]], row.cells[at[2]]) for row in body])


def _places(path: Path, first: Row, columns: Mapping[str, str | None]) -> tuple[int, ...] | None:
    """Where head, relation and tail stand, by the header; None if the first row is none."""
    names = [cell.split(":")[0].strip() for cell in first.cells]
    found = []
    for role, usual in _ROLES.items():
        asked = columns[role]
        if asked is not None and asked not in names:
            raise ValueError(f"{role} column {asked!r} is not in {path}; its first line has {', '.join(names)}")
        fitting = [k for k, name in enumerate(names) if (name == asked if asked else name.lower() in usual)]
        if len(fitting) == 1:
            found.append(fitting[0])
    if len(found) == 3:
        return tuple(found)
    if any(columns.values()):
        lacking = [role for role, usual in _ROLES.items() if not columns[role]]
        raise ValueError(f"{path} does not say which column is the {' and the '.join(lacking)}; name it as well")
    return None


def _named(parts: Mapping[Part, _Named], items: Mapping[str, str] | None = None) -> KGDataset:
    """Names numbered by their order."""
    rows = {part: np.array(parts[part].rows, dtype=object).reshape(-1, 3) if part in parts else None for part in PARTS}
    entities = {name for part in parts.values() for head, _, tail in part.rows for name in (head, tail)}
    entity = {name: k for k, name in enumerate(sorted(entities | set((items or {}).values())))}
    relation = {name: k for k, name in enumerate(sorted({row[1] for part in parts.values() for row in part.rows}))}
    numbered = {
        part: [(entity[head], relation[kind], entity[tail]) for head, kind, tail in found]
        if found is not None
        else None
        for part, found in rows.items()
    }
    return KGDataset.from_triples(
        *(numbered[part] for part in PARTS),
        entity_names=tuple(entity),
        relation_names=tuple(relation),
        items=None if items is None else {item: entity[name] for item, name in items.items()},
    )


def _openke(folder: Path) -> KGDataset:
    names = {kind: _numbered_names(folder / f"{kind}2id.txt") for kind in ("entity", "relation")}
    parts = {}
    for part, stems in _STEMS.items():
        file = next((each for stem in stems if (each := folder / f"{stem}2id.txt").exists()), None)
        parts[part] = None if file is None else _numbered_triples(file, names)
    return KGDataset.from_triples(
        *(parts[part] for part in PARTS), entity_names=names["entity"], relation_names=names["relation"]
    )


def _counted(path: Path, mark: str | None) -> Sequence[Row]:
    """The rows behind a first line that counts them."""
    first, *body = cells(path, mark)
    wanted = "one number, that of the lines that follow"
    if len(first.cells) != 1:
        raise ValueError(f"{path}, line {first.line}: holds {len(first.cells)} fields, wanted {wanted}")
    if _whole(path, first, 0, wanted) != len(body):
        raise ValueError(f"{path}, line {first.line}: says {first.cells[0]} lines, but {len(body)} follow")
    return body


def _numbered_names(path: Path) -> tuple[str, ...]:
    if not path.exists():
        raise FileNotFoundError(missing_file(path))
    names: dict[int, str] = {}
    body = _counted(path, "\t")
    for given in body:
        # Where no tab stands between them, the number is what comes last: a name may hold spaces.
        row = given if len(given.cells) > 1 else Row(given.line, tuple(given.cells[0].rsplit(None, 1)))
        check_width(path, row, 2, "name and number")
        number = _whole(path, row, 1, f"a number below {len(body)}", len(body))
        if number in names:
            raise ValueError(f"{path}, line {row.line}: number {number} is that of {names[number]!r} already")
        names[number] = row.cells[0]
    return tuple(names[k] for k in range(len(names)))


def _numbered_triples(path: Path, names: Mapping[str, Sequence[str]]) -> Sequence[tuple[int, int, int]]:
    found = []
    sizes = len(names["entity"]), len(names["entity"]), len(names["relation"])
    for row in _counted(path, None):
        check_width(path, row, 3, "head, tail and relation")
        head, tail, kind = (_whole(path, row, k, f"a number below {sizes[k]}", sizes[k]) for k in range(3))
        found.append((head, kind, tail))
    return found


def _whole(path: Path, row: Row, column: int, wanted: str, below: int | None = None) -> int:
    cell = row.cells[column]
    if not cell.isascii() or not cell.isdigit() or (below is not None and int(cell) >= below):
        raise ValueError(f"{path}, line {row.line}: holds {cell!r}, wanted {wanted}")
    return int(cell)


def _atomic(path: Path, columns: Mapping[str, str | None]) -> KGDataset:
    link = path.with_suffix(".link")
    items: dict[str, str] | None = None
    if link.exists():
        items = {}
        header, *body = table(link)
        names = [cell.split(":")[0].strip() for cell in header.cells]
        if {"item_id", "entity_id"} - set(names):
            raise ValueError(f"{link}, line {header.line}: must name item_id and entity_id, got {', '.join(names)}")
        for row in body:
            check_width(link, row, len(names), "item and entity")
            item = row.cells[names.index("item_id")]
            if item in items:
                raise ValueError(f"{link}, line {row.line}: item {item!r} has an entity already")
            items[item] = row.cells[names.index("entity_id")]
    return _named({"train": _triples(path, columns)}, items)


def _arrays(path: Path) -> KGDataset:
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as arrays: {str(error).splitlines()[0]}") from error
    if "train" not in held:
        raise ValueError(f"{path} has no array train; it has {', '.join(sorted(held)) or 'nothing'}")
    train, validation, test = (next((held[stem] for stem in _STEMS[part] if stem in held), None) for part in PARTS)
    entities, relations = (
        next((int(held[name]) for name in (f"n_{kind}", f"num_{kind}") if name in held), None)
        for kind in ("entities", "relations")
    )
    return KGDataset.from_triples(
        train,
        validation,
        test,
        num_entities=entities,
        num_relations=relations,
        entity_names=_symbols(path, "entities"),
        relation_names=_symbols(path, "relations"),
    )


def _symbols(path: Path, kind: str) -> tuple[str, ...] | None:
    """Names beside an .npz file: the second column of id, name."""
    files = [path.with_name(f"{stem_of(path)}_{kind}.csv{packed}") for packed in ("", ".gz")]
    file = next((each for each in files if each.exists()), None)
    if file is None:
        return None
    header, *body = table(file)
    for row in body:
        check_width(file, row, len(header.cells), "a number and a name", empty=True)
    numbers = [_whole(file, row, 0, f"a number below {len(body)}", len(body)) for row in body]
    if len(set(numbers)) != len(body):
        raise ValueError(f"{file} gives a number to two names")
    names = dict(zip(numbers, (row.cells[1] for row in body), strict=True))
    return tuple(names[k] for k in range(len(names)))
