"""What a run of a claim found, as plain values that go to JSON and come back."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


def readable(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"


@dataclass(frozen=True)
class PartResult:
    """A judged part of an experiment.

    Attributes:
        statement: what was judged.
        verdict: `supported`, `not supported` or `inconclusive`, each followed by ` (quick)` if it comes of a quick run;
            `reported` where nothing was asserted.
        needed: what the rule asked for, in words.
        value: mean paired difference of a gain, or the worst value of a bound.
        low: lower end of the interval of a gain; None for a bound.
        high: upper end of the interval of a gain; None for a bound.
        wins: on how many seeds the method did better, or the bound was kept.
        seeds: how many seeds were run.
    """

    statement: str
    verdict: str
    needed: str
    value: float
    low: float | None
    high: float | None
    wins: int
    seeds: int

    @property
    def found(self) -> str:
        """The difference with its interval, or the worst value, for a reader."""
        if self.low is None or self.high is None:
            return f"worst {readable(self.value)}"
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True)
class ExperimentResult:
    """The measures of every arm and seed, and the judged parts."""

    name: str
    protocol: str
    seeds: list[int]
    all_seeds: int
    measures: dict[str, dict[str, list[float]]]
    parts: list[PartResult]
    seconds: float


@dataclass(frozen=True)
class ClaimResult:
    """All experiments of a claim.

    Attributes:
        slug: of the paper.
        title: of the paper.
        statement: the claim in a sentence.
        quick: whether fewer seeds or smaller sizes were used; such a result is a check that it runs, not evidence.
        experiments: what was run.
        caveats: what was not expected to show.
        seconds: elapsed time.
        environment: versions and machine.
    """

    slug: str
    title: str
    statement: str
    quick: bool
    experiments: list[ExperimentResult]
    caveats: list[str]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> list[PartResult]:
        """The judged parts of all experiments."""
        return [part for experiment in self.experiments for part in experiment.parts]

    @property
    def summary(self) -> str:
        """How many parts got which verdict, for example `5 supported, 1 inconclusive`."""
        counts = Counter(part.verdict for part in self.parts)
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())

    def to_dict(self) -> dict[str, Any]:
        """As nested dicts and lists, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClaimResult:
        """The result that `to_dict` made these values of."""
        experiments = [
            ExperimentResult(**{**experiment, "parts": [PartResult(**part) for part in experiment["parts"]]})
            for experiment in values["experiments"]
        ]
        return cls(**{**values, "experiments": experiments})
