"""Methods of training with few labels, as settings of one trainer.

    maxmatch         the worst of 3 strong views; FixMatch's settings for small images
    maxmatch_eman    as the authors train on ImageNet: targets of an average that takes batch statistics along, 1 to 3
                     views at random (1.7 on average), threshold .7, weight 10
    fixmatch         one strong view
    mean_of_k        the mean over 3 strong views, the ablation of MaxMatch
    uda              one strong view, KL divergence from targets sharpened by T = .4, threshold .8
    mean_teacher     two weak views, square distance to the average's probabilities, no threshold, weight 100 after
                     a rise over the first 27 % of the steps
    supervised       labelled samples only; with a label for every sample, full supervision

Of `maxmatch_eman` the settings are those of the authors' code; the others are reconstructed from what the papers are
commonly run with. All share the optimizer (SGD with Nesterov's momentum), FixMatch's or the cosine schedule, and the
average that predicts in the end; UDA's annealing of the supervised loss, its mask of out-of-domain samples, and Mean
Teacher's consistency of the labelled samples and rise of the momentum are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Probability, ProperFraction, Whole
from equipoise.core.validate import check_choice
from equipoise.semisup.consistency.loss import Aggregate, Divergence
from equipoise.semisup.training.schedules import fixmatch_lr, warmup_cosine_lr
from equipoise.semisup.views.multiple import check_variant_probs

Schedule: TypeAlias = Literal["fixmatch", "warmup_cosine", "constant"]

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "maxmatch": {},
        "maxmatch_eman": {
            "variant_probs": (0.5, 0.3, 0.2),
            "threshold": 0.7,
            "unlabelled_weight": 10.0,
            "average_predicts_targets": True,
            "ratio": 5.0,
            "learning_rate": 0.02,
            "weight_decay": 1e-4,
            "nesterov": False,
            "schedule": "warmup_cosine",
            "warmup": 5 / 300,
        },
        "fixmatch": {"variants": 1},
        "mean_of_k": {"aggregate": "mean"},
        "uda": {
            "variants": 1,
            "divergence": "kl",
            "temperature": 0.4,
            "confidence_temperature": 1.0,
            "threshold": 0.8,
        },
        "mean_teacher": {
            "variants": 1,
            "divergence": "mse",
            "threshold": 0.0,
            "unlabelled_weight": 100.0,
            "ramp_up": 0.27,
            "strong_views": False,
            "average_predicts_targets": True,
        },
        "supervised": {"variants": 1, "unlabelled_weight": 0.0},
    }
)
"""Method → what differs from the defaults of `SemiSupervisedSettings`."""


@checked
@dataclass(frozen=True, kw_only=True)
class SemiSupervisedSettings:
    """Settings of `SemiSupervisedTrainer`; the defaults are MaxMatch's.

    Attributes:
        variants: K, strong views of a sample.
        variant_probs: probabilities of 1, 2, … views, see `MultiViewSampler`; None for always K.
        aggregate: "max" or "mean" over the views.
        divergence: see `WorstCaseConsistencyLoss`, and so are the next three.
        threshold: of the confidence.
        temperature: of the targets.
        confidence_temperature: of the confidence; None for that of the targets.
        unlabelled_weight: λ of the consistency loss.
        ramp_up: share of the steps over which λ rises as exp(−5 (1 − t)²).
        strong_views: whether the K views are strong; else they are weak ones, too.
        average_predicts_targets: whether the average predicts the weak views; else the network does.
        average: momentum of the average that predicts in the end; None to predict with the network.
        two_pass: choose the worst views without gradient first, see `consistency_step`.
        batch_size: labelled samples of a step.
        ratio: unlabelled samples of a step for each labelled one.
        learning_rate: of SGD.
        momentum: of SGD.
        nesterov: whether it is Nesterov's.
        weight_decay: of parameters with two dimensions or more: not of biases and of normalisation.
        schedule: "fixmatch" is `fixmatch_lr`, "warmup_cosine" is `warmup_cosine_lr`, by step.
        warmup: share of the steps in which the rate rises, for "warmup_cosine".
        epochs: passes over the unlabelled samples, or over the labelled ones where there are no others.
        seed: of batches, views and dropout.

    Raises:
        ValueError: if a setting is out of range, or two do not go together.

    >>> SemiSupervisedSettings.usual("uda", epochs=10).divergence
    'kl'
    """

    variants: Count = 3
    variant_probs: Sequence[Probability] | None = None
    aggregate: Aggregate = "max"
    divergence: Divergence = "ce_hard"
    threshold: Probability = 0.95
    temperature: Positive = 1.0
    confidence_temperature: Positive | None = None
    unlabelled_weight: NonNegative = 1.0
    ramp_up: Probability = 0.0
    strong_views: bool = True
    average_predicts_targets: bool = False
    average: ProperFraction | None = 0.999
    two_pass: bool = False
    batch_size: Count = 64
    ratio: Positive = 7.0
    learning_rate: Positive = 0.03
    momentum: ProperFraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 5e-4
    schedule: Schedule = "fixmatch"
    warmup: ProperFraction = 0.0
    epochs: Count = 100
    seed: Whole = 0

    def __post_init__(self) -> None:
        if self.variant_probs is not None:
            check_variant_probs(self.variant_probs, self.variants)
        if self.average_predicts_targets and self.average is None:
            raise ValueError("average_predicts_targets=True needs average, the momentum of it, such as 0.999")
        if self.two_pass and self.aggregate != "max":
            raise ValueError("two_pass=True needs aggregate='max': a mean has a gradient through every view")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0")

    @classmethod
    @checked
    def usual(cls, method: str, **changes: Any) -> SemiSupervisedSettings:
        """The settings of a method in `METHODS`, with changes.

        Raises:
            ValueError: if there is no such method.
        """
        check_choice("method", method, METHODS)
        return cls(**{**METHODS[method], **changes})

    @property
    def unlabelled_size(self) -> int:
        """Unlabelled samples of a step."""
        return max(1, round(self.batch_size * self.ratio))

    def rate(self, step: int, total: int) -> float:
        """The learning rate of a step, from 0, of so many."""
        if self.schedule == "fixmatch":
            return fixmatch_lr(step, self.learning_rate, total)
        if self.schedule == "constant":
            return self.learning_rate
        # The first step has a rate above 0, and so has the last.
        return warmup_cosine_lr(step + 1, self.learning_rate, self.warmup * total, total + 1)

    def weight(self, step: int, total: int) -> float:
        """λ at a step, from 0, of so many."""
        risen = min(1.0, step / (self.ramp_up * total)) if self.ramp_up else 1.0
        return self.unlabelled_weight * math.exp(-5 * (1 - risen) ** 2)
