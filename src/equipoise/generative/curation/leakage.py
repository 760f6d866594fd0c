"""Whether somebody of a protected set is in a data set: the nearest protected sample of every candidate.

    leak(e) = max_r e·r / (|e| |r|)        leaked where leak(e) ≥ θ

θ is .5, or what a given share of pairs of different protected identities reaches. "Hybrid Generative Fusion", ICCV
workshops 2025, names the check in its abstract; no script or threshold was released, so that this is reconstructed.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from equipoise.core.nearest import cosine_blocks, nearest_rows, unit_block, working_dtype
from equipoise.core.signature import checked
from equipoise.core.types import Count, InParts, OpenFraction

Candidates: TypeAlias = Annotated[Float[Tensor, "n d"], InParts()]
Reference: TypeAlias = Annotated[Float[Tensor, "m d"], InParts()]
ReferenceIdentity: TypeAlias = Integer[Tensor, " m"]
_ROWS = 2048


class LeakageCheck(NamedTuple):
    """What `leakage_check` finds.

    Attributes:
        max_similarity: (n,) cosine of each candidate with the nearest reference row.
        nearest: (n,) which row that is, the first of equal ones.
        leaked: (n,) whether the threshold is reached.
    """

    max_similarity: Float[Tensor, " n"]
    nearest: Int[Tensor, " n"]
    leaked: Bool[Tensor, " n"]


class IdentityCentres(NamedTuple):
    """The mean direction of each identity.

    Attributes:
        centres: (k, d) unit rows.
        identity: (k,) whose they are, ascending.
    """

    centres: Float[Tensor, "k d"]
    identity: Int[Tensor, " k"]


class SimilarityHistogram(NamedTuple):
    """How near the reference is, counted.

    Attributes:
        edges: (bins + 1,) of the bins, from −1 to 1.
        counts: (bins,) candidates in each; a bin holds its lower edge, the last one both.
    """

    edges: Float[Tensor, " edges"]
    counts: Int[Tensor, " bins"]


@checked
def leakage_check(candidates: Candidates, reference: Reference, threshold: OpenFraction = 0.5) -> LeakageCheck:
    """The nearest reference row of every candidate, exactly, in memory that does not grow with n m.

    Rows are samples or centres (`identity_centres`), on either side. A centre smooths over samples of a person that
    look unlike each other; sample against sample finds the single picture that is too near.

    Args:
        candidates: (n, d) of any length.
        reference: (m, d) of any length.
        threshold: cosine from which a candidate is leaked, in (0, 1).

    Raises:
        ValueError: on a bad argument, by name; if a row is zero.

    >>> found = leakage_check(torch.tensor([[2.0, 0.1], [-1.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    >>> found.leaked.tolist(), found.nearest.tolist()
    ([True, False], [0, 0])
    """
    found = nearest_rows(candidates, reference, names=("candidates", "reference"))
    return LeakageCheck(found.similarity, found.row, found.similarity >= threshold)


@checked
def identity_centres(embeddings: Candidates, identity: Integer[Tensor, " n"]) -> IdentityCentres:
    """The mean of the unit rows of each identity, as a unit row.

    Args:
        embeddings: (n, d) of any length.
        identity: (n,) whose sample each row is.

    Raises:
        ValueError: on a bad argument, by name; if the rows of an identity cancel.

    >>> identity_centres(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), torch.tensor([5, 7, 7])).centres
    tensor([[1., 0.],
            [0., 1.]])
    """
    found, place = identity.unique(return_inverse=True)
    dtype = working_dtype(embeddings)
    total = torch.zeros(len(found), embeddings.shape[1], dtype=torch.float64, device=embeddings.device)
    for start in range(0, len(embeddings), _ROWS):
        part = slice(start, min(start + _ROWS, len(embeddings)))
        total.index_add_(0, place[part], unit_block("embeddings", embeddings, part, dtype).double())
    norm = total.norm(dim=1, keepdim=True)
    if bool((norm < 1e-9).any()):
        raise ValueError(f"embeddings of identity {int(found[(norm[:, 0] < 1e-9)][0])} cancel, so it has no centre")
    return IdentityCentres((total / norm).to(dtype), found.long())


@checked
def calibrate_leakage_threshold(
    reference: Reference, identity: ReferenceIdentity, false_match_rate: OpenFraction = 1e-3
) -> float:
    """The cosine that a share of pairs of different identities reaches, and not more than that.

    All pairs are looked at. What is held is the share of them that is asked for.

    Args:
        reference: (m, d) embeddings of known people.
        identity: (m,) who each is.
        false_match_rate: share of pairs of different identities that may count as the same, in (0, 1).

    Raises:
        ValueError: on a bad argument, by name; if there are fewer than 1 / `false_match_rate` such pairs, or their
            cosines are not above 0 at that rate.

    >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.6, 0.8], [0.0, 1.0]])
    >>> round(calibrate_leakage_threshold(rows, torch.tensor([0, 0, 1, 2]), 0.25), 3)
    0.8
    """
    sizes = identity.unique(return_counts=True)[1].double()
    pairs = round((len(identity) ** 2 - float((sizes**2).sum())) / 2)
    # A share of a whole number of pairs, such as .29 of 100, may come out a rounding below it.
    wanted = int(false_match_rate * pairs * (1 + 1e-12))
    if wanted < 1:
        raise ValueError(
            f"reference has {pairs} pairs of different identities, too few for false_match_rate={false_match_rate:g}; "
            "give more of them or raise the rate"
        )
    # One more than may match: the largest that must not.
    top = torch.empty(0, dtype=working_dtype(reference), device=reference.device)
    names = ("reference", "reference")
    for rows, columns, cosines in cosine_blocks(reference, reference, names=names, block=(_ROWS, _ROWS), upper=True):
        different = identity[rows, None] != identity[None, columns]
        number = torch.arange(len(identity), device=identity.device)
        different &= number[rows, None] < number[None, columns]
        if len(top) > wanted:
            different &= cosines > top.min()
        top = torch.cat([top, cosines[different]])
        if len(top) > wanted:
            top = top.topk(min(wanted + 1, len(top))).values
    most = top.sort(descending=True).values
    allowed, refused = most[wanted - 1], most[wanted] if len(most) > wanted else most.new_tensor(-1.0)
    if allowed == refused:
        # Equal cosines are matched together or not at all.
        allowed = torch.nextafter(allowed, torch.full_like(allowed, 2.0))
    threshold = float(allowed)
    if not 0 < threshold < 1:
        raise ValueError(f"reference reaches the cosine {threshold:g} at that rate, which is no threshold in (0, 1)")
    return threshold


@checked
def similarity_histogram(max_similarity: Float[Tensor, " n"], bins: Count = 40) -> SimilarityHistogram:
    """How many candidates are how near to the reference: the privacy report of a data set.

    Args:
        max_similarity: (n,) of `leakage_check`.
        bins: equal parts of [−1, 1].

    >>> similarity_histogram(torch.tensor([-1.0, 0.4, 0.6, 1.0]), 4).counts
    tensor([1, 0, 1, 2])
    """
    edges = torch.linspace(-1.0, 1.0, bins + 1, dtype=torch.float64)
    place = torch.bucketize(max_similarity.detach().double().cpu().clamp(-1.0, 1.0), edges[1:-1], right=True)
    return SimilarityHistogram(edges, torch.bincount(place, minlength=bins))
