"""The public names of `equipoise.semisup`."""

import torch

from contracts.model import Function, Loss

PACKAGES = ["semisup"]


def _logits(generator, n):
    # The strong ones come first, since only they have a gradient.
    return {
        "strong_logits": torch.randn(3, n, 4, generator=generator),
        "weak_logits": 3 * torch.randn(n, 4, generator=generator),
    }


def _nothing(generator, n):
    return {"strong_logits": torch.zeros(3, 0, 4), "weak_logits": torch.zeros(0, 4)}


def _averages(generator, n):
    return {"ema": torch.randn(n, 3, generator=generator), "value": torch.randn(n, 3, generator=generator)}


_NO_TARGET = "the target is the weak view's prediction"
_ORDER = "strong logits have samples in their second dimension; tests/semisup permutes both"
_EXEMPT = {"the_type_of_a_target_does_not_matter": _NO_TARGET, "the_order_of_samples_does_not_matter": _ORDER}
_LOSS = {"threshold": 0.25, "temperature": 0.5}

ENTRIES = [
    *(
        Loss(
            "equipoise.semisup.WorstCaseConsistencyLoss",
            {**_LOSS, **settings},
            _logits,
            _EXEMPT,
            functional="equipoise.semisup.worst_case_consistency_loss",
            undefined=_nothing,
        )
        for settings in (
            {},
            {"divergence": "ce_soft", "confidence_temperature": 1.0},
            {"divergence": "kl"},
            {"divergence": "mse"},
            {"aggregate": "mean"},
        )
    ),
    Function("equipoise.semisup.worst_case_consistency_loss", _LOSS, _logits),
    Function("equipoise.semisup.consistency_terms", _LOSS, _logits),
    Function(
        "equipoise.semisup.confidence_mask",
        {"threshold": 0.5, "temperature": 2.0},
        lambda generator, n: {"weak_logits": torch.randn(n, 4, generator=generator)},
    ),
    Function("equipoise.semisup.ema_update", {"momentum": 0.9}, _averages),
    Function("equipoise.semisup.warmup_cosine_lr", {"step": 3.5, "base_lr": 0.1, "warmup": 2.5, "total": 9.0}),
    Function("equipoise.semisup.fixmatch_lr", {"step": 3.5, "base_lr": 0.1, "total": 9}),
    Function(
        "equipoise.semisup.split_labelled",
        {"per_class": 2, "seed": 1},
        lambda generator, n: {"target": torch.arange(n) % 3},
    ),
    Function("equipoise.semisup.ImageAugmentation", {"rotation": 0.5, "scale": 0.25, "flip": True, "erase": 0.5}),
    Function("equipoise.semisup.SignalAugmentation", {"shift": 0.25, "noise": 0.5, "mask": 0.5}),
    Function("equipoise.semisup.TableAugmentation", {"noise": 0.5, "mask": 0.25, "swap": 0.25}),
    Function(
        "equipoise.semisup.MultiViewSampler",
        {"weak": torch.add, "strong": torch.add, "variants": 3, "variant_probs": (0.5, 0.5)},
    ),
    Function("equipoise.semisup.EMATeacher", {"network": torch.nn.Linear(2, 2), "momentum": 0.5}),
    Function("equipoise.semisup.SemiSupervisedSettings", {"variants": 4, "learning_rate": 0.25, "epochs": 3}),
]

OTHERS = {
    "equipoise.semisup.SemiSupervisedTrainer": "its test gives it bad data; its settings are entered",
    "equipoise.semisup.consistency_step": "its test gives it bad batches; inputs are of any type that a network takes",
    "equipoise.semisup.ConsistencyTerms": "a result that the library makes",
    "equipoise.semisup.StepLoss": "a result that the library makes",
    "equipoise.semisup.Views": "a result that the library makes",
    "equipoise.semisup.METHODS": "settings by name, which a test builds",
}
