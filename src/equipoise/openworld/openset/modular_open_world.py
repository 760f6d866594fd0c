"""OpenAUC and OpenworldAUC as `torchmetrics.Metric`, each with the measures it couples.

Both are ranks over the whole, so what they need of a sample is kept: its score, and whether it was classified right.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from equipoise.core.curves.ranks import TIES
from equipoise.core.scores import ScoreSpec, Side, as_spec
from equipoise.core.validate import check_choice, check_finite, check_fraction, check_not_nan, warn_once
from equipoise.openworld.openset.metrics import open_auc
from equipoise.openworld.outliers.detection import ood_metrics
from equipoise.openworld.prompts.openworld_auc import harmonic_mean_accuracy, openworld_auc

_NOT_GIVEN = -1


class _OpenMetric(Metric):
    """Keeps score, hit and side of every sample; a subclass says what the two sides are called and how to judge."""

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    sides: tuple[str, str]
    scores: list[Tensor]
    correct: list[Tensor]
    inside: list[Tensor]

    def __init__(
        self,
        ties: str = "half",
        higher_is: ScoreSpec | Side = "in",
        *,
        recall: float = 0.95,
        on_undefined: str = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("ties", ties, TIES)
        check_fraction("recall", recall)
        check_choice("on_undefined", on_undefined, ("nan", "raise"))
        self.ties, self.spec, self.recall, self.on_undefined = ties, as_spec(higher_is), recall, on_undefined
        for name in ("scores", "correct", "inside"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def _take(self, score: Tensor, correct: Tensor, inside: Tensor) -> None:
        self.scores.append(score.detach())
        # Not every backend gathers booleans.
        self.correct.append(correct.to(torch.int8))
        self.inside.append(inside.to(torch.int8))

    def _gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        if not len(self.scores):
            raise RuntimeError(f"{type(self).__name__} has seen no samples; call update(...) first")
        return dim_zero_cat(self.scores), dim_zero_cat(self.correct).bool(), dim_zero_cat(self.inside).bool()

    def _lacks_a_side(self, inside: Tensor) -> bool:
        missing = [name for name, seen in zip(self.sides, (inside.any(), (~inside).any()), strict=True) if not seen]
        if not missing:
            return False
        message = f"{type(self).__name__} is undefined without {missing[0]} samples"
        if self.on_undefined == "raise":
            raise ValueError(message)
        warn_once(f"{message}: what needs both sides is NaN")
        return True

    def _detection(self, scores: Tensor, inside: Tensor) -> dict[str, Tensor]:
        found = ood_metrics(scores[inside], scores[~inside], recall=self.recall, higher_is=self.spec)
        return {name: found[name] for name in _DETECTION}


_DETECTION = ("auroc", "aupr_in", "aupr_out", "fpr95_id_positive", "fpr95_ood_positive")


class OpenAUC(_OpenMetric):
    """OpenAUC over all samples seen, with accuracy and the measures of detection; see `equipoise.openworld.open_auc`.

    Args:
        ties: "half" or "strict", as in `open_auc`.
        higher_is: direction of the scores; "out" for the paper's.
        recall: at which the false-positive rates are taken; their names keep the usual 95.
        on_undefined: where a side was not seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if a setting is unknown or out of range.

    >>> metric = OpenAUC()
    >>> known, nothing = torch.tensor([True, True, False]), 0
    >>> metric.update(torch.tensor([0.9, 0.8, 0.5]), torch.tensor([1, 0, 1]), torch.tensor([1, 1, nothing]), known)
    >>> found = metric.compute()
    >>> float(found["open_auc"]), float(found["auroc"])
    (0.5, 1.0)
    """

    sides = ("known", "unknown")

    def update(self, score: Tensor, pred: Tensor, target: Tensor, is_known: Tensor) -> None:
        """Take a batch.

        Args:
            score: (n,) open-set scores; infinities allowed.
            pred: (n,) class predicted among the known ones.
            target: (n,) true class; of unknown samples it is not looked at.
            is_known: (n,) booleans or 0 and 1.

        Raises:
            ValueError: if lengths differ, a score is NaN, classes are no integers, or `is_known` is not boolean.
        """
        known = _checked(score, pred, target, "is_known", is_known)
        check_not_nan("score", score)
        self._take(score, (pred == target) & known, known)

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars by name: "open_auc", "accuracy" (closed-set), and of `ood_metrics` "auroc", "aupr_in",
        "aupr_out", "fpr95_id_positive" and "fpr95_ood_positive".

        Raises:
            RuntimeError: before the first `update`.
            ValueError: where a side was not seen, with `on_undefined="raise"`.
        """
        scores, correct, known = self._gathered()
        accuracy = {"accuracy": _share(correct[known])}
        if self._lacks_a_side(known):
            return dict.fromkeys(("open_auc", "accuracy", *_DETECTION), _nan()) | accuracy
        value = open_auc(scores[known], scores[~known], correct[known], ties=self.ties, higher_is=self.spec)
        return {"open_auc": value, **accuracy, **self._detection(scores, known)}


