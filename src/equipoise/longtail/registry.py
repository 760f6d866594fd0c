"""What this room declares: losses and optimizers for rare classes, and accuracies in which all classes count alike.

Losses are declared with what their authors recommend: class weights that begin in the last fifth of the epochs. The
tail of the optimizers is the rarer half of the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from equipoise.core.class_stats import ClassStats
from equipoise.core.phases import PhasedLoss
from equipoise.core.registry import CriterionKind, Objective, OptimizerChoice, Request, rarer_half
from equipoise.longtail.reweighting.class_accuracy import balanced_accuracy, worst_class_accuracy
from equipoise.longtail.reweighting.class_dependent import BalancedSoftmaxLoss, LDAMLoss, localization_loss
from equipoise.longtail.sharpness.class_sam import SAM, SSESAM, FocalSAM, ImbSAM


def _ldam(request: Request) -> nn.Module:
    stats = ClassStats.of(request.class_counts)
    return PhasedLoss(LDAMLoss(stats), LDAMLoss(stats, weight=stats.effective_number_weights()))


def _localization(name: str, summary: str, build: Callable[[Request], nn.Module], **options: Any) -> Objective:
    return Objective(name, summary, build, binary=False, multiclass=True, decides=True, paper="localization", **options)


def _sam(groups: Any, request: Request, **options: Any) -> Optimizer:
    return SAM(groups, AdamW, **options)


def _imb_sam(groups: Any, request: Request, **options: Any) -> Optimizer:
    return ImbSAM(groups, AdamW, request.class_counts, tail=rarer_half(request.class_counts), **options)


def _focal_sam(groups: Any, request: Request, **options: Any) -> Optimizer:
    return FocalSAM(groups, AdamW, request.class_counts, **options)


def _sse_sam(groups: Any, request: Request, **options: Any) -> Optimizer:
    tail = rarer_half(request.class_counts)
    return SSESAM(groups, AdamW, request.class_counts, total_epochs=request.total_epochs, tail=tail, **options)


DECLARED = (
    _localization(
        "logit_adjusted",
        "balanced softmax, its offsets replaced in part by aligned class weights in the last fifth of the epochs",
        lambda r: localization_loss(r.class_counts, gamma=0.0, late_tau=0.75),
    ),
    _localization(
        "balanced_softmax",
        "log loss with the log of each class's share added to its logit",
        lambda r: BalancedSoftmaxLoss(r.class_counts),
    ),
    _localization(
        "ldam",
        "wider margins for rarer classes on cosines, class weights in the last fifth of the epochs",
        _ldam,
        cosines=True,
    ),
    _localization(
        "vs",
        "factors and offsets of the logits, factors replaced by aligned class weights in the last fifth of the epochs",
        lambda r: localization_loss(r.class_counts),
    ),
    CriterionKind("balanced_accuracy", "balanced accuracy", balanced_accuracy, multiclass=True, compares_classes=True),
    CriterionKind(
        "worst_class_accuracy",
        "accuracy of the worst class",
        worst_class_accuracy,
        multiclass=True,
        compares_classes=True,
    ),
    OptimizerChoice("sam", "flat minima by the loss of all samples", _sam, paper="focal-sam"),
    OptimizerChoice("imb_sam", "flat minima by the loss of the rarer classes", _imb_sam, paper="focal-sam"),
    OptimizerChoice("focal_sam", "flat minima, the more for a class the rarer it is", _focal_sam, paper="focal-sam"),
    OptimizerChoice(
        "sse_sam",
        "flat minima of frequent and rare classes apart, later of the rare alone",
        _sse_sam,
        late=0.7,
        paper="sse-sam",
    ),
)
