"""Settings chosen alike: as many for each arm, by a validation measure on seeds that are never reported."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Setting = dict[str, float]
VALIDATION_SEEDS = (900, 901, 902)


def grid(**values: Sequence[float]) -> tuple[Setting, ...]:
    """All combinations.

    >>> grid(lr=(0.1, 1.0), margin=(1.0,))
    ({'lr': 0.1, 'margin': 1.0}, {'lr': 1.0, 'margin': 1.0})
    """
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))


@dataclass(frozen=True)
class Tuning:
    """How the settings are chosen.

    Attributes:
        grids: arm → settings to choose from, as many for every arm.
        score: (arm, setting, seed) → measure on validation data, higher is better.
        seeds: of the validation data.
    """

    grids: Mapping[str, tuple[Setting, ...]]
    score: Callable[[str, Setting, int], float]
    seeds: tuple[int, ...] = VALIDATION_SEEDS

    def __post_init__(self) -> None:
        sizes = {arm: len(settings) for arm, settings in self.grids.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"the grids must be of one size, got {sizes}")

    def choose(self, *, quick: bool = False) -> dict[str, Setting]:
        """Setting per arm: of the highest mean measure, the first of several; in quick mode each arm's first, untried.

        A measure that is not finite rules its setting out.
        """
        return {arm: settings[0] if quick else self._best(arm, settings) for arm, settings in self.grids.items()}

    def _best(self, arm: str, settings: tuple[Setting, ...]) -> Setting:
        def mean(setting: Setting) -> float:
            scores = [self.score(arm, setting, seed) for seed in self.seeds]
            return statistics.fmean(scores) if all(map(math.isfinite, scores)) else -math.inf

        return max(settings, key=mean)