class OpenworldAUC(_OpenMetric):
    """OpenworldAUC over all samples seen, with the measures it couples; see `equipoise.openworld.openworld_auc`.

    Args:
        ties: "half" or "strict", as in `openworld_auc`.
        higher_is: direction of the base-to-new scores; "in" (higher for base) for the paper's.
        recall: as in `OpenAUC`.
        on_undefined: where a domain was not seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if a setting is unknown or out of range.

    >>> metric = OpenworldAUC()
    >>> base = torch.tensor([True, True, False])
    >>> metric.update(torch.tensor([0.9, 0.4, 0.5]), torch.tensor([1, 0, 1]), torch.tensor([1, 0, 1]), base)
    >>> found = metric.compute()
    >>> float(found["openworld_auc"]), float(found["harmonic_mean"])
    (0.5, 1.0)
    """

    sides = ("base", "new")
    joint: list[Tensor]

    def __init__(
        self,
        ties: str = "half",
        higher_is: ScoreSpec | Side = "in",
        *,
        recall: float = 0.95,
        on_undefined: str = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(ties, higher_is, recall=recall, on_undefined=on_undefined, **kwargs)
        self.add_state("joint", default=[], dist_reduce_fx="cat")

    def update(
        self, score: Tensor, pred: Tensor, target: Tensor, is_base: Tensor, joint_correct: Tensor | None = None
    ) -> None:
        """Take a batch.

        Args:
            score: (n,) base-to-new scores.
            pred: (n,) class predicted with the domain known: of base samples among the base classes, of new samples
                among the new ones.
            target: (n,) true class, numbered as `pred`.
            is_base: (n,) booleans or 0 and 1.
            joint_correct: (n,) whether one decision over base and new classes together is right, for
                "overall_accuracy"; with every batch, or with none.

        Raises:
            ValueError: if lengths differ, a score is not finite, classes are no integers, or a mask is not boolean.
        """
        base = _checked(score, pred, target, "is_base", is_base)
        check_finite("score", score)
        if joint_correct is None:
            joint = torch.full_like(base, _NOT_GIVEN, dtype=torch.int8)
        else:
            joint = _boolean("joint_correct", joint_correct, score).to(torch.int8)
        self._take(score, pred == target, base)
        self.joint.append(joint)

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars by name: "openworld_auc", "base_accuracy", "new_accuracy", "harmonic_mean", "open_auc" (new
        as unknown, so blind to which new class it is), the five of `OpenAUC`, and "overall_accuracy" if it can be told.

        Raises:
            RuntimeError: before the first `update`.
            ValueError: if only some batches had `joint_correct`; where a domain was not seen, with
                `on_undefined="raise"`.
        """
        scores, correct, base = self._gathered()
        joint = dim_zero_cat(self.joint)
        found = {"base_accuracy": _share(correct[base]), "new_accuracy": _share(correct[~base])}
        if bool((joint != _NOT_GIVEN).all()):
            found["overall_accuracy"] = _share(joint)
        elif bool((joint != _NOT_GIVEN).any()):
            raise ValueError("joint_correct came with some batches only; give it to every update, or to none")
        if self._lacks_a_side(base):
            undefined = ("openworld_auc", "base_accuracy", "new_accuracy", "harmonic_mean", "open_auc", *_DETECTION)
            return dict.fromkeys(undefined, _nan()) | found
        sides = (scores[base], scores[~base], correct[base])
        settings: dict[str, Any] = {"ties": self.ties, "higher_is": self.spec}
        mean = harmonic_mean_accuracy(float(found["base_accuracy"]), float(found["new_accuracy"]))
        return {
            "openworld_auc": openworld_auc(*sides, correct[~base], **settings),
            **found,
            "harmonic_mean": torch.tensor(mean, dtype=torch.float64),
            "open_auc": open_auc(*sides, **settings),
            **self._detection(scores, base),
        }


def _checked(score: Tensor, pred: Tensor, target: Tensor, name: str, side: Tensor) -> Tensor:
    """The side as booleans."""
    if score.ndim != 1:
        raise ValueError(f"score must have shape (n,), got {tuple(score.shape)}; flatten it")
    for which, classes in (("pred", pred), ("target", target)):
        if classes.shape != score.shape:
            raise ValueError(f"{which} must have the length of score, {len(score)}, got shape {tuple(classes.shape)}")
        if classes.is_floating_point():
            raise ValueError(f"{which} must hold integers, got {classes.dtype}; take the argmax of logits")
    return _boolean(name, side, score)


def _boolean(name: str, mask: Tensor, score: Tensor) -> Tensor:
    if mask.shape != score.shape:
        raise ValueError(f"{name} must have the length of score, {len(score)}, got shape {tuple(mask.shape)}")
    if bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(f"{name} must hold only 0 and 1, or booleans")
    return mask.bool()


def _share(correct: Tensor) -> Tensor:
    """NaN where there is nothing."""
    return correct.cpu().double().mean()


def _nan() -> Tensor:
    return torch.tensor(math.nan, dtype=torch.float64)
