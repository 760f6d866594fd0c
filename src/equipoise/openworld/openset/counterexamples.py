"""Predictions that fool one measure and not another: why a model should be judged on both questions at once.

Each example is a model, the same model made worse, a measure that does not see the difference, and one that does. The
numbers are computed, not written down.

The first two are those of Wang et al., "OpenAUC: Towards AUC-Oriented Open-Set Recognition", NeurIPS 2022. The others
follow from the definitions of AUTKC (Wang et al., TPAMI 2023), TKPR (Wang et al., IJCV 2024) and OpenworldAUC (Hua et
al., ICML 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.openworld.multilabel.metrics import multilabel_ranking_metrics, tkpr
from equipoise.openworld.openset.confusion import open_set_confusion, open_set_f1
from equipoise.openworld.openset.open_auc import open_auc
from equipoise.openworld.prompts.openworld_auc import harmonic_mean_accuracy, openworld_auc
from equipoise.openworld.topk.metrics import autkc, topk_accuracy


@dataclass(frozen=True)
class Counterexample:
    """A measure that is fooled beside one that is not.

    Attributes:
        change: what was done to the model.
        fooled: name of the measure that does not fall.
        fooled_values: its value before and after.
        coupled: name of the measure that falls.
        coupled_values: its value before and after.
    """

    change: str
    fooled: str
    fooled_values: tuple[float, float]
    coupled: str
    coupled_values: tuple[float, float]


def fooled_measures() -> tuple[Counterexample, ...]:
    """Six examples, on samples that are the same at every call.

    >>> for example in fooled_measures():
    ...     before, after = example.fooled_values
    ...     assert after >= before and example.coupled_values[1] < example.coupled_values[0]
    >>> fooled_measures()[2].fooled, fooled_measures()[2].coupled
    ('top-5 accuracy', 'AUTKC@5')
    """
    return (
        _one_more_unknown_let_in(),
        _classes_shuffled(),
        _label_to_the_end_of_the_list(),
        _labels_to_the_end_of_the_list(),
        _detector_turned_round(),
        _mix_of_domains(),
    )


def _one_more_unknown_let_in() -> Counterexample:
    """F-scores count errors by class: a rejected known sample and an accepted unknown one may change places."""
    target, pred = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 1])
    known, unknown = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0.2, 0.1])
    unknown_pred = torch.tensor([1, 0])
    # The sample that is taken for class 1 is rejected instead, and an unknown one is taken for class 1.
    worse_known, worse_unknown = torch.tensor([0.9, 0.8, 0.7, 0.2]), torch.tensor([0.85, 0.1])

    def both(of_known: Tensor, of_unknown: Tensor) -> tuple[float, float]:
        confusion = open_set_confusion(
            pred, target, of_known, unknown_pred, of_unknown, threshold=0.5, num_classes=3, higher_is="in"
        )
        return float(open_set_f1(confusion)), float(open_auc(of_known, of_unknown, pred == target))

    (f1, whole), (worse_f1, worse_whole) = both(known, unknown), both(worse_known, worse_unknown)
    return Counterexample(
        "a known sample put into the wrong class is rejected instead, and an unknown one is let into that class",
        "open-set F-score",
        (f1, worse_f1),
        "OpenAUC",
        (whole, worse_whole),
    )


def _classes_shuffled() -> Counterexample:
    """A detector does not look at classes."""
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    known, unknown = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), torch.tensor([0.3, 0.2])
    everything = torch.ones(6, dtype=torch.bool)
    shuffled = (target + 1) % 3
    auroc = float(open_auc(known, unknown, everything))
    return Counterexample(
        "every known sample gets the label of another class",
        "novelty AUROC",
        (auroc, auroc),
        "OpenAUC",
        (float(open_auc(known, unknown, target == target)), float(open_auc(known, unknown, shuffled == target))),
    )


def _label_to_the_end_of_the_list() -> Counterexample:
    """Top-k accuracy asks only whether the label is in the list."""
    target = torch.zeros(4, dtype=torch.long)
    first = torch.arange(10, 0, -1.0).expand(4, 10)
    fifth = first.clone()
    # Between the fifth and the sixth score.
    fifth[:, 0] = 5.5
    return Counterexample(
        "the true label moves from the first place of the list to the last",
        "top-5 accuracy",
        (float(topk_accuracy(first, target, 5)), float(topk_accuracy(fifth, target, 5))),
        "AUTKC@5",
        (float(autkc(first, target, 5)), float(autkc(fifth, target, 5))),
    )


def _labels_to_the_end_of_the_list() -> Counterexample:
    """Precision counts hits in the list and not their places."""
    target = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0]])
    first = torch.arange(8, 0, -1.0).view(1, 8)
    last = torch.tensor([[4.5, 4.2, 7.0, 6.0, 5.0, 3.0, 2.0, 1.0]])

    def precision(scores: Tensor) -> float:
        return float(multilabel_ranking_metrics(scores, target, 5, full=False)["precision"])

    return Counterexample(
        "both relevant labels move from the first two places of the list to the last two",
        "precision@5",
        (precision(first), precision(last)),
        "TKPR@5",
        (float(tkpr(first, target, 5)), float(tkpr(last, target, 5))),
    )


def _detector_turned_round() -> Counterexample:
    """The harmonic mean is told which domain a sample belongs to."""
    base, new = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0.4, 0.3, 0.2])
    base_right, new_right = torch.tensor([1, 1, 1, 0]), torch.tensor([1, 1, 0])
    mean = harmonic_mean_accuracy(float(base_right.double().mean()), float(new_right.double().mean()))
    return Counterexample(
        "the detector takes every base sample for new and every new one for base",
        "harmonic mean of accuracies",
        (mean, mean),
        "OpenworldAUC",
        (
            float(openworld_auc(base, new, base_right, new_right)),
            float(openworld_auc(-base, -new, base_right, new_right)),
        ),
    )


def _mix_of_domains() -> Counterexample:
    """Overall accuracy is an average over whatever there is most of."""
    right = {"base": torch.tensor([1, 1, 1, 0]), "new": torch.tensor([1, 0, 0, 1])}
    scores = {"base": torch.tensor([0.9, 0.8, 0.7, 0.6]), "new": torch.tensor([0.4, 0.3, 0.2, 0.1])}
    worse = {"base": right["base"], "new": torch.tensor([1, 0, 0, 0])}

    def overall(correct: dict[str, Tensor], base_share: int) -> float:
        return float(torch.cat([correct["base"].repeat(base_share), correct["new"]]).double().mean())

    def coupled(correct: dict[str, Tensor], base_share: int) -> float:
        base_scores, base_right = scores["base"].repeat(base_share), correct["base"].repeat(base_share)
        return float(openworld_auc(base_scores, scores["new"], base_right, correct["new"]))

    return Counterexample(
        "half as many new samples are right, and the test set holds eight times as many base samples",
        "overall accuracy",
        (overall(right, 1), overall(worse, 8)),
        "OpenworldAUC",
        (coupled(right, 1), coupled(worse, 8)),
    )
