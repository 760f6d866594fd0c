"""What this room declares: lists of labels with the right one on top. Detectors stand in `outliers.detectors`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from equipoise.core.phases import WarmUp
from equipoise.core.registry import CriterionKind, Objective, Request, list_length
from equipoise.openworld.topk.autkc_loss import AUTKCLoss
from equipoise.openworld.topk.metrics import autkc, topk_accuracy


def _autkc(request: Request) -> nn.Module:
    k = list_length(request.k, request.num_classes)
    return WarmUp(nn.CrossEntropyLoss(), AUTKCLoss(k), request.warm_up_epochs)


def _topk_accuracy(scores: Tensor, target: Tensor, k: int | None = None, sample_weight: Tensor | None = None) -> Tensor:
    return topk_accuracy(scores, target, list_length(k, scores.shape[1]), sample_weight=sample_weight)


def _autkc_metric(scores: Tensor, target: Tensor, k: int | None = None, sample_weight: Tensor | None = None) -> Tensor:
    return autkc(scores, target, list_length(k, scores.shape[1]), sample_weight=sample_weight)


def _of_lists(name: str, summary: str, function: Callable[..., Tensor]) -> CriterionKind:
    return CriterionKind(name, summary, function, multiclass=True, uses_k=True, compares_classes=True, paper="autkc")


DECLARED = (
    Objective(
        "autkc",
        "the true label against those at the top of the list, after cross-entropy in the first epochs",
        _autkc,
        binary=False,
        multiclass=True,
        decides=True,
        paper="autkc",
    ),
    _of_lists("top_k_accuracy", "top-k accuracy", _topk_accuracy),
    _of_lists("autkc", "AUTKC", _autkc_metric),
)
