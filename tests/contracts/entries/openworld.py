"""The public names of `equipoise.openworld`."""

import torch
from torch import nn

from contracts.model import Function, Loss, Measure, multiclass, multilabel, renamed
from word_tower import WordSum

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


def _gated(generator, n):
    base, gate = torch.rand(2, n, generator=generator)
    new, new_gate = torch.rand(2, n // 2 + 1, generator=generator)
    return {"base_scores": base, "new_scores": new, "base_gate": gate, "new_gate": new_gate}


def _no_new(generator, n):
    return {**_gated(generator, n), "new_scores": torch.zeros(0), "new_gate": torch.zeros(0)}


def _texts(generator, n):
    """Features of two classes, their images, and candidates that are nearer to no class than its own text."""
    images = torch.eye(6)[:2]
    near = 0.1 * torch.randn(2, 6, generator=generator)
    candidates = torch.randn(n, 6, generator=generator) - images.sum(0)
    return {"id_text": images + near, "id_image_prototypes": images, "candidates": candidates}


def _class_texts(generator, n):
    texts = _texts(generator, n)
    return {"image_features": torch.randn(n, 6, generator=generator), "id_text": texts["id_text"]}


def _negative_texts(generator, n):
    order = torch.randperm(5, generator=generator)
    return {**_class_texts(generator, n), "negative_text": _texts(generator, 5)["candidates"], "permutation": order}


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
    label_loss(
        "TKPRLoss", {"k": 2, "normalizer": "ideal", "ignore_index": -1}, functional="equipoise.openworld.tkpr_loss"
    ),
    label_loss("PairwiseRankingLoss", {"surrogate": "squared_hinge", "ignore_index": -1}),
    label_loss("LSEPLoss", {"ignore_index": -1}),
    label_loss("MultilabelTopKHingeLoss", {"k": 1, "ignore_index": -1}),
    label_loss("AsymmetricLoss", {"gamma_pos": 1.0, "gamma_neg": 2.0, "clip": 0.1, "ignore_index": -1}),
    Function("equipoise.openworld.tkpr_loss", {"k": 2, "reduction": "sum"}, _labels),
    Measure(
        "equipoise.openworld.TKPR",
        {"k": 3, "normalizer": "ideal", "ties": "half", "average": "micro", "ignore_index": -1},
        _ranked_labels,
        functional="equipoise.openworld.tkpr",
        undefined=_no_label_ranked,
    ),
    Measure(
        "equipoise.openworld.MultilabelRankingMetrics",
        {"k": (1, 3), "ties": "optimistic", "average": "micro"},
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
    Loss(
        "equipoise.openworld.EDGELoss",
        {"alpha": 0.5, "beta": 0.7, "k": 6, "margin": 0.3, "exclude_unlabelled": True},
        _with_outliers,
        gather=True,
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
    Loss(
        "equipoise.openworld.GatedPairwiseAUCLoss",
        {"margin": 0.7, "detach_gate": False},
        _gated,
        functional="equipoise.openworld.gated_pairwise_auc_loss",
        undefined=_no_new,
        exempt={"the_type_of_a_target_does_not_matter": "it takes two sets of scores and no target"},
    ),
    Function("equipoise.openworld.gated_pairwise_auc_loss", {"margin": 0.7, "detach_gate": False}, _gated),
    Function(
        "equipoise.openworld.base_to_new_score",
        {"num_pseudo_base": 2},
        lambda g, n: {"logits": torch.randn(3, n, 4, generator=g)},
    ),
    Function("equipoise.openworld.select_negative_texts", {"m": 2, "min_share": 0.5, "chunk": 5}, _texts),
    Function(
        "equipoise.openworld.neglabel_select",
        {"m": 2, "quantile": 0.5, "chunk": 5},
        lambda g, n: {name: value for name, value in _texts(g, n).items() if name != "id_image_prototypes"},
    ),
    Function("equipoise.openworld.grouped_negative_score", {"scale": 5.0, "groups": 2}, _negative_texts),
    Function("equipoise.openworld.mcm_score", {"scale": 5.0, "temperature": 2.0}, _class_texts),
    Function(
        "equipoise.openworld.NegativeBank",
        {"capacity": 3},
        lambda g, n: {"id_text": torch.randn(n, 6, generator=g), "id_image_prototypes": torch.randn(n, 6, generator=g)},
    ),
    Function(
        "equipoise.openworld.InterNeg",
        {"tower": None, "m": 5, "groups": 2, "capacity": 3, "threshold": 0.2, "max_inversions": 2, "scale": 10.0},
    ),
    Function(
        "equipoise.openworld.TextualInverter",
        {"tower": WordSum(), "templates": ("a {}",), "steps": 2, "lr": 0.1, "weight_decay": 0.1, "init_std": 0.1},
    ),
    Function("equipoise.openworld.PromptLearner", {"tower": WordSum(), "n_ctx": 2}),
    Function(
        "equipoise.openworld.GMoP",
        {
            "tower": WordSum(),
            "base_names": ("fox", "stone", "bird"),
            "num_detectors": 2,
            "n_ctx": 2,
            "n_ctx_detector": 2,
            "lam": 0.5,
            "alpha": 0.25,
        },
    ),
)

OTHERS: dict[str, str] = {
    "equipoise.openworld.OpenSetClassifier": "a network around a network, with a threshold that held-out samples set",
    "equipoise.openworld.DETECTORS": "a table of detectors, whose scores are entered under their own names",
    "equipoise.openworld.Detector": "a score with its name and its direction",
    "equipoise.openworld.OutlierExposureLoader": "pairs the batches of two loaders and computes nothing",
    "equipoise.openworld.fooled_measures": "takes no argument: it computes examples",
}
