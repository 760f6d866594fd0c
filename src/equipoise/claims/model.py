"""What a claim consists of. Everything here is written down before the first run.

A claim holds experiments; an experiment runs all its arms on the same data of a seed and returns measures; its parts
say which comparison or bound of these measures carries the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Measures = Mapping[str, Mapping[str, float]]
"""arm → measure → value."""


@dataclass(frozen=True)
class Gain:
    """A method does better than a baseline, by paired differences over seeds.

    Attributes:
        statement: the sentence that is judged.
        method: arm that should do better.
        baseline: arm it is compared with, on the same data and seeds.
        measure: what is compared.
        minimum_effect: the least mean difference worth having, in units of the measure, above 0.
        higher_is_better: whether the method should have the higher value.
        asserted: False where the difference is only reported: it then has no verdict.
    """

    statement: str
    method: str
    baseline: str
    measure: str
    minimum_effect: float
    higher_is_better: bool = True
    asserted: bool = True

    def __post_init__(self) -> None:
        if not self.minimum_effect > 0:
            raise ValueError(f"minimum_effect={self.minimum_effect!r} must be above 0: the least difference of use")


@dataclass(frozen=True)
class Bound:
    """A measure keeps a bound on every seed: for what must hold exactly, or as a ratio.

    Attributes:
        statement: the sentence that is judged.
        arm: whose measure.
        measure: what is bounded.
        at_most: upper bound, or None.
        at_least: lower bound, or None.
    """

    statement: str
    arm: str
    measure: str
    at_most: float | None = None
    at_least: float | None = None
    asserted: bool = True

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"bound {self.statement!r} must have either at_most or at_least")


@dataclass(frozen=True)
class Experiment:
    """Arms that run on the same data, for fixed seeds.

    Attributes:
        name: what is looked at, in a few words.
        protocol: how, so that a reader could do it again.
        run: (seed, quick) → measures of every arm.
        seeds: all seeds, fixed before measuring.
        quick_seeds: how many of them, from the first, in quick mode.
        parts: what is judged.
    """

    name: str
    protocol: str
    run: Callable[[int, bool], Measures]
    seeds: tuple[int, ...]
    quick_seeds: int
    parts: tuple[Gain | Bound, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.quick_seeds <= len(self.seeds):
            raise ValueError(f"quick_seeds={self.quick_seeds} must lie between 1 and {len(self.seeds)}")


@dataclass(frozen=True)
class Claim:
    """What a paper says, as experiments that run here.

    Attributes:
        slug: of the paper.
        statement: the claim in a sentence.
        experiments: what is run.
        caveats: what these experiments were not expected to show, or cannot.
    """

    slug: str
    statement: str
    experiments: tuple[Experiment, ...]
    caveats: tuple[str, ...] = ()
