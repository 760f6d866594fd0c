"""The original text for the first part of sampling, the debiased one for the rest.

    emb(t) = original    where t ≥ τ                τ = switch_fraction · T
             debiased    where t < τ                t runs from T − 1 down to 0

Early steps fix layout and global shape, so that picture quality is that of the original model; what is decided late is
decided by the debiased text. An attribute that is decided early needs τ near T. Both embeddings are computed once: the
extra cost of a picture is one pass of the text encoder.

Source: LightFair, NeurIPS 2025. Reconstructed: the overview figure shows the original encoder first and the debiased
one last; how τ is counted is inferred.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from equipoise.core.signature import checked
from equipoise.core.types import Count, Probability
from equipoise.core.validate import check_fraction


class TwoStagePlan(NamedTuple):
    """Which text is read at which step.

    Attributes:
        timesteps: of the schedule of training, from the noisiest on.
        use_debiased: for each of them, whether the debiased text is read.
    """

    timesteps: tuple[int, ...]
    use_debiased: tuple[bool, ...]


@checked
def two_stage_conditioning(
    num_train_steps: Count, num_sampling_steps: Count, switch_fraction: Probability = 0.9
) -> TwoStagePlan:
    """The steps of sampling, evenly spread over those of training, and the text that each reads.

    Args:
        num_train_steps: T.
        num_sampling_steps: how many of them are taken.
        switch_fraction: τ / T: 1 reads the debiased text everywhere, 0 the original one.

    Returns:
        Timesteps, T − 1 first and 0 last, rounded halves to even, and for each whether the debiased text is read.

    Raises:
        ValueError: if there are more steps than T, or the fraction is outside [0, 1].

    >>> two_stage_conditioning(1000, 4, 0.5)
    TwoStagePlan(timesteps=(999, 666, 333, 0), use_debiased=(False, False, True, True))
    """
    if num_sampling_steps > num_train_steps:
        raise ValueError(
            f"num_sampling_steps={num_sampling_steps} are more than num_train_steps={num_train_steps}; take fewer"
        )
    timesteps = tuple(round(float(t)) for t in np.linspace(num_train_steps - 1, 0, num_sampling_steps))
    return TwoStagePlan(timesteps, tuple(reads_debiased(t, num_train_steps, switch_fraction) for t in timesteps))


def reads_debiased(timestep: float, num_train_steps: int, switch_fraction: float) -> bool:
    """Whether a step reads the debiased text.

    >>> reads_debiased(899, 1000, 0.9), reads_debiased(900, 1000, 0.9)
    (True, False)
    """
    return timestep < switch_fraction * num_train_steps


@checked
def choose_switch_fraction(
    bias: Mapping[float, float], quality: Mapping[float, float], tolerance: Probability = 0.05
) -> float:
    """Of the fractions that were measured the least biased one that keeps the quality of the original.

    Args:
        bias: switch fraction → bias of pictures; 0, the original, must be among them.
        quality: switch fraction → quality, higher is better, above 0 at 0.
        tolerance: ε: a fraction may be chosen where its quality is at least (1 − ε) that of the original.

    Returns:
        The fraction; the smaller one of several with the same bias, 0 where none else keeps the quality.

    Raises:
        ValueError: if fractions differ or lie outside [0, 1], 0 is missing, a value is not finite, the original's
            quality is not above 0, or the tolerance is outside [0, 1].

    >>> bias = {0.0: 0.9, 0.8: 0.5, 1.0: 0.3}
    >>> choose_switch_fraction(bias, {0.0: 0.80, 0.8: 0.78, 1.0: 0.60})
    0.8
    """
    if set(bias) != set(quality) or 0 not in bias:
        raise ValueError(
            f"bias is of {sorted(bias)} and quality of {sorted(quality)}; measure both at the same, with 0"
        )
    for name, values in (("bias", bias), ("quality", quality)):
        for fraction, value in values.items():
            check_fraction(f"a fraction of {name}", fraction, zero=True)
            if not math.isfinite(value):
                raise ValueError(f"{name}[{fraction}]={value} must be a finite number")
    if not quality[0] > 0:
        raise ValueError(f"quality[0]={quality[0]} must be greater than 0: what is kept is a share of it")
    kept = [fraction for fraction in sorted(bias) if quality[fraction] >= (1 - tolerance) * quality[0]]
    return min(kept, key=lambda fraction: bias[fraction])
