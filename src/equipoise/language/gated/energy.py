"""Whether two clouds of points come from one distribution, and whether nets generalise alike at equal training loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.core.validate import warn_once

# Entries of the indicator of permutations that are held at once.
_MOST = 1 << 22

LossesA = Float[Tensor, "*first"]
LossesB = Float[Tensor, "*second"]


class PermutationTest(NamedTuple):
    """A permutation test.

    Attributes:
        statistic: squared energy distance of the two samples.
        p_value: (1 + how many permutations are as far apart) / (1 + permutations).
    """

    statistic: float
    p_value: float


@checked
def energy_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], *, squared: bool = True) -> Float[Tensor, ""]:
    """The energy distance of two clouds of points, 2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖.

    Székely and Rizzo, "Energy statistics", 2013. Means are over all pairs, a point with itself among them, so it is
    never negative and 0 for the same cloud. Points are compared as points: the distance is not that of their
    coordinates mixed.

    Args:
        a: (n, d).
        b: (m, d).
        squared: whether to return this, or its square root.

    Returns:
        A scalar in float64, without gradient.

    Raises:
        ValueError: on a bad argument, by name.

    >>> energy_distance(torch.zeros(1, 1), torch.ones(1, 1))
    tensor(2., dtype=torch.float64)
    """
    distance = _distances(a, b)
    share = torch.cat([distance.new_full((len(a),), 1 / len(a)), distance.new_full((len(b),), -1 / len(b))])
    found = -(share @ distance @ share).clamp_max(0.0)
    return found if squared else found.sqrt()


@checked
def energy_permutation_test(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], *, n_perm: Count = 999, generator: Generator | None = None
) -> PermutationTest:
    """A test of whether two clouds come from one distribution, by exchanging their points at random.

    The points must be exchangeable: successive epochs of one run are not, and their p-value says too little or too
    much.

    Args:
        a: (n, d).
        b: (m, d).
        n_perm: permutations.
        generator: of the permutations; PyTorch's global one if absent.

    Raises:
        ValueError: on a bad argument, by name.

    >>> draws = torch.Generator().manual_seed(0)
    >>> cloud = torch.randn(40, 2, generator=draws)
    >>> energy_permutation_test(cloud, cloud + 2, generator=draws).p_value
    0.001
    """
    distance = _distances(a, b)
    groups = torch.arange(len(a) + len(b))
    return _permuted(distance, groups, len(a), n_perm, generator)


@checked
def generalization_gap_test(
    train_a: LossesA,
    test_a: LossesA,
    train_b: LossesB,
    test_b: LossesB,
    *,
    n_perm: Count = 999,
    generator: Generator | None = None,
) -> PermutationTest:
    """A test of whether two kinds of nets generalise alike at equal training loss.

    The points of an epoch are (training loss, test loss − training loss); the clouds of both kinds are compared by the
    energy distance. With several runs of each kind, whole runs are exchanged, which is valid. With one run of each,
    epochs are exchanged though they depend on each other, with a warning: then the p-value is no more than a hint.

    Both losses must be taken in evaluation mode on data as they are: a training loss of augmented data mixes the
    augmentation into the gap.

    Args:
        train_a: (epochs,) training losses of a run of the first kind, or (runs, epochs).
        test_a: test losses, of the same shape.
        train_b: of the second kind; it may have other numbers of runs and epochs.
        test_b: likewise.
        n_perm: permutations.
        generator: of the permutations; PyTorch's global one if absent.

    Raises:
        ValueError: on a bad argument, by name.

    >>> draws = torch.Generator().manual_seed(0)
    >>> train = torch.rand(6, 20, generator=draws)
    >>> test = train + 0.1 + 0.01 * torch.randn(6, 20, generator=draws)
    >>> generalization_gap_test(train[:3], test[:3], train[3:], test[3:], generator=draws).p_value > 0.05
    True
    """
    clouds, runs = [], []
    for name, train, test in (("a", train_a, test_a), ("b", train_b, test_b)):
        if train.shape != test.shape or train.ndim not in (1, 2):
            raise ValueError(
                f"train_{name} and test_{name} must have one shape, (epochs,) or (runs, epochs), got "
                f"{tuple(train.shape)} and {tuple(test.shape)}"
            )
        points = torch.stack([train, test - train], -1)
        runs.append(points if points.ndim == 3 else points[None])
        clouds.append(points.reshape(-1, 2))
    distance = _distances(*clouds)
    whole = min(map(len, runs)) > 1 and runs[0].shape[1] == runs[1].shape[1]
    if not whole:
        warn_once(
            "epochs of a run depend on each other, and a permutation test takes them as exchangeable: read its p-value "
            "as a hint; give (runs, epochs) of several runs of one length to exchange whole runs"
        )
        return _permuted(distance, torch.arange(sum(map(len, clouds))), len(clouds[0]), n_perm, generator)
    of_run = torch.arange(len(runs[0]) + len(runs[1])).repeat_interleave(runs[0].shape[1])
    return _permuted(distance, of_run, len(runs[0]), n_perm, generator)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    points = torch.cat([a, b]).detach().double()
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def _permuted(
    distance: Tensor, groups: Tensor, first: int, n_perm: int, generator: Generator | None
) -> PermutationTest:
    """The test under permutations of groups of points, of which the first `first` are those of the one cloud."""
    number = int(groups.max()) + 1
    sizes = torch.bincount(groups)
    groups = groups.to(distance.device)

    def statistic(orders: Tensor) -> Tensor:
        """(permutations,), of the group that stands in each place."""
        inside = torch.zeros(orders.shape, dtype=torch.bool)
        inside.scatter_(1, orders[:, :first], True)
        points = (inside * sizes).sum(1, keepdim=True).double()
        share = torch.where(inside, 1 / points, -1 / (len(groups) - points)).to(distance.device)[:, groups]
        return -((share @ distance) * share).sum(1)

    observed = float(statistic(torch.arange(number)[None]))
    rounding = 1e-12 * float(distance.mean())
    hits = 0
    for part in torch.arange(n_perm).split(max(1, _MOST // len(groups))):
        keys = torch.rand(len(part), number, generator=generator, device=generator.device if generator else None)
        # What rounding tells apart is as far apart.
        hits += int((statistic(keys.argsort(1).cpu()) >= observed - rounding).sum())
    return PermutationTest(max(observed, 0.0), (hits + 1) / (n_perm + 1))
