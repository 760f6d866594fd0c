"""The public names of `equipoise.longtail`."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from contracts.model import Function, Loss, Measure, Optimizer, binary, multiclass, one_class, renamed
from equipoise.longtail import (
    BalancedSoftmaxLoss,
    BiLTLoss,
    CollaborationGate,
    ContextBranch,
    DetailBranch,
    DirichletMixture,
    LabelTree,
    VSLoss,
    fixed_suite,
    simplex_etf,
)
from equipoise.longtail.experts.dirichlet_experts import Trials

ROOM = "equipoise.longtail"
_SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.9}
_COUNTS = {"class_counts": (61, 23, 7)}
_TREE = LabelTree.from_nested({"animal": ["cat", "dog"], "thing": ["cup"]})
_MIXTURE = DirichletMixture((61, 23, 7), 50.0)
_TRIALS = Trials(torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7]]), torch.tensor([0, 1, 2]))
_SMALL, _LARGE = ContextBranch(nn.Identity(), 4), DetailBranch(6)
_WIDTH = _SMALL.out_dim + _LARGE.out_dim + 4

logits = multiclass(3)
scores = multiclass(3, "scores")


class OneLevelAfterAnother(nn.Module):
    """A `BiLTLoss` of the columns of one tensor: first the three finest classes, then the two above."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, logits, target):
        return self.loss(logits.split((3, 2), dim=1), target)


