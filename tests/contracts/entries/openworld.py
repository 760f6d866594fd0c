"""The public names of `equipoise.openworld`."""

import torch
from torch import nn

from contracts.model import Function, Loss, Measure, multiclass, multilabel, renamed

logits = multiclass(6)
scores = renamed(logits, logits="scores")


def _all_ignored(generator, n):
    return {**logits(generator, n), "target": torch.full((n,), -100)}


def _open_set(generator, n):
    """Of a third of the samples the class is unknown."""
    target = torch.arange(n) % 3 - 1
    pred = torch.randint(2, (n,), generator=generator)
    return {"score": torch.randn(n, generator=generator), "pred": pred, "target": target, "is_known": target >= 0}


def _domains(generator, n):
    batch = _open_set(generator, n)
    base = batch.pop("is_known").long()
    return {**batch, "target": batch["target"].clamp_min(0), "is_base": base}


def _all_known(generator, n):
    return {**_open_set(generator, n), "target": torch.zeros(n).long(), "is_known": torch.ones(n).long()}


def _all_base(generator, n):
    return {**_domains(generator, n), "is_base": torch.ones(n).long()}


def _report(generator, n):
    return {
        "class_scores": torch.randn(n, 6, generator=generator),
        "open_score": torch.randn(n, generator=generator),
        "target": torch.arange(n) % 7 - 1,
    }


