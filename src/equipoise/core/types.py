"""The types of public signatures: what a tensor or a setting must be, said once and checked by `core.signature`.

Tensors are jaxtyping shapes. A setting is a Python number with a range. Where a type alone does not say enough, it is
`Annotated` with a small rule: `Range` for numbers, `Values` and `ClassIndex` for targets, `MayBeInfinite` for scores
that only have to be ranked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from jaxtyping import Bool, Float, Integer
from torch import Tensor


@dataclass(frozen=True)
class Range:
    """An interval of numbers.

    Attributes:
        low: lower end.
        high: upper end.
        low_open: whether `low` itself is left out.
        high_open: whether `high` itself is left out.
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def words(self, kind: type | None = None) -> str:
        """What a number, or a number of this kind, must do to lie in it."""
        if math.isfinite(self.high):
            return f"lie in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"
        what = "" if kind is None else "a whole number " if kind is int else "a number "
        return f"be {what}{'greater than' if self.low_open else 'at least'} {self.low:g}"


@dataclass(frozen=True)
class Values:
    """The only values that a tensor may hold.

    Attributes:
        meaning: value → what it stands for.
    """

    meaning: tuple[tuple[int, str], ...]

    def __contains__(self, value: float) -> bool:
        return any(value == allowed for allowed, _ in self.meaning)

    def __str__(self) -> str:
        return " or ".join(f"{value} ({meaning})" for value, meaning in self.meaning)


@dataclass(frozen=True)
class ClassIndex:
    """Indices from `low` to the size of another argument's dimension, exclusive; converted to int64.

    Attributes:
        dim: name of the dimension that counts the classes; None where no argument has it.
        low: least index; −1 where that marks samples of no class.
    """

    dim: str | None = "classes"
    low: int = 0


class MayBeInfinite:
    """Marks a tensor or number that may be infinite (never NaN)."""


class MayBeNaN:
    """Marks a tensor that may hold NaN and infinity, as a target does where a mask says that it is unknown."""


class MayBeEmpty:
    """Marks a tensor whose dimensions may have size 0."""


class InParts:
    """Marks a large tensor that a function works through in parts: it keeps its dtype, its values are not looked at."""


# Settings.
Real: TypeAlias = float
Positive: TypeAlias = Annotated[float, Range(0, low_open=True)]
NonNegative: TypeAlias = Annotated[float, Range(0)]
Fraction: TypeAlias = Annotated[float, Range(0, 1, low_open=True)]
OpenFraction: TypeAlias = Annotated[float, Range(0, 1, low_open=True, high_open=True)]
ProperFraction: TypeAlias = Annotated[float, Range(0, 1, high_open=True)]
Probability: TypeAlias = Annotated[float, Range(0, 1)]
Count: TypeAlias = Annotated[int, Range(1)]
Whole: TypeAlias = Annotated[int, Range(0)]
NumClasses: TypeAlias = Annotated[int, Range(2)]

# Scores.
Scores: TypeAlias = Float[Tensor, " n"]
ClassScores: TypeAlias = Float[Tensor, "n classes"]
LabelScores: TypeAlias = Float[Tensor, "n labels"]
RankedScores: TypeAlias = Annotated[Float[Tensor, " n"], MayBeInfinite()]
SampleIndex: TypeAlias = Annotated[Integer[Tensor, " n"], ClassIndex(None)]
SampleWeight: TypeAlias = Annotated[Float[Tensor, " n"], Range(0)]

# Targets.
_ZERO_ONE = Values(((0, "negative"), (1, "positive")))
_ABSENT_PRESENT = Values(((0, "absent"), (1, "present")))
BinaryTarget: TypeAlias = Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], _ZERO_ONE]
ClassTarget: TypeAlias = Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], ClassIndex()]
OpenTarget: TypeAlias = Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], ClassIndex(low=-1)]
MultilabelTarget: TypeAlias = Annotated[
    Integer[Tensor, "n labels"] | Bool[Tensor, "n labels"] | Float[Tensor, "n labels"], _ABSENT_PRESENT
]

# Results.
Scalar: TypeAlias = Float[Tensor, ""]