class OneHeadAfterAnother(nn.Module):
    """The total of a `DualStageLoss` of the columns of one tensor: of three heads, the decision and its gate."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, logits, target):
        *heads, decision, gate = logits.split((2, 2, 2, 2, 3), dim=1)
        out = {"head_logits": dict(zip(("rw", "auc", "la"), heads, strict=True))}
        return self.loss(out | {"log_prob": decision, "gate_c": gate}, target)["total"]


def _columns(columns, classes):
    """Logits of several heads side by side."""
    return lambda generator, n: {**multiclass(columns)(generator, n), "target": torch.arange(n) % classes}


def _all_ignored(generator, n):
    return {**logits(generator, n), "target": torch.full((n,), -100)}


def _cosines(generator, n):
    return {"logits": normalize(torch.randn(n, 3, generator=generator)), "target": torch.arange(n) % 3}


def _experts(generator, n):
    return {"expert_logits": torch.randn(3, n, 3, generator=generator), "target": torch.arange(n) % 3}


def _experts_and_prior(generator, n):
    return {**_experts(generator, n), "prior": torch.tensor([0.7, 0.2, 0.1])}


def _views(generator, n):
    first, second = torch.randn(2, 3, n, 4, generator=generator)
    return {"first": first, "second": second, "weight_logits": torch.randn(3, generator=generator)}


def _probabilities(generator, n):
    return {"probabilities": torch.randn(n, 3, generator=generator).softmax(1)}


def _mistakes(generator, n):
    return {"prob_mistake": torch.rand(n, generator=generator), "target": (torch.arange(n) % 3 == 0).long()}


def _branches(generator, n):
    small, large = torch.randn(2, n, 3, generator=generator)
    gate = torch.randn(n, generator=generator)
    return {"small_logits": small, "large_logits": large, "gate_logit": gate, "target": torch.arange(n) % 3}


def _features(generator, n):
    return {"features": torch.randn(n, 5, generator=generator), "target": torch.arange(n) % 3}


def _classified(generator, n):
    """Features, and the layer that classifies them."""
    layer = {"weight": torch.randn(3, 5, generator=generator), "bias": torch.randn(3, generator=generator)}
    return {**_features(generator, n), **layer}


def _probed(generator, n):
    """Inputs of a model whose classes are probed."""
    return {"inputs": torch.randn(n, 4, generator=generator), "target": torch.arange(n) % 3}


def _labels(generator, n):
    return {"target": torch.arange(n) % 3}


def _frame(generator, n):
    return {"frame": simplex_etf(4, 3)}


def _sample_losses(logits, target):
    return cross_entropy(logits, target, reduction="none")


def class_dependent(name, settings, inputs=logits, **options):
    """A loss by class counts, in which classes may be ignored."""
    return Loss(f"{ROOM}.{name}", {**_COUNTS, **settings}, inputs, undefined=_all_ignored, **options)


_PROBE = {"model": nn.Linear(4, 3), "loss": _sample_losses, "num_classes": 3}

ENTRIES = (
    class_dependent("VSLoss", {"gamma": 0.3, "tau": 0.5, "label_smoothing": 0.1}),
    class_dependent("LogitAdjustedLoss", {"tau": 0.7}),
    class_dependent("BalancedSoftmaxLoss", {"reduction": "batch_mean"}),
    class_dependent("CDTLoss", {"gamma": 0.2, "weight": (0.5, 1.0, 2.0)}),
    class_dependent(
        "LDAMLoss",
        {"max_m": 0.4, "s": 10.0, "logits_scaled": False},
        _cosines,
        exempt=dict.fromkeys(
            (
                "extreme_scores_are_finite",
                "extreme_logits_in_half_precision_have_the_value_that_they_have_in_float64",
            ),
            "its logits are cosines, and it warns of larger ones",
        ),
    ),
    Loss(f"{ROOM}.CVSLoss", {**_COUNTS, "gamma": 0.2, "tau": 0.8, "rho": 0.1}, logits),
    Loss(
        f"{ROOM}.PhasedCVSLoss",
        {**_COUNTS, "gamma": 0.2, "tau": 0.8, "rho": 0.1, "start": 0.5, "warm_up": 2},
        logits,
        undefined=_all_ignored,
    ),
    Loss(
        f"{ROOM}.PhasedLoss",
        {"early": BalancedSoftmaxLoss((61, 23, 7)), "late": VSLoss((60, 20, 4)), "start": 0.5},
        logits,
        undefined=_all_ignored,
        exempt={"bad_batches_are_refused_by_name": "the loss of the epoch takes the batch and refuses a bad one"},
    ),
    Function(f"{ROOM}.localization_loss", {**_COUNTS, "start": 0.5, "late_tau": 0.75}),
    Function(f"{ROOM}.vs_loss", {"label_smoothing": 0.1, "ignore_index": -1, "reduction": "sum"}, logits),
    Function(f"{ROOM}.post_hoc_adjust", {**_COUNTS, "tau": 0.5}, lambda g, n: {"logits": logits(g, n)["logits"]}),
    Function(f"{ROOM}.ConfidenceScaleBank", {**_COUNTS, "n_bins": 5, "min_samples": 3}),
    Function(f"{ROOM}.fit_confidence_scale", {"n_bins": 5, "min_samples": 3}, logits),
    Measure(f"{ROOM}.ShotAccuracy", {**_COUNTS, "many": 50, "few": 10}, renamed(logits, logits="pred")),
    Function(f"{ROOM}.shot_accuracy", {**_COUNTS, "many": 50, "few": 10}, renamed(logits, logits="pred")),
    Loss(
        f"{ROOM}.BiLTLoss",
        {"tree": _TREE, "alpha": 0.7, "beta": 0.4, "epsilon": 0.3, "weighting": "exp", "add_identity": True},
        _columns(5, 3),
        adapt=OneLevelAfterAnother,
        exempt={"bad_batches_are_refused_by_name": "it takes one tensor per level; its own test gives it bad ones"},
    ),
    Function(f"{ROOM}.BiLT", {"encoder": nn.Identity(), "in_features": 4, "loss": BiLTLoss(_TREE)}),
    Function(f"{ROOM}.LogitChain", {"in_features": 4, "num_classes": (6, 3, 2), "activation": "leaky_relu"}),
    Function(f"{ROOM}.AIGDL", {"beta": 0.4, "add_identity": True}, lambda g, n: {"cost": _TREE.cost(0)}),
    Function(f"{ROOM}.LabelTree", {}, lambda g, n: {"paths": _TREE.paths}),
    Function(f"{ROOM}.crm_decision", {}, lambda g, n: {**_probabilities(g, n), "cost": _TREE.cost(0)}),
    Measure(
        f"{ROOM}.HierarchicalMetrics",
        {"tree": _TREE, "ks": (1, 2)},
        scores,
        functional=f"{ROOM}.hierarchical_metrics",
        undefined=lambda g, n: {"scores": torch.eye(3)[torch.arange(n) % 3], "target": torch.arange(n) % 3},
    ),
    Function(f"{ROOM}.hierarchical_metrics", {"tree": _TREE, "ks": (1, 2)}, scores),
    Loss(
        f"{ROOM}.DirMixELoss",
        {"mixture": _MIXTURE, "power": 1.2, "trials": 7, "start": 0.0, "seed": 3},
        _experts,
        exempt={"the_order_of_samples_does_not_matter": "samples are the second dimension; its own test moves them"},
    ),
    Function(f"{ROOM}.dirmixe_loss", {"trials": _TRIALS, "power": 1.2}, _experts_and_prior),
    Function(f"{ROOM}.diverse_expert_loss", {"tau": 1.5}, _experts_and_prior),
    Function(f"{ROOM}.DirichletMixture", {**_COUNTS, "concentration": 50.0}),
    Function(f"{ROOM}.TestTimeAggregator", {"num_experts": 3, "epochs": 2}),
    Function(f"{ROOM}.view_consistency", {}, _views),
    Function(f"{ROOM}.estimate_prior_em", {**_COUNTS, "steps": 5}, _probabilities),
    Function(
        f"{ROOM}.estimate_prior_bbse",
        {},
        lambda g, n: {"confusion": torch.eye(3) + torch.rand(3, 3, generator=g), "test_pred": torch.arange(n) % 3},
    ),
    Function(f"{ROOM}.fixed_suite", {"ratios": (2.0,)}, _labels),
    Function(f"{ROOM}.dirichlet_suite", {"draws": 2, "concentration": 50.0}, _labels),
    Function(
        f"{ROOM}.suite_accuracy",
        {"suite": fixed_suite(torch.arange(24) % 3, (2.0,))},
        lambda g, n: {"pred": torch.randint(3, (n,), generator=g), "target": torch.arange(n) % 3},
    ),
    Loss(
        f"{ROOM}.BinaryAUCSquareLoss",
        {"margin": 0.8},
        renamed(binary, scores="logits"),
        undefined=renamed(one_class, scores="logits"),
    ),
    Function(f"{ROOM}.binary_auc_square_loss", {"margin": 0.8}, renamed(binary, scores="score")),
    Loss(f"{ROOM}.ComplementaryObjective", {**_COUNTS, "weights": (1.0, 0.5, 2.0), "tau": 0.7, "beta": 0.99}, logits),
    Loss(
        f"{ROOM}.DualStageLoss",
        {"class_counts": (61, 7), "tau": 0.7, "weights": (1.0, 0.5, 2.0), "rho": 0.1},
        _columns(11, 2),
        adapt=OneHeadAfterAnother,
        exempt={"bad_batches_are_refused_by_name": "it takes what a model gives; its own test gives it bad targets"},
    ),
    Function(
        f"{ROOM}.DualStageMoE", {"encoder_coarse": nn.Identity(), "encoder_fine": nn.Identity(), "dim": 4, "hidden": 8}
    ),
    Function(f"{ROOM}.ContextBranch", {"encoder": nn.Identity(), "dim": 4, "hidden": 8, "joint": "concat"}),
    Function(f"{ROOM}.DetailBranch", {"dim": 4, "hidden": 8}),
    Function(f"{ROOM}.CollaborationGate", {"in_dim": 4, "hidden": 8}),
    Function(
        f"{ROOM}.TwoBranchCollaboration",
        {"small_branch": _SMALL, "large_branch": _LARGE, "gate": CollaborationGate(_WIDTH)},
    ),
    Function(f"{ROOM}.collaboration_gate_fusion", {"mode": "logit"}, _branches),
    Function(f"{ROOM}.tune_threshold", {"low": 0.1, "high": 0.9}, renamed(_mistakes, prob_mistake="prob")),
    Measure(
        f"{ROOM}.MistakeDetectionMetrics",
        {"threshold": 0.4, "zero_division": 1.0},
        _mistakes,
        functional=f"{ROOM}.mistake_detection_metrics",
    ),
    Function(f"{ROOM}.mistake_detection_metrics", {"threshold": 0.4, "zero_division": 1.0}, _mistakes),
    Function(f"{ROOM}.MeanPoolVideoEncoder", {"image_encoder": nn.Flatten(), "unit_frames": False}),
    Function(
        f"{ROOM}.EmbeddingCache",
        {"keys": [str(k) for k in range(24)], "hash": "0"},
        lambda g, n: {"values": torch.randn(n, 4, generator=g)},
    ),
    Function(f"{ROOM}.FrameClassifier", {"scale": 8.0, "normalize": True}, _frame),
    Function(
        f"{ROOM}.haframe_classifier",
        {"gamma": 2.0, "dim": 4, "scale": 8.0, "seed": 3},
        lambda g, n: {"cost": _TREE.cost(0)},
    ),
    Function(f"{ROOM}.simplex_etf", {"num_classes": 4, "dim": 3}),
    Function(f"{ROOM}.grassmannian_frame", {"num_vectors": 4, "dim": 2, "signed": False}),
    Function(f"{ROOM}.classification_margins", {}, logits),
    Measure(f"{ROOM}.MarginMetric", {"num_classes": 3}, lambda g, n: {**logits(g, n), **_features(g, n)}),
    Measure(
        f"{ROOM}.NeuralCollapse",
        {"num_classes": 3, "global_mean": "sample"},
        _features,
        functional=f"{ROOM}.neural_collapse_metrics",
    ),
    Measure(
        f"{ROOM}.StreamingNeuralCollapse", {"num_classes": 3, "num_features": 5, "global_mean": "sample"}, _features
    ),
    Measure(
        f"{ROOM}.NearestMeanDisagreement",
        {"means": torch.eye(3, 5), "weight": torch.eye(3, 5).roll(1, 1), "bias": torch.arange(3.0)},
        lambda g, n: {"features": _features(g, n)["features"]},
    ),
    Function(f"{ROOM}.neural_collapse_metrics", {"num_classes": 3, "global_mean": "sample"}, _classified),
    Function(f"{ROOM}.TPTMonitor", {"num_classes": 3, "classifier": nn.Linear(4, 3), "patience": 2}),
    Function(
        f"{ROOM}.symmetric_generalization",
        {"train": lambda frame, seed: float(frame.sum()) + seed, "frames": [torch.eye(2)] * 2, "seeds": [0, 1]},
    ),
    Optimizer(f"{ROOM}.SAM", {**_SGD, "rho": 0.3, "norm": "per_group"}, per_sample=False),
    Optimizer(f"{ROOM}.ImbSAM", {**_SGD, **_COUNTS, "rho": 0.3, "eta": 30.0}),
    Optimizer(f"{ROOM}.FocalSAM", {**_SGD, **_COUNTS, "rho": 0.3, "gamma": 1.0, "lam": 0.5}),
    Optimizer(
        f"{ROOM}.SSESAM",
        {**_SGD, **_COUNTS, "total_epochs": 4, "rho_head": 0.2, "rho_tail": 0.3, "gamma": 0.5, "eta": 30.0},
    ),
    Optimizer(f"{ROOM}.ClassConditionalSAM", {**_SGD, **_COUNTS, "rho": 0.3, "power": 0.5}),
    Function(f"{ROOM}.focal_coefficients", {**_COUNTS, "gamma": 0.5, "lam": 1.1}),
    Function(
        f"{ROOM}.class_sharpness",
        {**_PROBE, "rho": 0.1},
        _probed,
        exempt={"autocast_changes_nothing": "it runs a model, whose layers autocast is for"},
    ),
    Function(f"{ROOM}.class_hessian_extremes", {**_PROBE, "method": "lanczos", "iterations": 4}, _probed),
    Function(f"{ROOM}.FlipTTA", {"model": nn.Flatten()}),
)

OTHERS: dict[str, str] = {}