def _known_and_unknown(generator, n):
    return {
        "known_scores": torch.randn(n, generator=generator),
        "unknown_scores": torch.randn(n // 2 + 1, generator=generator),
        "known_correct": torch.arange(n) % 2,
    }


def _base_and_new(generator, n):
    known = _known_and_unknown(generator, n)
    return {
        "base_scores": known["known_scores"],
        "new_scores": known["unknown_scores"],
        "base_correct": known["known_correct"],
        "new_correct": torch.arange(n // 2 + 1) % 2,
    }


def _at_threshold(generator, n):
    scores = _known_and_unknown(generator, n)
    return {
        "known_pred": torch.randint(3, (n,), generator=generator),
        "known_target": torch.arange(n) % 3,
        "known_scores": scores["known_scores"],
        "unknown_pred": torch.randint(3, (n // 2 + 1,), generator=generator),
        "unknown_scores": scores["unknown_scores"],
    }


def _confusion(generator, n):
    return {"confusion": torch.randint(9, (4, 4), generator=generator)}


def _with_fakes(generator, n):
    return {**logits(generator, n), "fake_logits": torch.randn(n, 6, generator=generator)}


def _embedded(generator, n):
    return {"embedding": torch.randn(n, 3, generator=generator), "target": torch.arange(n) % 4}


def _only_logits(generator, n):
    return {"logits": torch.randn(n, 6, generator=generator)}


def _with_outliers(generator, n):
    outliers = torch.randn(n // 2 + 2, 5, generator=generator)
    return {**renamed(multilabel(5), logits="id_logits")(generator, n), "ood_logits": outliers}


def _only_with_outliers(generator, n):
    return {name: value for name, value in _with_outliers(generator, n).items() if name != "target"}


def _energies(generator, n):
    return {"id_energy": torch.rand(n, generator=generator), "ood_energy": torch.rand(n // 2 + 2, generator=generator)}


def _features(generator, n):
    known, foreign = torch.randn(2, n, 4, generator=generator)
    return {"id_features": known, "ood_features": foreign}


def _id_and_ood_scores(generator, n):
    known, foreign = torch.randn(2, n, generator=generator)
    return {"id_scores": known, "ood_scores": foreign}


def _labelled_scores(generator, n):
    # The first label is in every row.
    return {**_id_and_ood_scores(generator, n), "target": multilabel(5)(generator, n)["target"][:, 1:]}


class _Centre:
    """An outlier estimator of scikit-learn's kind."""

    def score_samples(self, x):
        return -abs(x).sum(1)


ENTRIES = (
    Loss(
        "equipoise.openworld.AUTKCLoss",
        {"k": 3, "ignore_index": -100},
        logits,
        functional="equipoise.openworld.autkc_loss",
        undefined=_all_ignored,
    ),
    Function("equipoise.openworld.autkc_loss", {"k": 3, "ignore_index": -100}, logits),
    Loss("equipoise.openworld.TopKHingeLoss", {"k": 3, "variant": 5}, logits),
    Loss("equipoise.openworld.TopKEntropyLoss", {"k": 3}, logits),
    Function("equipoise.openworld.autkc", {"k": 3}, scores),
    Function("equipoise.openworld.topk_accuracy", {"k": 3}, scores),
    Function("equipoise.openworld.top_k_accuracies", {"k": 3}, scores),
    Measure("equipoise.openworld.AUTKC", {"k": 3}, scores),
    Measure(
        "equipoise.openworld.OpenWorldReport",
        {"num_classes": 4, "num_new_classes": 2, "k": (1, 3), "recall": 0.9, "known_recall": 0.8},
        _report,
        undefined=lambda generator, n: {**_report(generator, n), "target": torch.arange(n) % 4},
    ),
    Measure("equipoise.openworld.OpenAUC", {"recall": 0.9}, _open_set, undefined=_all_known),
    Measure("equipoise.openworld.OpenworldAUC", {"ties": "strict"}, _domains, undefined=_all_base),
    Function("equipoise.openworld.open_auc", {"ties": "half"}, _known_and_unknown),
    Function("equipoise.openworld.openworld_auc", {"ties": "strict"}, _base_and_new),
    Function("equipoise.openworld.harmonic_mean_accuracy", {"base_accuracy": 0.5, "new_accuracy": 0.25}),
    Function("equipoise.openworld.open_set_confusion", {"threshold": 0.5, "num_classes": 3}, _at_threshold),
    Function("equipoise.openworld.open_set_curve", {"num_classes": 3}, _at_threshold),
    Function("equipoise.openworld.open_set_f1", {"average": "micro"}, _confusion),
    Function("equipoise.openworld.youden_index", {"average": "macro"}, _confusion),
    Function("equipoise.openworld.normalized_accuracy", {"weight": 0.25}, _confusion),
    Function("equipoise.openworld.max_logit", inputs=_only_logits),
    Loss("equipoise.openworld.OpenAUCLoss", {"lam": 0.5, "surrogate": "hinge"}, _with_fakes),
    Function(
        "equipoise.openworld.open_auc_pair_loss",
        {"pairing": "aligned"},
        renamed(_with_fakes, logits="known_logits", target="known_target"),
    ),
    Function(
        "equipoise.openworld.manifold_mixup_outliers",
        {"alpha": 0.5},
        _embedded,
        exempt={"bad_arguments_are_refused_by_name": "an embedding may have any number of dimensions"},
    ),
    Loss(
        "equipoise.openworld.EDGELoss",
        {"alpha": 0.5, "beta": 0.7, "k": 6, "margin": 0.3, "exclude_unlabelled": True},
        _with_outliers,
    ),
    Loss("equipoise.openworld.EnergyMarginLoss", {"m_in": -3.0, "m_out": -1.0, "weight": 0.2}, _with_outliers),
    Loss("equipoise.openworld.UniformExposureLoss", {"weight": 0.2}, _with_outliers),
    Loss(
        "equipoise.openworld.ConfidenceControlLoss",
        {"train_accuracy": 0.9, "lambda_in": 0.1, "lambda_out": 0.2},
        _with_outliers,
    ),
    Function("equipoise.openworld.energy_gap_loss", {"k": 6, "margin": 0.3, "surrogate": "square"}, _energies),
    Function("equipoise.openworld.energy_margin_loss", {"m_in": -3.0, "m_out": -1.0}, _only_with_outliers),
    Function(
        "equipoise.openworld.uniform_exposure_loss",
        inputs=lambda g, n: {"ood_logits": _with_outliers(g, n)["ood_logits"]},
    ),
    Function("equipoise.openworld.confidence_control_loss", {"train_accuracy": 0.9}, _only_with_outliers),
    *(
        Function(f"equipoise.openworld.{name}", inputs=_only_logits)
        for name in ("msp", "energy", "entropy", "joint_energy", "max_energy", "sum_probability")
    ),
    Function("equipoise.openworld.multilabel_ood_scores", inputs=_only_logits),
    Function("equipoise.openworld.ODIN", {"model": nn.Identity(), "temperature": 10.0, "epsilon": 0.1}),
    Function("equipoise.openworld.Mahalanobis", {"num_features": 4, "num_classes": 3, "ridge": 1e-3}),
    Function("equipoise.openworld.estimator_detector", {"name": "centre", "estimator": _Centre()}),
    Function("equipoise.openworld.dilation_distance", {"k": 3, "normalize": True}, _features),
    Function("equipoise.openworld.DilationDistance", {"k": 3, "normalize": True}),
    Function(
        "equipoise.openworld.select_outlier_set",
        {
            "id_loader": [torch.eye(3)],
            "candidates": {"far": [9 * torch.eye(3)]},
            "feature_fn": nn.Identity(),
            "k": 2,
            "prefer": "largest",
        },
    ),
    Function("equipoise.openworld.ood_metrics", {"recall": 0.9}, _id_and_ood_scores),
    Function("equipoise.openworld.tail_ood_metrics", {"num_head": 2, "recall": 0.9}, _labelled_scores),
    Function("equipoise.openworld.tail_ood_profile", {"num_heads": (0, 2), "recall": 0.9}, _labelled_scores),
)

OTHERS: dict[str, str] = {
    "equipoise.openworld.OpenSetClassifier": "a network around a network, with a threshold that held-out samples set",
    "equipoise.openworld.DETECTORS": "a table of detectors, whose scores are entered under their own names",
    "equipoise.openworld.Detector": "a score with its name and its direction",
    "equipoise.openworld.OutlierExposureLoader": "pairs the batches of two loaders and computes nothing",
    "equipoise.openworld.fooled_measures": "takes no argument: it computes examples",
}
