"""Which way a score points: higher for what is known, or higher for what is not.

Papers on unknown inputs disagree in sign. OpenAUC's score grows with strangeness, OpenworldAUC's and every energy or
probability with familiarity, and a metric fed with the wrong one reports one minus the truth. So whoever makes a score
carries a `ScoreSpec`, and whoever judges one asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from equipoise.core.validate import check_choice

Side: TypeAlias = Literal["in", "out"]
SIDES: tuple[Side, ...] = ("in", "out")


@dataclass(frozen=True)
class ScoreSpec:
    """The direction of a score.

    Attributes:
        higher_is: "in" where a higher score means in-distribution, known or base; "out" where it means
            out-of-distribution, unknown or new.

    Raises:
        ValueError: if it is neither.

    >>> ScoreSpec("out").inward(torch.tensor([2.0, -1.0]))
    tensor([-2.,  1.])
    """

    higher_is: Side = "in"

    def __post_init__(self) -> None:
        check_choice("higher_is", self.higher_is, SIDES)

    def inward(self, scores: Tensor) -> Tensor:
        """The same scores, higher for what is known."""
        return scores if self.higher_is == "in" else -scores

    def outward(self, scores: Tensor) -> Tensor:
        """The same scores, higher for what is unknown."""
        return -scores if self.higher_is == "in" else scores


HIGHER_IS_IN = ScoreSpec("in")
HIGHER_IS_OUT = ScoreSpec("out")


def as_spec(higher_is: ScoreSpec | Side) -> ScoreSpec:
    """The spec that was given, or that a side names.

    >>> as_spec("out")
    ScoreSpec(higher_is='out')
    """
    return higher_is if isinstance(higher_is, ScoreSpec) else ScoreSpec(higher_is)
