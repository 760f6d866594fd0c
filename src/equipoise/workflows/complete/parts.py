"""The parts to learn from, to choose by and to judge by, where files do not bring all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from equipoise.data import KGDataset, read_triples, split_triples
from equipoise.workflows.complete.request import CompleteRequest
from equipoise.workflows.errors import InputError, mendable

Notice = Callable[[str], None]


def read_parts(path: str | Path, request: CompleteRequest, notice: Notice) -> tuple[KGDataset, str]:
    """The graph in three parts, and in words where they are from.

    Raises:
        InputError: if it cannot be read, or a part would be empty.
    """
    with mendable():
        try:
            graph = read_triples(path, head=request.head, relation=request.relation, tail=request.tail)
        except IndexError as error:
            raise InputError(f"{path}: {error}") from error
        found, words = _divided(graph, request, notice)
    for part in ("train", "validation", "test"):
        if not len(getattr(found, part)):
            raise InputError(f"the {part} part is empty; {path} is too small, or give a larger --test-size")
    _say_what_is_unseen(found, notice)
    return found, words


def _divided(graph: KGDataset, request: CompleteRequest, notice: Notice) -> tuple[KGDataset, str]:
    share, seed = request.test_size, request.seed
    missing = [part for part in ("validation", "test") if not len(getattr(graph, part))]
    if not missing:
        return graph, "parts as they came"
    if len(missing) == 2:
        return split_triples(graph, (1 - 2 * share, share, share), seed=seed), "held out at random"
    notice(f"there is no {missing[0]} part; {100 * share:g} % of the training part are held out for it")
    none = graph.train[:0]
    inner = split_triples(replace(graph, validation=none, test=none), (1 - share, share, 0.0), seed=seed)
    words = f"{missing[0]} part held out at random"
    if missing[0] == "test":
        return replace(graph, train=inner.train, test=inner.validation), words
    return replace(graph, train=inner.train, validation=inner.validation), words


def _say_what_is_unseen(graph: KGDataset, notice: Notice) -> None:
    entities, relations = len(graph.unseen), len(graph.unseen_relations)
    if entities or relations:
        rows = int((~seen_rows(graph.test, graph)).sum())
        notice(
            f"{entities} of {graph.num_entities} entities and {relations} of {graph.num_relations} relations are not "
            f"in the training part, and {rows} of {len(graph.test)} triples of the test part hold one of them; nothing "
            "is learned of them before the model is trained on everything"
        )


def seen_rows(triples: Tensor, graph: KGDataset) -> Tensor:
    """(n,) whether training has the head, the relation and the tail of each triple."""
    entities = torch.isin(triples[:, ::2], graph.train[:, ::2]).all(1)
    return entities & torch.isin(triples[:, 1], graph.train[:, 1])


def everything(graph: KGDataset) -> KGDataset:
    """All triples as the training part."""
    whole = torch.cat([graph.train, graph.validation, graph.test]).unique(dim=0)
    return replace(graph, train=whole, validation=whole[:0], test=whole[:0])


def entity_names(graph: KGDataset) -> Sequence[str]:
    """Names, or numbers as text."""
    return graph.entity_names or tuple(map(str, range(graph.num_entities)))


def relation_names(graph: KGDataset) -> Sequence[str]:
    """Names, or numbers as text."""
    return graph.relation_names or tuple(map(str, range(graph.num_relations)))


def asked_for(kind: str, asked: Sequence[str] | None, names: Sequence[str]) -> Tensor | None:
    """The numbers of some names, each once; None where none are asked for.

    Raises:
        InputError: if a name is not there, with one like it.
    """
    if asked is None:
        return None
    number: Mapping[str, int] = {name: k for k, name in enumerate(names)}
    for name in asked:
        if name not in number:
            raise InputError(f"there is no {kind} {name!r}{_hint(name, names)}")
    return torch.tensor([number[name] for name in dict.fromkeys(asked)], dtype=torch.int64)


def _hint(name: str, names: Sequence[str]) -> str:
    folded = next((other for other in names if other.casefold() == name.casefold()), None)
    close = [folded] if folded else get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    listed = ", ".join(names[:8])
    return f"; there are {listed}" + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")
