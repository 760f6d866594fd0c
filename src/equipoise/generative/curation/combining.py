"""One decision of several cleaners: what they all keep, any of them keeps, or enough of them.

    intersection    every cleaner keeps it
    union           one of them does
    majority        more than half of three or more do
    weighted        Σ_c a_c 1[kept by c] ≥ b

"Hybrid Generative Fusion", ICCV workshops 2025, calls it a mixture of experts; the authors' scripts run one cleaner
after the other, which is the intersection. The other modes are inferred.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from torch import Tensor

from equipoise.core.signature import checked

Sample = TypeVar("Sample", bound=Hashable)
CombineMode: TypeAlias = Literal["intersection", "union", "majority", "weighted"]


@checked
def combine_cleaners(
    members: Sequence[Any] | Tensor,
    *decisions: Iterable[Any],
    mode: CombineMode = "intersection",
    weights: Sequence[float] | None = None,
    bound: float | None = None,
) -> list[Any]:
    """The members of an identity that its cleaners keep together.

    Args:
        members: names or numbers of the samples, no two alike; may be empty.
        decisions: what each cleaner keeps of them, in any order.
        mode: "intersection", "union", "majority" of at least 3 cleaners, or "weighted".
        weights: of each cleaner, finite and at least 0, for "weighted".
        bound: least sum of weights that keeps a member; half of all weights by default.

    Returns:
        The members kept, in their order.

    Raises:
        ValueError: if there is no cleaner, members repeat, a cleaner keeps what is no member, or the mode lacks what it
            needs.

    >>> combine_cleaners(["a", "b", "c"], ["a", "b"], ["c", "b"])
    ['b']
    """
    names = unique_samples("members", members)
    if not decisions:
        raise ValueError("decisions are missing: name what each cleaner keeps")
    kept = [_known(number, _listed(each), names) for number, each in enumerate(decisions)]
    if mode == "weighted":
        scale = _checked_weights(weights, len(kept))
        least = sum(scale) / 2 if bound is None else float(bound)
        # A sum such as .1 + .7 may come out a rounding below .8.
        least -= 1e-12 * sum(scale)
    elif weights is not None or bound is not None:
        raise ValueError(f"weights and bound are for mode='weighted', got mode={mode!r}")
    else:
        if mode == "majority" and len(kept) < 3:
            raise ValueError(f"mode='majority' needs at least 3 decisions, got {len(kept)}; use 'intersection'")
        scale = [1.0] * len(kept)
        least = {"intersection": len(kept), "union": 1, "majority": len(kept) // 2 + 1}[mode]
    return [name for name in names if sum(a for a, each in zip(scale, kept, strict=True) if name in each) >= least]


def unique_samples(argument: str, samples: Iterable[Any]) -> list[Any]:
    """The samples as a list.

    Raises:
        ValueError: if two are the same.

    >>> unique_samples("members", ("a", "b"))
    ['a', 'b']
    """
    names, seen = _listed(samples), set()
    for name in names:
        if name in seen:
            raise ValueError(f"{argument} hold {name!r} twice; name every sample once")
        seen.add(name)
    return names


def _listed(samples: Iterable[Any]) -> list[Any]:
    return samples.tolist() if hasattr(samples, "tolist") else list(samples)


def _known(number: int, kept: list[Any], names: Sequence[Any]) -> set[Any]:
    known = set(names)
    unknown = [name for name in kept if name not in known]
    if unknown:
        raise ValueError(f"decisions[{number}] keeps {unknown[0]!r}, which is not among the members")
    return set(kept)


def _checked_weights(weights: Sequence[float] | None, cleaners: int) -> list[float]:
    if weights is None or len(weights) != cleaners or any(not 0 <= each < float("inf") for each in weights):
        raise ValueError(f"weights={weights!r} must be {cleaners} finite numbers of at least 0, one for each cleaner")
    return [float(each) for each in weights]
