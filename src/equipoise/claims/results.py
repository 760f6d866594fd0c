"""What the runs of a claim measured, and what follows of it, as plain values that go to JSON and come back."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from equipoise.claims.lab.tuning import Setting


def readable(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"


@dataclass(frozen=True)
class ExperimentRun:
    """Measures of an experiment over a block of seeds.

    Attributes:
        seeds: that were run.
        measures: arm → measure → one value per seed.
        settings: arm → the setting that was chosen for it; empty where none is tuned.
        seconds: elapsed time.
    """

    seeds: list[int]
    measures: dict[str, dict[str, list[float]]]
    settings: dict[str, Setting]
    seconds: float


@dataclass(frozen=True)
class ClaimRun:
    """All experiments of a claim over a block of seeds.

    Attributes:
        fingerprint: of the code that measured.
        quick: whether fewer seeds or smaller sizes were used; such a run is a check that it works, not evidence.
        experiments: by name.
        seconds: elapsed time.
        environment: versions and machine.
    """

    fingerprint: str
    quick: bool
    experiments: dict[str, ExperimentRun]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClaimRun:
        """The run that `dataclasses.asdict` made these values of."""
        return cls(**{**values, "experiments": {k: ExperimentRun(**v) for k, v in values["experiments"].items()}})


@dataclass(frozen=True)
class Finding:
    """What a block of seeds says of a part.

    Attributes:
        verdict: `supported`, `not supported` or `inconclusive`; `reported` where nothing is asserted.
        value: mean paired difference of a gain, or the worst value of a bound.
        low: lower end of the interval of a gain; None for a bound.
        high: upper end of the interval of a gain; None for a bound.
        wins: on how many seeds the method did better, or the bound was kept.
        seeds: how many seeds were run.
    """

    verdict: str
    value: float
    low: float | None
    high: float | None
    wins: int
    seeds: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            found = f"worst {readable(self.value)}"
        else:
            found = f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"
        return f"{found}, {self.wins}/{self.seeds}: {self.verdict}"


@dataclass(frozen=True)
class PartResult:
    """A judged part of an experiment.

    Attributes:
        statement: what was judged.
        verdict: over both blocks: `supported`, `not supported`, `inconclusive`, `not yet repeated`, `not yet run`;
            `reported` where nothing is asserted, `quick` where only that it works was tried.
        needed: what the rule asks of each block, in words.
        recorded: what the recorded seeds say, if they were run.
        fresh: what a fresh block says, if one was run.
    """

    statement: str
    verdict: str
    needed: str
    recorded: Finding | None
    fresh: Finding | None


@dataclass(frozen=True)
class ExperimentResult:
    """The judged parts of an experiment."""

    name: str
    protocol: str
    parts: list[PartResult]


@dataclass(frozen=True)
class ClaimResult:
    """A claim, its runs, and what they say of it.

    Attributes:
        slug: of the paper.
        title: of the paper.
        statement: the claim in a sentence.
        caveats: what lies outside of its experiments.
        experiments: judged.
        recorded: the run over the seeds that the claim names; None before it was run.
        fresh: the run over other seeds; None before it was run.
    """

    slug: str
    title: str
    statement: str
    caveats: list[str]
    experiments: list[ExperimentResult]
    recorded: ClaimRun | None
    fresh: ClaimRun | None

    @property
    def parts(self) -> list[PartResult]:
        """The judged parts of all experiments."""
        return [part for experiment in self.experiments for part in experiment.parts]

    @property
    def runs(self) -> dict[str, ClaimRun]:
        """The runs there are, the recorded block first."""
        named = {"recorded": self.recorded, "fresh": self.fresh}
        return {name: run for name, run in named.items() if run is not None}

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

        def finding(block: dict[str, Any] | None) -> Finding | None:
            return None if block is None else Finding(**block)

        def part(kept: dict[str, Any]) -> PartResult:
            return PartResult(**{**kept, **{name: finding(kept[name]) for name in ("recorded", "fresh")}})

        experiments = [
            ExperimentResult(**{**experiment, "parts": [part(kept) for kept in experiment["parts"]]})
            for experiment in values["experiments"]
        ]
        runs = {
            name: None if values[name] is None else ClaimRun.from_dict(values[name]) for name in ("recorded", "fresh")
        }
        return cls(**{**values, "experiments": experiments, **runs})
