"""The candidates that score highest, without a sort of the whole row."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def top_candidates(
    scores: Float[Tensor, "rows candidates"],
    k: int,
    excluded_offsets: Int[Tensor, " rows_and_one"] | None = None,
    excluded: Int[Tensor, " excluded"] | None = None,
) -> Int[Tensor, "rows k"]:
    """The k candidates that score highest, without the excluded ones; of equal scores the smaller index comes first.

    Args:
        scores: (rows, candidates), the higher the earlier.
        k: length of the list.
        excluded_offsets: (rows + 1,) bounds of each row's part of `excluded`; nothing is excluded by default.
        excluded: indices of candidates that may not stand in the list.

    Returns:
        (rows, k) indices; −1 behind the last candidate of a row that has fewer than k.

    >>> top_candidates(torch.tensor([[0.5, 0.9, 0.5, 0.5]]), 3, torch.tensor([0, 1]), torch.tensor([0]))
    tensor([[1, 2, 3]])
    """
    rows, candidates = scores.shape
    barred = torch.zeros_like(scores, dtype=torch.bool)
    if excluded_offsets is not None and excluded is not None:
        row = torch.repeat_interleave(torch.arange(rows, device=scores.device), excluded_offsets.diff())
        barred[row, excluded] = True
        scores = scores.masked_fill(barred, -torch.inf)
    width = min(k, candidates)
    values, places = scores.topk(width, dim=1)
    # Among equal scores `topk` takes any: where the last one has equals outside, they are taken by index, and what is
    # excluded comes after a candidate that scores minus infinity.
    last = values[:, -1:]
    for row_number in ((scores == last).sum(1) > (values == last).sum(1)).nonzero().squeeze(1).tolist():
        above = places[row_number][values[row_number] > last[row_number]]
        equal = scores[row_number] == last[row_number]
        taken = torch.cat([(equal & ~barred[row_number]).nonzero(), (equal & barred[row_number]).nonzero()]).squeeze(1)
        places[row_number] = torch.cat([above, taken[: width - len(above)]])
    places = places.sort(1).values
    places = places.gather(1, barred.gather(1, places).sort(stable=True, dim=1).indices)
    places = places.gather(1, scores.gather(1, places).sort(descending=True, stable=True, dim=1).indices)
    places = places.masked_fill(barred.gather(1, places), -1)
    return torch.nn.functional.pad(places, (0, k - width), value=-1)
