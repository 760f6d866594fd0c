"""What an audit found: of one prompt, branch by branch, and of a model, group of prompts by group of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

State: TypeAlias = Literal["skipped", "agrees", "deviates"]


@dataclass(frozen=True)
class Pattern:
    """One way in which a picture deviates from its prompt.

    Attributes:
        kind: "new", "lost", "style" or "patch".
        name: of the object or style; "patch".
        evidence: of every picture of a changed prompt that was looked at, how surely it deviates in the same way.
        score: the mean; where it was stopped early, the most, or with a flag the least, that the mean can be.
        verified: whether it was verified at all; if not, its score is 1.
        complete: whether every picture was looked at.
    """

    kind: str
    name: str
    evidence: tuple[float, ...]
    score: float
    verified: bool = True
    complete: bool = True

    def __str__(self) -> str:
        return self.name if self.name == self.kind else f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Branch:
    """One comparison of a prompt and its picture.

    Attributes:
        name: "object", "style" or "patch".
        state: whether it was skipped, or the picture agrees with the prompt, or deviates from it.
        asked: what the prompt asks for.
        seen: what the picture shows, with votes or a probability.
        patterns: the deviations.
        note: why it was skipped.
    """

    name: str
    state: State
    asked: tuple[str, ...] = ()
    seen: Mapping[str, float] = field(default_factory=dict)
    patterns: tuple[Pattern, ...] = ()
    note: str = ""

    @property
    def score(self) -> float:
        """The highest of its patterns; 0 without one."""
        return max((one.score for one in self.patterns), default=0.0)


@dataclass(frozen=True)
class Report:
    """What the audit of one prompt found.

    Attributes:
        prompt: as given.
        score: the highest of the branches, in [0, 1]; NaN where it is undecided.
        flagged: whether it reaches the threshold.
        pattern: what deviates most surely, in words such as "lost dog, new cat (0.9995)"; empty where nothing does.
        threshold: the score that is flagged.
        branches: the comparisons.
        safe: objects of the prompt that the picture shows, and that verification takes out of it.
        variants: the changed prompts.
        undecided: why no decision was made; None where one was.
        calls: kind of question → calls of judges.
        images: pictures that were asked for.
        seconds: that it took.
        pictures: those pictures, the first of the prompt itself; not part of `record`.
    """

    prompt: str
    score: float
    flagged: bool
    pattern: str
    threshold: float
    branches: tuple[Branch, ...] = ()
    safe: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    undecided: str | None = None
    calls: Mapping[str, int] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    pictures: tuple[Float[Tensor, "3 h w"], ...] = field(default=(), repr=False, compare=False)

    @property
    def suspicious(self) -> tuple[Pattern, ...]:
        """Every deviation of every branch."""
        return tuple(pattern for branch in self.branches for pattern in branch.patterns)

    def record(self) -> dict[str, Any]:
        """The report as plain dictionaries and lists, for JSON; a score that is not known is None."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "pictures"}
        fields["branches"] = [{**asdict(branch), "seen": dict(branch.seen)} for branch in self.branches]
        fields["score"] = None if self.undecided is not None else self.score
        return _plain({**fields, "calls": dict(self.calls)})


@dataclass(frozen=True)
class GroupRate:
    """How often prompts of a group are flagged.

    Attributes:
        name: of the group.
        prompts: that were decided.
        flagged: of those.
        undecided: prompts without a decision.
        rate: share of flags among the decided; NaN without any.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: of the test that it is flagged no more often than clean prompts, times the number of groups tested;
            None of the clean group.
    """

    name: str
    prompts: int
    flagged: int
    undecided: int
    rate: float
    low: float
    high: float
    p_value: float | None


@dataclass(frozen=True)
class ModelReport:
    """What the audit of a model found.

    Attributes:
        suspicious: whether some group of prompts is flagged more often than clean ones.
        alpha: the level of that decision.
        groups: rates by group.
        reports: of every prompt, in order.
        clean_rate: the rate of clean prompts that groups were tested against; None where a clean group was audited.
    """

    suspicious: bool
    alpha: float
    groups: tuple[GroupRate, ...]
    reports: tuple[Report, ...]
    clean_rate: float | None

    @property
    def decided(self) -> bool:
        """Whether any prompt was decided."""
        return any(report.undecided is None for report in self.reports)

    def cost(self) -> dict[str, float]:
        """Means per prompt: judge calls, pictures, suspicious objects and styles, seconds."""
        n = max(len(self.reports), 1)
        return {
            "judge calls": sum(sum(report.calls.values()) for report in self.reports) / n,
            "pictures": sum(report.images for report in self.reports) / n,
            "deviations": sum(len(report.suspicious) for report in self.reports) / n,
            "seconds": sum(report.seconds for report in self.reports) / n,
        }

    def record(self) -> dict[str, Any]:
        """The report as plain dictionaries and lists, for JSON."""
        return _plain(
            {
                "suspicious": self.suspicious,
                "decided": self.decided,
                "alpha": self.alpha,
                "clean_rate": self.clean_rate,
                "groups": [asdict(group) for group in self.groups],
                "cost": self.cost(),
                "reports": [report.record() for report in self.reports],
            }
        )


def winning_pattern(patterns: Sequence[Pattern], threshold: float) -> str:
    """The deviations that reach the threshold, or else the surest one, in words."""
    if not patterns:
        return ""
    best = max(one.score for one in patterns)
    shown = [one for one in patterns if one.score >= threshold] or [one for one in patterns if one.score == best][:1]
    return f"{', '.join(map(str, sorted(shown, key=lambda one: one.kind)))} ({best:.4f})"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and value != value else value
