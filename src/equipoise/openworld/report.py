"""Everything about a model that meets unknown classes, side by side: is it known, which one is it, and both at once.

A model that is judged by one of these alone can be fooled by another: `equipoise.openworld.fooled_measures` shows how.
The groups of `OpenWorldReport.compute`, by the prefix of their names:

    closed_set/    known samples among the known classes: accuracy, top-k accuracy, AUTKC@k
    multilabel/    the same where labels go together: TKPR@k, precision, recall, AP and NDCG @k, ranking loss, coverage
    novelty/       the open score alone: AUROC, AUPR either way, FPR95 either way
    open_set/      both questions, unknown samples without a label: OpenAUC, and the measures at a threshold
    open_world/    new samples have labels of their own: OpenworldAUC, harmonic mean, overall accuracy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from equipoise.core.metrics import nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import (
    ClassScores,
    Count,
    Fraction,
    MultilabelTarget,
    NumClasses,
    OpenTarget,
    RankedScores,
    Whole,
)
from equipoise.openworld.multilabel.metrics import ranking_per_sample, tkpr_per_sample, weighted_sums
from equipoise.openworld.openset.confusion import AtThreshold, OpenSetCurve, open_set_curve
from equipoise.openworld.openset.open_auc import OpenMetric, open_auc
from equipoise.openworld.outliers.detection import OOD_MEASURES, ood_metrics
from equipoise.openworld.prompts.openworld_auc import harmonic_mean_accuracy, openworld_auc
from equipoise.openworld.topk.metrics import check_list_length, true_label_rank
from equipoise.openworld.types import Direction, OnUndefined, Task, Ties

UNKNOWN = -1
_AT_THRESHOLD: tuple[AtThreshold, ...] = get_args(AtThreshold)
_WHOLE_RANKING = ("ranking_loss", "coverage", "one_error")
_AT_K = ("tkpr", "precision", "recall", "average_precision", "ndcg")


@dataclass(frozen=True)
class Decisions:
    """What is kept of every sample: enough for every measure and every picture of a multiclass report.

    Attributes:
        open_score: (n,) higher for known samples, whatever the direction of the scores given.
        margin: (n,) the highest score of a known class less the second, in units of the class scores.
        pred: (n,) class predicted among the known ones.
        target: (n,) true class, -1 for unknown.
        new_pred: (n,) class predicted among the new ones, -1 where there are none.
        joint_pred: (n,) class predicted among all.
    """

    open_score: Float[Tensor, " n"]
    margin: Float[Tensor, " n"]
    pred: Int[Tensor, " n"]
    target: Int[Tensor, " n"]
    new_pred: Int[Tensor, " n"]
    joint_pred: Int[Tensor, " n"]

    def known(self, num_classes: int) -> Bool[Tensor, " n"]:
        """Which samples belong to one of the first `num_classes` classes."""
        return (self.target >= 0) & (self.target < num_classes)


class OpenWorldReport(OpenMetric):
    """All measures of a model that must tell known from unknown and known classes from each other.

    Args:
        num_classes: C, of known classes (or labels).
        num_new_classes: of new classes that have labels too, in the columns behind the known ones; 0 for none.
        task: "multiclass" or "multilabel".
        k: the lengths of the top-k list, each from 1 to C; by default those of 1, 3 and 5 that fit.
        ties: of OpenAUC and OpenworldAUC, "half" or "strict". Of classes that score alike the first is predicted; top-k
            measures break ties against the model.
        higher_is: which samples have the higher open score, "in" (known) or "out" (unknown), or a `ScoreSpec`.
        recall: at which the false-positive rates of `novelty/` are taken; their names keep the usual 95.
        known_recall: the share of known samples to accept at least, for the measures named `@known_recall`.
        on_undefined: where known or unknown samples were not seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.

    >>> report = OpenWorldReport(num_classes=2, k=1)
    >>> class_scores = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.5], [0.2, 0.1]])
    >>> report.update(class_scores, class_scores.amax(1), torch.tensor([0, 1, 1, -1]))
    >>> found = report.compute()
    >>> [round(float(found[name]), 3) for name in ("closed_set/accuracy", "novelty/auroc", "open_set/open_auc")]
    [0.667, 1.0, 0.667]
    """

    kept = ("open_score", "known")

    open_score: list[Tensor]
    margin: list[Tensor]
    classes: list[Tensor]
    rank_counts: Tensor
    label_totals: Tensor
    label_weights: Tensor

    @checked
    def __init__(
        self,
        num_classes: NumClasses,
        num_new_classes: Whole = 0,
        *,
        task: Task = "multiclass",
        k: Count | Sequence[Count] | None = None,
        ties: Ties = "half",
        higher_is: Direction = "in",
        recall: Fraction = 0.95,
        known_recall: Fraction = 0.95,
        on_undefined: OnUndefined = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(ties, higher_is, recall=recall, on_undefined=on_undefined, **kwargs)
        if num_new_classes and task == "multilabel":
            raise ValueError("num_new_classes needs task='multiclass'; OpenworldAUC has no multi-label form")
        usual = tuple(one for one in (1, 3, 5) if one <= num_classes)
        several = usual if k is None else (k,) if isinstance(k, int) else tuple(k)
        check_list_length(max(several, default=1), num_classes)
        self.num_classes, self.num_new_classes, self.task, self.k = num_classes, num_new_classes, task, several
        self.known_recall = known_recall
        # A multi-label report keeps no decisions.
        for name in () if task == "multilabel" else ("margin", "classes"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        counts = torch.zeros(num_classes, dtype=torch.long)
        self.add_state("rank_counts", default=counts, dist_reduce_fx="sum")
        sums = torch.zeros(len(self._label_names), dtype=torch.float64)
        self.add_state("label_totals", default=sums, dist_reduce_fx="sum")
        self.add_state("label_weights", default=sums.clone(), dist_reduce_fx="sum")

    @property
    def _label_names(self) -> tuple[str, ...]:
        return (*(f"{name}@{one}" for one in self.k for name in _AT_K), *_WHOLE_RANKING)

    @property
    def _names(self) -> list[str]:
        if self.task == "multilabel":
            groups = {"multilabel": self._label_names, "novelty": OOD_MEASURES}
        else:
            top = [name for k in self.k for name in (f"top_{k}_accuracy", f"autkc@{k}")]
            groups = {"closed_set": ("accuracy", "balanced_accuracy", *top), "novelty": OOD_MEASURES}
            groups |= {"open_set": _OPEN_SET} | ({"open_world": _OPEN_WORLD} if self.num_new_classes else {})
        return [f"{group}/{name}" for group, names in groups.items() for name in names]

    @checked
    def update(
        self,
        class_scores: ClassScores,
        open_score: RankedScores,
        target: OpenTarget | MultilabelTarget,
        is_unknown: Bool[Tensor, " n"] | None = None,
    ) -> None:
        """Take a batch.

        Args:
            class_scores: (n, C + num_new_classes) finite scores of the classes.
            open_score: (n,) how known a sample looks (or how unknown, see `higher_is`); infinities allowed.
            target: (n,) true class: known classes first, new ones from C on, -1 for unknown without a label. For
                "multilabel" (n, C) in {0, 1}.
            is_unknown: (n,) booleans. By default samples of no known class: of class -1 or C and above, and for
                "multilabel" those without any label.

        Raises:
            ValueError: on a bad argument, by name; if a sample is said to be unknown and has a known class.
        """
        wide = self.num_classes + self.num_new_classes
        if class_scores.shape[1] != wide:
            raise ValueError(f"class_scores must have shape (n, {wide}), got {tuple(class_scores.shape)}")
        if target.shape != (class_scores.shape if self.task == "multilabel" else open_score.shape):
            raise ValueError(f"target must have shape (n,), or (n, {wide}) for multilabel; got {tuple(target.shape)}")
        known = self._known(target, is_unknown)
        if self.task == "multilabel":
            self._take_labels(class_scores[known], target[known])
        else:
            self._take_classes(class_scores.detach(), target, known)
        self.keep(self.spec.inward(open_score), known)

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name(self._names, self.device)

    def _known(self, target: Tensor, is_unknown: Tensor | None) -> Tensor:
        if self.task == "multilabel":
            has_class = (target == 1).any(1)
        else:
            has_class = (target >= 0) & (target < self.num_classes)
        if is_unknown is None:
            return has_class
        if bool((is_unknown & has_class).any()):
            raise ValueError("is_unknown marks a sample that has a known class; its target must be -1, or no label")
        if self.task == "multiclass" and bool((~is_unknown & ~has_class).any()):
            raise ValueError("a sample without a known class must be marked in is_unknown, or leave is_unknown out")
        return ~is_unknown

    def _take_classes(self, class_scores: Tensor, target: Tensor, known: Tensor) -> None:
        of_known = class_scores[:, : self.num_classes]
        # `topk` promises no order among equal scores, `argmax` the first.
        pred, (first, second) = of_known.argmax(1), of_known.topk(2, dim=1).values.unbind(1)
        new = class_scores[:, self.num_classes :]
        new_pred = new.argmax(1) + self.num_classes if new.shape[1] else torch.full_like(target, UNKNOWN)
        self.margin.append(first - second)
        self.classes.append(torch.stack([pred, target, new_pred, class_scores.argmax(1)], 1))
        if bool(known.any()):
            ranks = true_label_rank(of_known[known], target[known])
            self.rank_counts += torch.bincount(ranks, minlength=self.num_classes)

    def _take_labels(self, class_scores: Tensor, target: Tensor) -> None:
        if not len(target):
            return
        values = ranking_per_sample(class_scores, target, self.k)
        for one in self.k:
            values[f"tkpr@{one}"] = tkpr_per_sample(class_scores, target, one)
        sums = [weighted_sums(values[name], None) for name in self._label_names]
        self.label_totals += torch.stack([total for total, _ in sums])
        self.label_weights += torch.stack([weight for _, weight in sums])

    def open_scores(self) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """Of every sample the open score, higher for known whatever the direction given, and whether it is known.

        Raises:
            ValueError: before the first `update`.
        """
        open_score, known = self.samples()
        return open_score, known

    def top_k_accuracies(self) -> Float[Tensor, " C"]:
        """Top-k accuracy of the known samples for k = 1..C; the mean of the first K is AUTKC@K."""
        counts = self.rank_counts.double()
        return counts.cumsum(0) / counts.sum()

    def decisions(self) -> Decisions:
        """What was kept of every sample, for pictures and further measures.

        Raises:
            ValueError: of a multi-label report, which keeps no classes; before the first `update`.
        """
        if self.task == "multilabel":
            raise ValueError("a multi-label report keeps no decision of a single class")
        open_score, _ = self.samples()
        pred, target, new_pred, joint = dim_zero_cat(self.classes).unbind(1)
        return Decisions(open_score, dim_zero_cat(self.margin), pred, target, new_pred, joint)

    def threshold_curve(self) -> OpenSetCurve:
        """The measures at every threshold; see `equipoise.openworld.open_set_curve`.

        Raises:
            ValueError: of a multi-label report, before the first `update`, or where a side was not seen.
        """
        seen = self.decisions()
        known = seen.known(self.num_classes)
        # Turned back, so that thresholds are in the units and the direction of the scores given.
        given = self.spec.inward(seen.open_score)
        return open_set_curve(
            seen.pred[known],
            seen.target[known],
            given[known],
            seen.pred[~known],
            given[~known],
            num_classes=self.num_classes,
            higher_is=self.spec,
        )

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars by name, in the groups named in the head of this module; what is undefined is NaN.

        Measures at a threshold come twice: "@best" is their highest value over all thresholds (which thresholds differ
        from measure to measure, and no user can choose them without the answers), "@known_recall" is at the strictest
        threshold that accepts the wanted share of known samples.

        Raises:
            ValueError: where a side was not seen, with `on_undefined="raise"`.
        """
        scores, known = self.open_scores()
        both = not self.lacks_a_side(known)
        found = self._labels() if self.task == "multilabel" else self._closed_set()
        detection = (
            ood_metrics(scores[known], scores[~known], recall=self.recall) if both else nan_by_name(OOD_MEASURES)
        )
        found |= {f"novelty/{name}": value for name, value in detection.items()}
        if self.task == "multilabel":
            return found
        found |= self._open_set() if both else nan_by_name(f"open_set/{name}" for name in _OPEN_SET)
        if self.num_new_classes:
            found |= self._open_world() if both else nan_by_name(f"open_world/{name}" for name in _OPEN_WORLD)
        return found

    def _closed_set(self) -> dict[str, Tensor]:
        seen = self.decisions()
        known = seen.known(self.num_classes)
        correct = (seen.pred == seen.target)[known].double()
        size = torch.bincount(seen.target[known], minlength=self.num_classes)
        hits = torch.bincount(seen.target[known], weights=correct, minlength=self.num_classes)
        found = {"accuracy": correct.mean(), "balanced_accuracy": (hits / size)[size > 0].mean()}
        top = self.top_k_accuracies()
        for k in self.k:
            found[f"top_{k}_accuracy"], found[f"autkc@{k}"] = top[k - 1], top[:k].mean()
        return {f"closed_set/{name}": value.cpu() for name, value in found.items()}

    def _labels(self) -> dict[str, Tensor]:
        means = (self.label_totals / self.label_weights).cpu()
        return {f"multilabel/{name}": value for name, value in zip(self._label_names, means, strict=True)}

    def _open_set(self) -> dict[str, Tensor]:
        seen = self.decisions()
        known = seen.known(self.num_classes)
        correct = (seen.pred == seen.target)[known]
        curve = self.threshold_curve()
        # From the strictest threshold on, known samples are accepted one by one.
        chosen = int((curve.known_accepted >= self.known_recall).nonzero()[0, 0])
        found = {"open_auc": open_auc(seen.open_score[known], seen.open_score[~known], correct, ties=self.ties)}
        for name in _AT_THRESHOLD:
            found[f"{name}@best"] = torch.tensor(curve.best(name)[1], dtype=torch.float64)
            found[f"{name}@known_recall"] = getattr(curve, name)[chosen]
        found["unknown_rejected@known_recall"] = curve.unknown_rejected[chosen]
        found["threshold@known_recall"] = curve.thresholds[chosen]
        return {f"open_set/{name}": value for name, value in found.items()}

    def _open_world(self) -> dict[str, Tensor]:
        seen = self.decisions()
        base = seen.known(self.num_classes)
        new = seen.target >= self.num_classes
        if not bool(new.any()):
            return nan_by_name(f"open_world/{name}" for name in _OPEN_WORLD)
        base_right, new_right = (seen.pred == seen.target)[base], (seen.new_pred == seen.target)[new]
        base_accuracy, new_accuracy = (float(right.double().mean()) for right in (base_right, new_right))
        values = (
            openworld_auc(seen.open_score[base], seen.open_score[new], base_right, new_right, ties=self.ties),
            base_accuracy,
            new_accuracy,
            harmonic_mean_accuracy(base_accuracy, new_accuracy),
            (seen.joint_pred == seen.target)[base | new].double().mean(),
        )
        return {
            f"open_world/{name}": torch.as_tensor(value, dtype=torch.float64).cpu()
            for name, value in zip(_OPEN_WORLD, values, strict=True)
        }


_OPEN_SET = (
    "open_auc",
    *(f"{name}@{where}" for name in _AT_THRESHOLD for where in ("best", "known_recall")),
    "unknown_rejected@known_recall",
    "threshold@known_recall",
)
_OPEN_WORLD = ("openworld_auc", "base_accuracy", "new_accuracy", "harmonic_mean", "overall_accuracy")
