"""What a claim consists of. Everything here is written down before the first run.

A claim holds experiments; an experiment runs all its arms on the same data of a seed and returns measures; its parts
say which comparison or bound of these measures carries the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from equipoise.claims.lab.tuning import Tuning

LEAST_SEEDS = 5
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
        asserted: False where the worst value is only reported: it then has no verdict.
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
        run: (seed, quick) → measures of every arm; of a tuned experiment (seed, quick, setting per arm).
        parts: what is judged.
        seeds: of the recorded block, at least five, fixed before measuring. More follow where the spread is large.
        tuning: how the setting of every arm is chosen, on other seeds; None where no setting is tuned for any arm.
    """

    name: str
    protocol: str
    run: Callable[..., Measures]
    parts: tuple[Gain | Bound, ...]
    seeds: tuple[int, ...] = tuple(range(LEAST_SEEDS))
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        if len(set(self.seeds)) != len(self.seeds) or len(self.seeds) < LEAST_SEEDS:
            raise ValueError(f"seeds={self.seeds} must be at least {LEAST_SEEDS} distinct ones")
        if self.tuning is not None and set(self.tuning.seeds) & set(self.seeds):
            raise ValueError(f"the seeds of the tuning, {self.tuning.seeds}, must not be among the reported")


@dataclass(frozen=True)
class Claim:
    """What a paper says, as experiments that run here.

    Attributes:
        slug: of the paper.
        statement: the claim in a sentence.
        experiments: what is run.
        caveats: what lies outside of these experiments. What they found stands in their tables only.
    """

    slug: str
    statement: str
    experiments: tuple[Experiment, ...]
    caveats: tuple[str, ...] = ()
