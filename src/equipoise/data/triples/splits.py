"""Random parts of the triples of a graph, training keeping everything that something can be learned of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Whole
from equipoise.core.validate import warn_once
from equipoise.data.triples.graph import KGDataset


@checked
def split_triples(
    graph: KGDataset, fractions: Sequence[NonNegative] = (0.8, 0.1, 0.1), *, cover: bool = True, seed: Whole = 0
) -> KGDataset:
    """Split all triples of a graph at random.

    With `cover`, training is given, for every entity and every relation, one of its triples, chosen greedily in a
    random order; the rest is filled at random, so that the sizes are those of the fractions. Where the training part
    is too small for that, triples that hold two or three new things come first, and it is warned of how many entities
    and relations are left out.

    Args:
        graph: whose parts are put together first.
        fractions: of training, validation and test; scaled to sum to 1.
        cover: whether entities and relations are kept in training; without it every triple is as likely in each part,
            and the test asks for entities that nothing is known of.
        seed: of the shuffle.

    Raises:
        ValueError: if there are not three fractions, they are all zero, or training would be empty.

    >>> graph = KGDataset.from_triples([[0, 0, k] for k in range(1, 11)] + [[k, 0, 1] for k in range(2, 11)])
    >>> split = split_triples(graph, (0.6, 0.2, 0.2))
    >>> len(split.train), len(split.validation), len(split.test), split.unseen.tolist()
    (11, 4, 4, [])
    """
    if len(fractions) != 3 or not sum(fractions) > 0:
        raise ValueError(
            f"fractions={tuple(fractions)} must be three shares (training, validation, test) with a sum above 0"
        )
    whole = torch.cat([graph.train, graph.validation, graph.test]).unique(dim=0).numpy()
    order = np.random.default_rng(seed).permutation(len(whole))
    ends = np.round(np.cumsum(fractions) / sum(fractions) * len(whole)).astype(np.int64)
    if not ends[0]:
        raise ValueError(f"fractions={tuple(fractions)} leave no triple of {len(whole)} for training")
    whole = whole[order]
    if cover:
        whole = whole[np.argsort(-_new_things(whole, graph.num_entities), kind="stable")]
        rest = np.random.default_rng(seed).permutation(len(whole) - ends[0])
        whole[ends[0] :] = whole[ends[0] :][rest]
    train, validation, test = (torch.from_numpy(part.copy()) for part in np.split(whole, ends[:2]))
    found = replace(graph, train=train, validation=validation, test=test)
    lost = len(found.unseen), len(found.unseen_relations)
    if cover and any(lost):
        warn_once(
            f"{lost[0]} entities and {lost[1]} relations of validation and test are not in training, which is too "
            "small to hold them all; give it a larger fraction"
        )
    return found


def _new_things(triples: np.ndarray, num_entities: int) -> np.ndarray:
    """How many of the entities and the relation of each triple no earlier triple holds."""
    things = triples.copy()
    things[:, 1] += num_entities
    _, first = np.unique(things.reshape(-1), return_index=True)
    return np.bincount(first // 3, minlength=len(triples))
