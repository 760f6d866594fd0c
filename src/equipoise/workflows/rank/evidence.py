"""What speaks for looking at an annotator: agreement below what is to be expected, a side that is preferred, the path.

Every answer of a person has a chance under the Bradley–Terry scores of others. The number of agreements, and of answers
for the left side, is then a sum of independent draws, whose tails are exact for few answers and normal for many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.data import Comparisons
from equipoise.workflows.rank.consensus import others_scores
from equipoise.workflows.rank.personal import Personal

LEVEL = 0.05
# Groups of annotators that are judged by the others, and answers up to which tails are exact.
_GROUPS, _EXACT = 20, 300
# Where more than this share has left the consensus, only the first ones are told of.
_MANY, _FIRST = 0.5, 0.1
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Annotator:
    """An annotator.

    Attributes:
        name: of them.
        answers: how many.
        ties: share of answers that are ties.
        agreement: share of decided answers as the scores of others have it; NaN where others say nothing.
        expected: share to be expected of who answers by these scores.
        agreement_p: chance of agreeing so little.
        left: share of decided answers for the left item.
        expected_left: to be expected.
        left_p: chance of a share so far from it.
        leaves_at: time of the path; infinite for who stays, NaN where there is no path.
        place: 1 for who leaves first; 0 for who stays.
        deviation: length of the deviations from the consensus; NaN where there is no path.
        reasons: why to look at them, in words; none for most.
    """

    name: str
    answers: int
    ties: float
    agreement: float
    expected: float
    agreement_p: float
    left: float
    expected_left: float
    left_p: float
    leaves_at: float
    place: int
    deviation: float
    reasons: tuple[str, ...]


def look_at(said: Comparisons, names: Sequence[str], personal: Personal, ridge: float, seed: int) -> list[Annotator]:
    """Everybody who answered, those with most reasons to be looked at first."""
    gap, known = others_scores(said, ridge or 0.1, _GROUPS, seed)
    chance = torch.sigmoid(gap)
    alone = int((said.per_annotator > 0).sum()) == 1
    rows: list[Annotator] = []
    by_person = torch.argsort(said.annotator, stable=True).split(said.per_annotator.tolist())
    leaving = personal.leaving
    for person, mine in enumerate(by_person):
        if not len(mine):
            continue
        label, weight = said.label[mine], said.weight[mine]
        decided = label != 0
        judged = decided & known[mine] & (gap[mine] != 0)
        agrees = ((gap[mine] > 0) == (label > 0))[judged]
        p = chance[mine]
        agreement = _share(agrees, p.maximum(1 - p)[judged], weight[judged])
        side = decided & (known[mine] | alone)
        left = _share((label > 0)[side], p[side] if not alone else torch.full_like(p[side], 0.5), weight[side])
        leaves, place, deviation = leaving.get(person, (math.inf if leaving else math.nan, 0, math.nan))
        ties = float(weight[~decided].sum() / weight.sum())
        name = names[person]
        rows.append(
            Annotator(name, len(mine), ties, *agreement[:3], left[0], left[1], left[3], leaves, place, deviation, ())
        )
    return _with_reasons(rows, personal)


def _share(hit: Tensor, chance: Tensor, weight: Tensor) -> tuple[float, float, float, float]:
    """The weighted share of hits, the one to be expected, the lower tail, and both tails."""
    if not len(hit):
        return math.nan, math.nan, math.nan, math.nan
    total = float(weight.sum())
    observed, expected = float(weight @ hit.double()), float(weight @ chance)
    if len(hit) <= _EXACT and bool((weight == 1).all()):
        mass = _poisson_binomial(chance.numpy())
        at = round(observed)
        low, high = float(mass[: at + 1].sum()), float(mass[at:].sum())
    else:
        spread = math.sqrt(float((weight**2) @ (chance * (1 - chance))))
        z = (observed - expected) / max(spread, 1e-12)
        low, high = (float(torch.special.ndtr(torch.tensor(side, dtype=torch.float64))) for side in (z, -z))
    return observed / total, expected / total, min(low, 1.0), min(1.0, 2 * min(low, high))


def _poisson_binomial(chance: Vector) -> Vector:
    """The chances of 0 to n hits."""
    mass = np.zeros(len(chance) + 1)
    mass[0] = 1.0
    for count, p in enumerate(chance, start=1):
        mass[1 : count + 1] = mass[1 : count + 1] * (1 - p) + mass[:count] * p
        mass[0] *= 1 - p
    return mass


def false_discoveries(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several tests stand, at a share of false ones of `level` (Benjamini and Hochberg); NaN never does."""
    values = np.array([math.inf if math.isnan(p) else p for p in p_values])
    tests = int(np.isfinite(values).sum())
    order = np.sort(values)[:tests]
    passing = np.flatnonzero(order <= level * np.arange(1, tests + 1) / max(tests, 1))
    return (values <= order[passing[-1]]).tolist() if len(passing) else [False] * len(values)


def _with_reasons(rows: Sequence[Annotator], personal: Personal) -> list[Annotator]:
    low = false_discoveries([row.agreement_p for row in rows])
    sided = false_discoveries([row.left_p for row in rows])
    gone = sum(row.leaves_at <= personal.until for row in rows)
    last = math.inf if gone <= _MANY * len(rows) else max(1, round(_FIRST * len(rows)))
    found = []
    for row, disagrees, one_sided in zip(rows, low, sided, strict=True):
        reasons = []
        if disagrees:
            reasons.append(f"agrees in {100 * row.agreement:.0f} %, expected {100 * row.expected:.0f} %")
        if one_sided:
            reasons.append(_sided(row.left, row.expected_left))
        if row.leaves_at <= personal.until and row.place <= last:
            reasons.append(f"leaves the consensus as number {row.place} of {len(rows)}")
        found.append(replace(row, reasons=tuple(reasons)))
    return sorted(found, key=lambda row: (-len(row.reasons), row.place or math.inf, _or_one(row.agreement_p)))


def _sided(left: float, expected: float) -> str:
    side, share, wanted = ("left", left, expected) if left > expected else ("right", 1 - left, 1 - expected)
    often = "always" if share == 1 else f"in {100 * share:.0f} %"
    return f"{often} the {side} one, expected {100 * wanted:.0f} %"


def _or_one(value: float) -> float:
    return 1.0 if math.isnan(value) else value
