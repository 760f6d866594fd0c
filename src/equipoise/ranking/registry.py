"""What this room declares: objectives of two classes and their regions, and what they are judged by.

Pairwise objectives are means over pairs, so that one learning rate serves them and the cross-entropies.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from equipoise.core.phases import WarmUp
from equipoise.core.registry import CriterionKind, Objective, Request
from equipoise.core.solvers.saddle import WarmStarted
from equipoise.ranking import auroc, average_precision, multiclass_auroc, opauc, tpauc
from equipoise.ranking.multiclass_auc import MulticlassAUCLoss
from equipoise.ranking.pairwise_auc import PairwiseAUCLoss
from equipoise.ranking.partial.instancewise_partial_auc import InstancewisePartialAUCLoss
from equipoise.ranking.partial.partial_auc import PartialAUCLoss
from equipoise.ranking.partial.weighted_partial_auc import WeightedPartialAUCLoss
from equipoise.ranking.precision.auprc import AUPRCLoss
from equipoise.ranking.robust.minmax_auc import MinMaxAUCLoss


def _auc(request: Request) -> nn.Module:
    if request.num_classes > 2:
        return MulticlassAUCLoss("squared_hinge", average="ovo")
    return PairwiseAUCLoss("squared_hinge")


def _two_way_partial_auc(request: Request) -> nn.Module:
    loss = PartialAUCLoss(request.max_fpr or 1.0, request.min_tpr or 0.0, "squared_hinge")
    return WarmUp(_auc(request), loss, request.warm_up_epochs)


def _one_way_partial_auc(request: Request) -> nn.Module:
    return WarmUp(_auc(request), PartialAUCLoss(request.max_fpr or 1.0), request.warm_up_epochs)


def _weighted_partial_auc(request: Request) -> nn.Module:
    return WeightedPartialAUCLoss(
        "exp",
        gamma=8.0,
        region="one_way" if request.min_tpr is None else "two_way",
        warmup_epochs=request.warm_up_epochs,
    )


def _instancewise_partial_auc(request: Request) -> nn.Module:
    loss = InstancewisePartialAUCLoss(request.max_fpr or 1.0, request.min_tpr or 0.0)
    return WarmUp(_auc(request), WarmStarted(loss), request.warm_up_epochs)


def _average_precision(request: Request) -> nn.Module:
    return AUPRCLoss(request.class_counts[1] / sum(request.class_counts))


DECLARED = (
    Objective(
        "auc",
        "squared hinge over all pairs; one-vs-one for several classes",
        _auc,
        multiclass=True,
        weighs_samples=True,
        paper="multiclass-auc",
    ),
    Objective(
        "partial_auc",
        "squared hinge over the pairs of the highest-scored negatives",
        _one_way_partial_auc,
        needs_max_fpr=True,
        weighs_samples=True,
        paper="tpauc",
    ),
    Objective(
        "two_way_partial_auc",
        "squared hinge over the pairs of the highest-scored negatives and lowest-scored positives",
        _two_way_partial_auc,
        needs_max_fpr=True,
        needs_min_tpr=True,
        weighs_samples=True,
        paper="tpauc",
    ),
    Objective(
        "weighted_partial_auc",
        "square loss over all pairs, the harder a sample the more it weighs",
        _weighted_partial_auc,
        weighs_samples=True,
        paper="tpauc",
    ),
    Objective(
        "minmax_auc",
        "square loss over all pairs, one sample at a time against a dual variable",
        lambda _: WarmStarted(MinMaxAUCLoss()),
        paper="adauc",
    ),
    Objective(
        "instancewise_partial_auc",
        "square loss of the highest-scored negatives and, with min_tpr, the lowest-scored positives, one by one",
        _instancewise_partial_auc,
        needs_max_fpr=True,
        paper="pauci",
    ),
    Objective(
        "average_precision",
        "a bound of 1 − AP at the training data's prior, whatever the batches' share of positives",
        _average_precision,
        paper="soprc",
    ),
    CriterionKind("auroc", "AUROC", auroc, aliases=("auc",)),
    CriterionKind("opauc", "OPAUC", opauc, uses_max_fpr=True, paper="tpauc"),
    CriterionKind("tpauc", "TPAUC", tpauc, uses_max_fpr=True, uses_min_tpr=True, paper="tpauc"),
    CriterionKind("average_precision", "average precision", average_precision, aliases=("ap",)),
    CriterionKind(
        "ovo_auroc",
        "one-vs-one AUROC",
        partial(multiclass_auroc, average="ovo"),
        multiclass=True,
        paper="multiclass-auc",
        aliases=("mauc",),
    ),
    CriterionKind("ovr_auroc", "one-vs-rest AUROC", partial(multiclass_auroc, average="ovr"), multiclass=True),
)
