"""Known or new, and which of the known, which of the new? One number that all three answers must earn.

    OpenworldAUC = E[ 1[g(x_b) = y_b] · 1[r(x_b) > r(x_n)] · 1[h(x_n) = y_n] ]
                 = accuracy on base · accuracy on new · AUC(correct base, correct new)

over all pairs of a base sample b and a new sample n; r is higher for base samples, g classifies among the base classes
and h among the new. Repeating the samples of either domain does not move it. The harmonic mean of both accuracies does
not see the detector, the AUROC does not see the classes, and overall accuracy moves with the mix of domains.

Hua et al., "OpenworldAUC: Towards Unified Evaluation and Optimization for Open-world Prompt Tuning", ICML 2025.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.curves.ranks import count_pairs
from equipoise.core.metrics import nan_by_name
from equipoise.core.scores import as_spec
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, ClassScores, ClassTarget, Probability, Scalar, Scores
from equipoise.openworld.openset.open_auc import DETECTION, OpenMetric, open_auc, share
from equipoise.openworld.types import BaseCorrect, BaseScores, Direction, NewCorrect, NewScores, Ties

_NOT_GIVEN = -1
_NAMES = ("openworld_auc", "base_accuracy", "new_accuracy", "harmonic_mean", "open_auc", *DETECTION)


@checked
def openworld_auc(
    base_scores: BaseScores,
    new_scores: NewScores,
    base_correct: BaseCorrect,
    new_correct: NewCorrect,
    *,
    ties: Ties = "half",
    higher_is: Direction = "in",
) -> Scalar:
    """OpenworldAUC: the share of (base, new) pairs ranked right, with both samples classified right in their domain.

    Args:
        base_scores: (n_base,) finite scores of base samples.
        new_scores: (n_new,) finite scores of new samples.
        base_correct: (n_base,) whether the class predicted among the base classes is right.
        new_correct: (n_new,) whether the class predicted among the new classes is right.
        ties: "half" (what the authors' code computes) or "strict" (their definition).
        higher_is: "in" where a higher score means base, as in the paper.

    Returns:
        A float64 scalar; 0 if either accuracy is 0.

    Raises:
        ValueError: on a bad argument, by name.

    >>> openworld_auc(torch.tensor([0.9, 0.4]), torch.tensor([0.5]), torch.tensor([1, 1]), torch.tensor([1]))
    tensor(0.5000, dtype=torch.float64)
    """
    spec = as_spec(higher_is)
    base, new = spec.inward(base_scores[base_correct == 1]), spec.inward(new_scores[new_correct == 1])
    if not len(base) or not len(new):
        return torch.zeros((), dtype=torch.float64)
    share = len(base) / len(base_scores) * (len(new) / len(new_scores))
    return torch.tensor(share * count_pairs(base, new).win_rate(ties), dtype=torch.float64)


@checked
def openworld_curve(
    base_scores: BaseScores,
    new_scores: NewScores,
    base_correct: BaseCorrect,
    new_correct: NewCorrect,
    *,
    higher_is: Direction = "in",
) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"]]:
    """The curve whose area is OpenworldAUC: what a rising threshold loses among base samples and wins among new ones.

    A base sample is missed if it is classified wrong or ranked below the threshold; a new sample is hit if it is ranked
    below the threshold and classified right.

    Returns:
        (miss rate on base, hit rate on new), float64, from (1 − base accuracy, 0) to (1, new accuracy).

    Raises:
        ValueError: as `openworld_auc`.

    >>> right = torch.tensor([1])
    >>> openworld_curve(torch.tensor([0.9, 0.4]), torch.tensor([0.5]), torch.tensor([1, 1]), right)[0]
    tensor([0.0000, 0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    inward = as_spec(higher_is).inward(torch.cat([base_scores, new_scores])).cpu()
    values, order = inward.sort()
    right = torch.cat([base_correct == 1, new_correct == 1]).cpu().double()[order]
    of_base = order < len(base_scores)
    ends = torch.cat([values[1:] != values[:-1], torch.ones(1, dtype=torch.bool)])
    start = torch.zeros(1, dtype=torch.float64)
    lost = torch.cat([start, (right * of_base).cumsum(0)[ends]])
    won = torch.cat([start, (right * ~of_base).cumsum(0)[ends]])
    wrong = len(base_scores) - (base_correct == 1).sum().cpu()
    return (wrong + lost) / len(base_scores), won / len(new_scores)


@checked
def harmonic_mean_accuracy(base_accuracy: Probability, new_accuracy: Probability) -> float:
    """2ab / (a + b) of two accuracies in [0, 1]; 0 if both are 0.

    >>> harmonic_mean_accuracy(0.5, 1.0)
    0.6666666666666666
    """
    total = base_accuracy + new_accuracy
    return 2 * base_accuracy * new_accuracy / total if total else 0.0


@checked
def overall_accuracy(logits: ClassScores, target: ClassTarget) -> Scalar:
    """Accuracy of one argmax over base and new classes together; it moves with the mix of the domains.

    >>> overall_accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    return (logits.argmax(1) == target).double().mean()


class OpenworldAUC(OpenMetric):
    """OpenworldAUC over all samples seen, with the measures it couples; see `equipoise.openworld.openworld_auc`.

    Args:
        ties: "half" or "strict", as in `openworld_auc`.
        higher_is: direction of the base-to-new scores; "in" (higher for base) for the paper's.
        recall: as in `OpenAUC`.
        on_undefined: where a domain was not seen, "nan" or "raise".
        kwargs: of `torchmetrics.Metric`.

    >>> metric = OpenworldAUC()
    >>> base = torch.tensor([True, True, False])
    >>> metric.update(torch.tensor([0.9, 0.4, 0.5]), torch.tensor([1, 0, 1]), torch.tensor([1, 0, 1]), base)
    >>> found = metric.compute()
    >>> float(found["openworld_auc"]), float(found["harmonic_mean"])
    (0.5, 1.0)
    """

    kept = ("scores", "correct", "inside", "joint")
    sides = ("base", "new")

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name(_NAMES, self.device)

    @checked
    def update(
        self,
        score: Scores,
        pred: ClassTarget,
        target: ClassTarget,
        is_base: BinaryTarget,
        joint_correct: BinaryTarget | None = None,
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
        """
        joint = torch.full_like(pred, _NOT_GIVEN) if joint_correct is None else joint_correct
        self.keep(score, pred == target, is_base == 1, joint.to(torch.int8))

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars by name: "openworld_auc", "base_accuracy", "new_accuracy", "harmonic_mean", "open_auc" (new
        as unknown, so blind to which new class it is), the five of `OpenAUC`, and "overall_accuracy" if it can be told.

        Raises:
            ValueError: if only some batches had `joint_correct`; where a domain was not
                seen, with `on_undefined="raise"`.
        """
        scores, correct, base, joint = self.samples()
        found = {"base_accuracy": share(correct[base]), "new_accuracy": share(correct[~base])}
        if bool((joint != _NOT_GIVEN).all()):
            found["overall_accuracy"] = share(joint)
        elif bool((joint != _NOT_GIVEN).any()):
            raise ValueError("joint_correct came with some batches only; give it to every update, or to none")
        if self.lacks_a_side(base):
            return nan_by_name(_NAMES) | found
        sides = (scores[base], scores[~base], correct[base])
        settings: dict[str, Any] = {"ties": self.ties, "higher_is": self.spec}
        mean = harmonic_mean_accuracy(float(found["base_accuracy"]), float(found["new_accuracy"]))
        return {
            "openworld_auc": openworld_auc(*sides, correct[~base], **settings),
            **found,
            "harmonic_mean": torch.tensor(mean, dtype=torch.float64),
            "open_auc": open_auc(*sides, **settings),
            **self.detection(scores, base),
        }
