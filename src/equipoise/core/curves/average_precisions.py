"""Average precision of many rows at once, with one threshold for equal scores, as in scikit-learn.

    AP = mean over relevant candidates of #(relevant that score as high) / #(all that score as high)

which is counts alone (`list_ranks`), without a sort that carries indices along.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from equipoise.core.curves.list_ranks import counts_among, list_counts


def average_precisions(
    scores: Float[Tensor, "rows candidates"], relevant: Bool[Tensor, "rows candidates"]
) -> Float[Tensor, " rows"]:
    """The average precision of every row.

    Args:
        scores: (rows, candidates), the higher the earlier; −∞ for a candidate that does not count.
        relevant: (rows, candidates).

    Returns:
        (rows,) float64; NaN for a row without a relevant candidate.

    >>> average_precisions(torch.tensor([[0.9, 0.8, 0.5, 0.1]]), torch.tensor([[True, False, True, False]]))
    tensor([0.8333], dtype=torch.float64)
    """
    row, wanted = relevant.nonzero(as_tuple=True)
    counts = relevant.sum(1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    values = scores[row, wanted]
    among_all = list_counts(scores, offsets, wanted).reached
    among_relevant = counts_among(values, row, values, row).reached
    terms = among_relevant.double() / among_all
    sums = torch.zeros(len(scores), dtype=terms.dtype, device=terms.device).index_add_(0, row, terms)
    return sums / counts
