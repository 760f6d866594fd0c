"""How far a relation is one way: the Krackhardt hierarchy score."""

from __future__ import annotations

import math
from typing import Annotated

from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Values
from equipoise.core.validate import warn_once

_LINKS = Values(((0, "no link"), (1, "a link")))
Adjacency = Annotated[
    Integer[Tensor, "nodes nodes"] | Bool[Tensor, "nodes nodes"] | Float[Tensor, "nodes nodes"], _LINKS
]


@checked
def krackhardt_hierarchy(adjacency: Adjacency) -> float:
    """The share of links that have no link back: Σ R_ij (1 − R_ji) / Σ R_ij, 0 if symmetric, 1 if nothing is returned.

    Krackhardt, "Graph Theoretical Dimensions of Informal Organizations", 1994, in the form that Cao et al., "Geometry
    Interaction Knowledge Graph Embeddings", AAAI 2022, supplement equation 14, use for relations. A link from a node to
    itself is its own link back.

    Args:
        adjacency: (nodes, nodes) of 0 and 1, the link from i to j in row i and column j.

    Returns:
        A share in [0, 1]; NaN, with a warning, where there is no link.

    Raises:
        ValueError: if it is no square matrix of 0 and 1.

    >>> import torch
    >>> krackhardt_hierarchy(torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]]))
    0.3333333333333333
    """
    links = adjacency.bool()
    if links.shape[0] != links.shape[1]:
        raise ValueError(f"adjacency must be square, one row and one column per node, got {tuple(links.shape)}")
    total = int(links.sum())
    if not total:
        warn_once("adjacency holds no link, so its hierarchy is undefined: NaN")
        return math.nan
    return int((links & ~links.T).sum()) / total
