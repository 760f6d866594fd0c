"""A tree over labels: who is whose ancestor, and how far apart are two classes?

Level 0 is the finest. The cost of two classes of a level is how many levels one must climb until their ancestors are
the same; a root above the coarsest level makes it at most the number of levels above and including theirs. In a
consistent tree it is the number of levels on which the ancestors differ.

The usual convention of hierarchical classification; the code of "Bidirectional Logits Tree", AAAI 2025, numbers levels
the other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int, Integer
from torch import Tensor

from equipoise.core.arrays import as_tensor
from equipoise.core.signature import checked
from equipoise.core.types import ClassTarget, Whole
from equipoise.core.validate import check_choice, check_classes


class LabelTree:
    """The ancestors of every finest class; make it with `from_paths`, `from_parents`, `from_nested` or `from_networkx`.

    Attributes:
        paths: (K₀, H) int64 ids of the ancestors of every finest class on every level; column 0 is 0..K₀−1.
        names: of the finest classes, if known.

    Raises:
        ValueError: if the paths are no consistent tree; the two classes and the level are named.

    >>> tree = LabelTree.from_nested({"animal": ["cat", "dog"], "thing": ["cup"]})
    >>> tree.num_classes, tree.cost(0)
    ((3, 2), tensor([[0, 1, 2],
            [1, 0, 2],
            [2, 2, 0]]))
    """

    @checked
    def __init__(self, paths: Integer[Tensor, "leaves levels"], names: Sequence[str] | None = None) -> None:
        held = paths.detach().to("cpu", torch.int64).clone()
        if not torch.equal(held[:, 0], torch.arange(len(held))):
            raise ValueError("paths[:, 0] must be 0, 1, 2, ...: the finest classes themselves")
        for level in range(held.shape[1]):
            ids = held[:, level].unique()
            if not torch.equal(ids, torch.arange(len(ids))):
                raise ValueError(f"ids of level {level} must be 0 to {len(ids) - 1} without gaps, got {ids.tolist()}")
        for level in range(held.shape[1] - 1):
            parents: dict[int, int] = {}
            for leaf, (child, parent) in enumerate(held[:, level : level + 2].tolist()):
                first = parents.setdefault(child, leaf)
                if int(held[first, level + 1]) != parent:
                    raise ValueError(
                        f"classes {first} and {leaf} share their ancestor on level {level} but not on level {level + 1}"
                    )
        if names is not None and len(names) != len(held):
            raise ValueError(f"{len(names)} names are given for {len(held)} finest classes")
        self.paths, self.names = held, names

    @classmethod
    def from_paths(cls, paths: Any, names: Sequence[str] | None = None) -> LabelTree:
        """From one row of ancestor ids per finest class, as a tensor, an array or rows of a CSV file."""
        return cls(as_tensor(paths), names)

    @classmethod
    @checked
    def from_parents(cls, parents: Sequence[Sequence[Whole]]) -> LabelTree:
        """From the parent of every class, level by level, the finest first.

        >>> LabelTree.from_parents([[0, 0, 1], [0, 0]]).paths
        tensor([[0, 0, 0],
                [1, 0, 0],
                [2, 1, 0]])
        """
        if not parents or not parents[0]:
            raise ValueError("parents holds no level, or its first level no class")
        columns = [torch.arange(len(parents[0]))]
        for level, row in enumerate(parents):
            upwards = torch.tensor(row)
            if len(upwards) <= int(columns[-1].max()):
                raise ValueError(f"parents[{level}] has {len(upwards)} entries; level {level} has more classes")
            columns.append(upwards[columns[-1]])
        return cls(torch.stack(columns, 1))

    @classmethod
    def from_nested(cls, nested: Mapping[str, Any]) -> LabelTree:
        """From nested dictionaries whose innermost values are lists of finest classes, in their order.

        A leaf that is less deep than others is continued by itself, level by level, up to where its parent stands.
        """
        leaves: list[tuple[str, ...]] = []

        def walk(node: Any, above: tuple[str, ...]) -> None:
            if isinstance(node, Mapping):
                for name, below in node.items():
                    walk(below, (*above, str(name)))
            else:
                leaves.extend((*above, str(name)) for name in node)

        walk(nested, ())
        return cls._from_lines(leaves)

    @classmethod
    def from_networkx(cls, graph: Any) -> LabelTree:
        """From a `networkx.DiGraph` whose edges lead from parents to children; its leaves are the finest classes.

        Raises:
            ValueError: if a node has two parents or there is a cycle.
        """
        leaves = [node for node in graph.nodes if graph.out_degree(node) == 0]
        lines = []
        for leaf in leaves:
            line, node = [str(leaf)], leaf
            while graph.in_degree(node):
                above = list(graph.predecessors(node))
                if len(above) > 1:
                    raise ValueError(f"node {node!r} has {len(above)} parents; a tree has one")
                node = above[0]
                if str(node) in line:
                    raise ValueError(f"node {node!r} is its own ancestor")
                line.append(str(node))
            lines.append(tuple(reversed(line)))
        # One root for all says nothing.
        if len({line[0] for line in lines}) == 1 and min(map(len, lines)) > 1:
            lines = [line[1:] for line in lines]
        return cls._from_lines(lines)

    @classmethod
    def _from_lines(cls, lines: Sequence[tuple[str, ...]]) -> LabelTree:
        """From names, coarsest first."""
        if not lines:
            raise ValueError("the tree has no leaf")
        names = [line[-1] for line in lines]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the finest class {twice!r} occurs twice")
        depth = max(map(len, lines))
        full = [line + (line[-1],) * (depth - len(line)) for line in lines]
        columns = []
        for level in range(depth):
            heads = [line[: depth - level] for line in full]
            ids = {head: k for k, head in enumerate(dict.fromkeys(heads))}
            columns.append(torch.tensor([ids[head] for head in heads]))
        return cls(torch.stack(columns, 1), names)

    @property
    def num_levels(self) -> int:
        """H."""
        return self.paths.shape[1]

    @property
    def num_classes(self) -> tuple[int, ...]:
        """Classes of every level, the finest first."""
        return tuple(int(column.max()) + 1 for column in self.paths.T)

    @checked
    def targets(self, target: ClassTarget) -> Int[Tensor, "n levels"]:
        """The ancestors (n, H) of finest classes (n,)."""
        check_classes(target, len(self.paths))
        return self.paths.to(target.device)[target]

    def ancestors(self, level: int) -> Int[Tensor, " leaves"]:
        """The ancestor of every finest class on a level."""
        self._check_level(level)
        return self.paths[:, level]

    def cost(self, level: int = 0) -> Int[Tensor, "classes classes"]:
        """Levels to climb until the ancestors of two classes of a level are the same, int64.

        Raises:
            ValueError: if there is no such level.
        """
        self._check_level(level)
        first = torch.zeros(self.num_classes[level], dtype=torch.int64)
        first[self.paths[:, level]] = torch.arange(len(self.paths))
        above = self.paths[first, level:]
        return torch.stack([(column[:, None] != column[None]).long() for column in above.T]).sum(0)

    def to_nested(self) -> dict[str, Any]:
        """Nested dictionaries, as `from_nested` takes them; unnamed classes are called by their numbers."""
        names = self.names or [str(k) for k in range(len(self.paths))]
        nested: dict[str, Any] = {}
        if self.num_levels == 1:
            return {"0": list(names)}
        for leaf, row in enumerate(self.paths.tolist()):
            node = nested
            for part in row[:1:-1]:
                node = node.setdefault(str(part), {})
            node.setdefault(str(row[1]), []).append(names[leaf])
        return nested

    def _check_level(self, level: int) -> None:
        check_choice("level", str(level), [str(k) for k in range(self.num_levels)])
