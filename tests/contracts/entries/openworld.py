"""The public names of `equipoise.openworld`."""

import torch

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


def _labels(generator, n):
    """Logits of labels that are known in part; of every sample a relevant and an irrelevant one."""
    mask = torch.rand(n, 5, generator=generator) < 0.8
    mask[:, :2] = True
    return {**multilabel()(generator, n), "mask": mask}


def _ranked_labels(generator, n):
    return {**renamed(_labels, logits="scores")(generator, n), "sample_weight": torch.rand(n, generator=generator)}


def _no_label_known(generator, n):
    return {**_labels(generator, n), "mask": torch.zeros(n, 5, dtype=torch.bool)}


def _no_label_ranked(generator, n):
    return {**_ranked_labels(generator, n), "mask": torch.zeros(n, 5, dtype=torch.bool)}


def _without_weight(generator, n):
    return renamed(_labels, logits="scores")(generator, n)


def label_loss(name, settings, **options):
    """A loss of labels that may be unknown."""
    return Loss(f"equipoise.openworld.{name}", settings, _labels, undefined=_no_label_known, **options)


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
    label_loss("TKPRLoss", {"k": 2, "normalizer": "ideal"}, functional="equipoise.openworld.tkpr_loss"),
    label_loss("PairwiseRankingLoss", {"surrogate": "squared_hinge"}),
    label_loss("LSEPLoss", {}),
    label_loss("MultilabelTopKHingeLoss", {"k": 1}),
    label_loss("AsymmetricLoss", {"gamma_pos": 1.0, "gamma_neg": 2.0, "clip": 0.1}),
    Function("equipoise.openworld.tkpr_loss", {"k": 2, "reduction": "sum"}, _labels),
    Measure(
        "equipoise.openworld.TKPR",
        {"k": 3, "normalizer": "one", "ties": "half"},
        _ranked_labels,
        functional="equipoise.openworld.tkpr",
        undefined=_no_label_ranked,
    ),
    Measure(
        "equipoise.openworld.MultilabelRankingMetrics",
        {"k": (1, 3), "ties": "optimistic"},
        _ranked_labels,
        functional="equipoise.openworld.multilabel_ranking_metrics",
        undefined=_no_label_ranked,
    ),
    Function("equipoise.openworld.tkpr", {"k": 3, "empty_target": "skip"}, _ranked_labels),
    Function("equipoise.openworld.multilabel_ranking_metrics", {"k": 3, "ties": "strict"}, _ranked_labels),
    Function("equipoise.openworld.class_map", {}, _without_weight),
    Function("equipoise.openworld.hamming_loss", {"threshold": 0.5}, _without_weight),
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
    Function("equipoise.openworld.manifold_mixup_outliers", {"alpha": 0.5}, _embedded),
)

OTHERS: dict[str, str] = {
    "equipoise.openworld.OpenSetClassifier": "a network around a network, with a threshold that held-out samples set",
    "equipoise.openworld.fooled_measures": "takes no argument: it computes examples",
}
