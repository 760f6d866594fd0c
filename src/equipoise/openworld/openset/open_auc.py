"""Is it known, and which one is it? One number for both questions.

With r the open-set score, *lower* for known samples in the formulas of the paper, h the predicted class and y the true
one:

    OpenAUC = 1 / (N_k N_u)  Σ_{known i} Σ_{unknown j}  1[h_i = y_i] · 1[r_j > r_i]
            = accuracy · AUC(correct known, unknown)

A pair counts only if the known sample is classified right *and* ranked as less unknown. The area under the open-set
classification rate against the false-positive rate (OSCR) is the same number where both use the same score. AUROC does
not see the classes; for the measures at a threshold see `openworld.openset.confusion`.

Wang et al., "OpenAUC: Towards AUC-Oriented Open-Set Recognition", NeurIPS 2022.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.curves.ranks import count_pairs
from equipoise.core.metrics import SampleMetric, nan_by_name
from equipoise.core.scores import as_spec
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, ClassTarget, Fraction, OpenTarget, RankedScores, Scalar
from equipoise.core.validate import warn_once
from equipoise.openworld.outliers.detection import ood_metrics
from equipoise.openworld.types import Direction, KnownCorrect, KnownScores, OnUndefined, Ties, UnknownScores


@checked
def open_auc(
    known_scores: KnownScores,
    unknown_scores: UnknownScores,
    known_correct: KnownCorrect,
    *,
    ties: Ties = "half",
    higher_is: Direction = "in",
) -> Scalar:
    """OpenAUC: the share of (known, unknown) pairs in which the known sample is right and ranked as more known.

    Args:
        known_scores: (n_known,) open-set scores of known samples; infinities allowed.
        unknown_scores: (n_unknown,) open-set scores of unknown samples.
        known_correct: (n_known,) whether the class predicted among the known ones is right.
        ties: "half" (what the authors' code computes) or "strict" (their definition).
        higher_is: "in" where a higher score means known; "out" for the paper's score.

    Returns:
        A float64 scalar in [0, 1]; 0 if no known sample is right.

    Raises:
        ValueError: on a bad argument, by name.

    >>> scores, correct = torch.tensor([0.9, 0.8, 0.4]), torch.tensor([True, False, True])
    >>> open_auc(scores, torch.tensor([0.5, 0.1]), correct)
    tensor(0.5000, dtype=torch.float64)
    """
    right, spec = known_correct == 1, as_spec(higher_is)
    num_right = int(right.sum())
    if not num_right:
        return torch.zeros((), dtype=torch.float64)
    chosen = known_scores if num_right == len(known_scores) else known_scores[right]
    rate = count_pairs(spec.inward(chosen), spec.inward(unknown_scores)).win_rate(ties)
    return torch.tensor(num_right / len(known_scores) * rate, dtype=torch.float64)


@checked
def open_set_classification_curve(
    known_scores: KnownScores,
    unknown_scores: UnknownScores,
    known_correct: KnownCorrect,
    *,
    higher_is: Direction = "in",
) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"]]:
    """The curve whose area is OpenAUC: correctly classified and accepted known against accepted unknown samples.

    Returns:
        (rate of unknown accepted, rate of known accepted and right), float64, from (0, 0) to (1, accuracy).

    Raises:
        ValueError: as `open_auc`.

    >>> scores, correct = torch.tensor([0.9, 0.8]), torch.tensor([True, False])
    >>> open_set_classification_curve(scores, torch.tensor([0.5]), correct)[1]
    tensor([0.0000, 0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    inward = as_spec(higher_is).inward(torch.cat([known_scores, unknown_scores])).cpu()
    values, order = inward.sort(descending=True)
    right = (known_correct == 1).cpu().double()
    gains = torch.cat([right, torch.zeros(len(unknown_scores), dtype=torch.float64)])[order]
    unknown = (order >= len(known_scores)).double()
    ends = torch.cat([values[1:] != values[:-1], torch.ones(1, dtype=torch.bool)])
    start = torch.zeros(1, dtype=torch.float64)
    accepted = torch.cat([start, unknown.cumsum(0)[ends] / len(unknown_scores)])
    return accepted, torch.cat([start, gains.cumsum(0)[ends] / len(known_scores)])


class OpenMetric(SampleMetric):
    """Keeps score, hit and side of every sample; a subclass names the two sides and judges.

    Args:
        ties: "half" or "strict", as in `open_auc`.
        higher_is: direction of the scores.
        recall: at which the false-positive rates are taken; their names keep the usual 95.
        on_undefined: where a side was not seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = None
    kept: ClassVar[tuple[str, ...]] = ("scores", "correct", "inside")
    sides: ClassVar[tuple[str, str]] = ("known", "unknown")

    @checked
    def __init__(
        self,
        ties: Ties = "half",
        higher_is: Direction = "in",
        *,
        recall: Fraction = 0.95,
        on_undefined: OnUndefined = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ties, self.spec, self.recall, self.on_undefined = ties, as_spec(higher_is), recall, on_undefined

    def lacks_a_side(self, inside: Tensor) -> bool:
        """Whether one was not seen, warned of once.

        Raises:
            ValueError: if so, with `on_undefined="raise"`.
        """
        missing = [name for name, seen in zip(self.sides, (inside.any(), (~inside).any()), strict=True) if not seen]
        if not missing:
            return False
        message = f"{type(self).__name__} is undefined without {missing[0]} samples"
        if self.on_undefined == "raise":
            raise ValueError(message)
        warn_once(f"{message}: what needs both sides is NaN")
        return True

    def detection(self, scores: Tensor, inside: Tensor) -> dict[str, Tensor]:
        """The measures of the score alone."""
        found = ood_metrics(scores[inside], scores[~inside], recall=self.recall, higher_is=self.spec)
        return {name: found[name] for name in DETECTION}


DETECTION = ("auroc", "aupr_in", "aupr_out", "fpr95_id_positive", "fpr95_ood_positive")


class OpenAUC(OpenMetric):
    """OpenAUC over all samples seen, with accuracy and the measures of detection; see `equipoise.openworld.open_auc`.

    Args:
        ties: "half" or "strict", as in `open_auc`.
        higher_is: direction of the scores; "out" for the paper's.
        recall: at which the false-positive rates are taken; their names keep the usual 95.
        on_undefined: where a side was not seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.

    >>> metric = OpenAUC()
    >>> known, nothing = torch.tensor([True, True, False]), -1
    >>> metric.update(torch.tensor([0.9, 0.8, 0.5]), torch.tensor([1, 0, 1]), torch.tensor([1, 1, nothing]), known)
    >>> found = metric.compute()
    >>> float(found["open_auc"]), float(found["auroc"])
    (0.5, 1.0)
    """

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name(("open_auc", "accuracy", *DETECTION), self.device)

    @checked
    def update(self, score: RankedScores, pred: ClassTarget, target: OpenTarget, is_known: BinaryTarget) -> None:
        """Take a batch.

        Args:
            score: (n,) open-set scores; infinities allowed.
            pred: (n,) class predicted among the known ones.
            target: (n,) true class, or −1; of unknown samples it does not matter.
            is_known: (n,) booleans or 0 and 1.
        """
        known = is_known == 1
        self.keep(score, (pred == target) & known, known)

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars by name: "open_auc", "accuracy" (closed-set), and of `ood_metrics` "auroc", "aupr_in",
        "aupr_out", "fpr95_id_positive" and "fpr95_ood_positive".

        Raises:
            ValueError: where a side was not seen, with `on_undefined="raise"`.
        """
        scores, correct, known = self.samples()
        accuracy = {"accuracy": share(correct[known])}
        if self.lacks_a_side(known):
            return nan_by_name(("open_auc", "accuracy", *DETECTION)) | accuracy
        value = open_auc(scores[known], scores[~known], correct[known], ties=self.ties, higher_is=self.spec)
        return {"open_auc": value, **accuracy, **self.detection(scores, known)}


def share(correct: Tensor) -> Scalar:
    """The share of ones, float64; NaN where there is nothing."""
    return correct.cpu().double().mean()
