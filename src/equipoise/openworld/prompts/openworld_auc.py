"""Known or new, and which of the known, which of the new? One number that all three answers must earn.

    OpenworldAUC = E[ 1[g(x_b) = y_b] · 1[r(x_b) > r(x_n)] · 1[h(x_n) = y_n] ]
                 = accuracy on base · accuracy on new · AUC(correct base, correct new)

over all pairs of a base sample b and a new sample n; r is higher for base samples, g classifies among the base classes
and h among the new. Repeating the samples of either domain does not move it. The harmonic mean of both accuracies does
not see the detector, the AUROC does not see the classes, and overall accuracy moves with the mix of domains.

Hua et al., "OpenworldAUC: Towards Unified Evaluation and Optimization for Open-world Prompt Tuning", ICML 2025.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.curves.ranks import TIES, count_pairs
from equipoise.core.scores import ScoreSpec, Side, as_spec
from equipoise.core.validate import check_choice, check_finite, check_fraction
from equipoise.openworld.openset.metrics import check_correct
from equipoise.openworld.outliers.detection import check_scores


def openworld_auc(
    base_scores: Float[Tensor, " n_base"],
    new_scores: Float[Tensor, " n_new"],
    base_correct: Bool[Tensor, " n_base"] | Int[Tensor, " n_base"],
    new_correct: Bool[Tensor, " n_new"] | Int[Tensor, " n_new"],
    *,
    ties: str = "half",
    higher_is: ScoreSpec | Side = "in",
) -> Float[Tensor, ""]:
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
        ValueError: if a domain is empty, lengths differ, a score is not finite, or correctness is not 0 or 1.

    >>> openworld_auc(torch.tensor([0.9, 0.4]), torch.tensor([0.5]), torch.tensor([1, 1]), torch.tensor([1]))
    tensor(0.5000, dtype=torch.float64)
    """
    check_choice("ties", ties, TIES)
    right = _right_by_side(base_scores, new_scores, base_correct, new_correct)
    spec = as_spec(higher_is)
    base, new = spec.inward(base_scores[right[0]]), spec.inward(new_scores[right[1]])
    if not len(base) or not len(new):
        return torch.zeros((), dtype=torch.float64)
    share = len(base) / len(base_scores) * (len(new) / len(new_scores))
    return torch.tensor(share * count_pairs(base, new).win_rate(ties), dtype=torch.float64)


def openworld_curve(
    base_scores: Float[Tensor, " n_base"],
    new_scores: Float[Tensor, " n_new"],
    base_correct: Bool[Tensor, " n_base"] | Int[Tensor, " n_base"],
    new_correct: Bool[Tensor, " n_new"] | Int[Tensor, " n_new"],
    *,
    higher_is: ScoreSpec | Side = "in",
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
    base_right, new_right = _right_by_side(base_scores, new_scores, base_correct, new_correct)
    inward = as_spec(higher_is).inward(torch.cat([base_scores, new_scores])).cpu()
    values, order = inward.sort()
    right = torch.cat([base_right, new_right]).cpu().double()[order]
    of_base = order < len(base_scores)
    ends = torch.cat([values[1:] != values[:-1], torch.ones(1, dtype=torch.bool)])
    start = torch.zeros(1, dtype=torch.float64)
    lost = torch.cat([start, (right * of_base).cumsum(0)[ends]])
    won = torch.cat([start, (right * ~of_base).cumsum(0)[ends]])
    wrong = len(base_scores) - base_right.sum().cpu()
    return (wrong + lost) / len(base_scores), won / len(new_scores)


def harmonic_mean_accuracy(base_accuracy: float, new_accuracy: float) -> float:
    """2ab / (a + b) of two accuracies in [0, 1]; 0 if both are 0.

    >>> harmonic_mean_accuracy(0.5, 1.0)
    0.6666666666666666
    """
    check_fraction("base_accuracy", base_accuracy, zero=True)
    check_fraction("new_accuracy", new_accuracy, zero=True)
    total = base_accuracy + new_accuracy
    return 2 * base_accuracy * new_accuracy / total if total else 0.0


def overall_accuracy(logits: Float[Tensor, "n classes"], target: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Accuracy of one argmax over base and new classes together; it moves with the mix of the domains.

    Raises:
        ValueError: if shapes do not fit.

    >>> overall_accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    if logits.ndim != 2 or target.shape != logits.shape[:1] or not len(target):
        raise ValueError(f"logits and target must be (n, classes) and (n,), got {tuple(logits.shape)}, {target.shape}")
    return (logits.argmax(1) == target).double().mean()


def _right_by_side(
    base_scores: Tensor, new_scores: Tensor, base_correct: Tensor, new_correct: Tensor
) -> tuple[Tensor, Tensor]:
    right = []
    for side, scores, correct in (("base", base_scores, base_correct), ("new", new_scores, new_correct)):
        check_scores(f"{side}_scores", scores)
        check_finite(f"{side}_scores", scores)
        right.append(check_correct(f"{side}_correct", correct, scores))
    return right[0], right[1]
