"""Test sets of many class mixes, and how a model does over all of them: mean and spread.

The field judges test-agnostic models on long tails that run forward (as in training), backward, and on an even set;
DirMixE adds mixes drawn from Dirichlet distributions around these. A suite names its sets and says which samples of a
balanced test set each of them keeps, by a seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import ClassTarget, Count, Positive, Range, Whole
from equipoise.data.sampling.long_tails import long_tail_counts, long_tail_subset

Direction: TypeAlias = Literal["forward", "uniform", "backward"]
Ratio: TypeAlias = Annotated[float, Range(1)]


@dataclass(frozen=True)
class SuiteResult:
    """Accuracy over a suite.

    Attributes:
        by_set: name → share of right samples.
        mean: over sets.
        std: over sets, of the population.
        worst: the lowest.
    """

    by_set: Mapping[str, float]
    mean: float
    std: float
    worst: float


@checked
def fixed_suite(
    target: ClassTarget, ratios: Sequence[Ratio] = (50, 25, 10, 5, 2), seed: Whole = 0
) -> dict[str, Int[Tensor, " kept"]]:
    """Forward and backward long tails of several ratios, and the even set: SADE's protocol.

    Args:
        target: (n,) classes of a test set in which every class has samples.
        ratios: of the largest to the smallest class, at least 1.
        seed: of the choice of samples.

    Returns:
        name, such as "forward 10" → indices of the samples it keeps.

    >>> suite = fixed_suite(torch.arange(100) % 4, ratios=(5,))
    >>> {name: len(rows) for name, rows in suite.items()}
    {'forward 5': 52, 'uniform': 100, 'backward 5': 52}
    """
    least, classes = _least(target)
    found = {}
    for ratio in ratios:
        found[f"forward {ratio:g}"] = long_tail_subset(target, long_tail_counts(classes, least, ratio), seed)
    found["uniform"] = long_tail_subset(target, [least] * classes, seed)
    for ratio in reversed(list(ratios)):
        found[f"backward {ratio:g}"] = long_tail_subset(target, long_tail_counts(classes, least, ratio)[::-1], seed)
    return found


@checked
def dirichlet_test_counts(
    num_classes: Count,
    max_count: Count,
    direction: Direction,
    *,
    ratio: Ratio = 100.0,
    concentration: Positive | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Samples per class of a test set whose mix is drawn near a long tail.

    The tail's counts are each multiplied by 1 + U(−.05, .05) and scaled to a total; the mix is drawn from the Dirichlet
    distribution with these as parameters, and scaled so that the largest class has `max_count`; none is below 1.

    Args:
        num_classes: C.
        max_count: samples of the largest class.
        direction: "forward", "uniform" or "backward".
        ratio: of the tail.
        concentration: the total of the parameters; `max_count` if absent, as in the authors' protocol.
        generator: of the draws.

    >>> max(dirichlet_test_counts(5, 100, "backward", generator=torch.Generator().manual_seed(0)))
    100
    """
    total = float(max_count if concentration is None else concentration)
    counts = [max_count] * num_classes if direction == "uniform" else _tail(num_classes, max_count, ratio)
    profile = torch.tensor(counts[::-1] if direction == "backward" else counts, dtype=torch.float64)
    profile = profile * (1 + 0.1 * torch.rand(num_classes, generator=generator, dtype=torch.float64) - 0.05)
    gamma = torch._standard_gamma(profile * total / profile.sum(), generator=generator).clamp_min(1e-300)
    scaled = gamma / gamma.max() * max_count
    return [max(int(value + 1e-9), 1) for value in scaled.tolist()]


@checked
def dirichlet_suite(
    target: ClassTarget,
    draws: Count = 3,
    *,
    ratio: Ratio = 100.0,
    concentration: Positive | None = None,
    seed: Whole = 0,
) -> dict[str, Int[Tensor, " kept"]]:
    """DirMixE's protocol: so many mixes drawn around each of the three directions.

    Args:
        target: (n,) classes of a test set in which every class has samples.
        draws: how many per direction.
        ratio: as in `dirichlet_test_counts`.
        concentration: as in `dirichlet_test_counts`.
        seed: of draws and choices.

    Returns:
        name, such as "backward 2" → indices of the samples it keeps.
    """
    least, classes = _least(target)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for direction in get_args(Direction):
        for k in range(draws):
            counts = dirichlet_test_counts(
                classes, least, direction, ratio=ratio, concentration=concentration, generator=generator
            )
            found[f"{direction} {k + 1}"] = long_tail_subset(target, counts, seed + k)
    return found


@checked
def suite_accuracy(
    pred: ClassTarget | Mapping[str, Int[Tensor, " kept"]],
    target: ClassTarget,
    suite: Mapping[str, Int[Tensor, " kept"]],
) -> SuiteResult:
    """Accuracy on every set of a suite.

    Args:
        pred: (n,) predicted classes of all samples; or, of a model that adapts to a set, name → those of its samples.
        target: (n,) classes.
        suite: of `fixed_suite` or `dirichlet_suite`.

    Raises:
        ValueError: if the suite is empty or lengths do not fit.

    >>> y = torch.arange(100) % 4
    >>> suite_accuracy(y, y, fixed_suite(y, ratios=(5,))).mean
    1.0
    """
    if not suite:
        raise ValueError("the suite has no set")
    by_set = {}
    if isinstance(pred, Mapping) and not suite.keys() <= pred.keys():
        raise ValueError(f"pred lacks the sets {', '.join(sorted(suite.keys() - pred.keys()))}")
    for name, rows in suite.items():
        if int(rows.max()) >= len(target):
            raise ValueError(f"{name!r} holds the sample {int(rows.max())}, target has {len(target)}")
        chosen = pred[name] if isinstance(pred, Mapping) else pred[rows]
        if chosen.shape != rows.shape:
            raise ValueError(f"{name!r} has {len(rows)} samples, got {tuple(chosen.shape)} predictions")
        by_set[name] = float((chosen == target[rows]).double().mean())
    values: Float[Tensor, " sets"] = torch.tensor(list(by_set.values()), dtype=torch.float64)
    return SuiteResult(by_set, float(values.mean()), float(values.std(correction=0)), float(values.min()))


def _tail(num_classes: int, max_count: int, ratio: float) -> list[int]:
    """At least one per class, where the plain long tail would refuse."""
    return [max(1, math.floor(max_count * ratio ** (-k / max(num_classes - 1, 1)) + 1e-9)) for k in range(num_classes)]


def _least(target: Tensor) -> tuple[int, int]:
    counts = torch.bincount(target)
    if not len(counts) or int(counts.min()) == 0:
        raise ValueError("every class of the test set needs a sample")
    return int(counts.min()), len(counts)
