"""The public names of `equipoise.multimodal` for modalities that are trained together."""

import torch

from contracts.model import Function, Loss, Measure

# The room is that of `entries/multimodal.py`.
PACKAGES: list[str] = []


def _logits(generator, n):
    return {
        "logits": torch.randn(n, 4, generator=generator),
        "target": torch.arange(n) % 4,
        "other_logits": torch.randn(n, 4, generator=generator),
    }


def _first_turn(generator, n):
    return {name: value for name, value in _logits(generator, n).items() if name != "other_logits"}


def _residual(generator, n):
    return {name: value for name, value in _logits(generator, n).items() if name != "logits"}


def _memory(generator, n):
    return {"logits": torch.randn(n, 4, generator=generator), "previous_logits": torch.randn(n, 4, generator=generator)}


def _predicted(generator, n):
    return {"pred": torch.randn(n, 4, generator=generator), "target": torch.arange(n) % 3}


def _parts(generator, n):
    parts = {name: torch.randn(n, 4, generator=generator) for name in ("audio", "video")}
    return {"parts": parts, "target": torch.arange(n) % 4}


_LEARNERS = {"audio": torch.nn.Linear(2, 3)}
_KL = {"label_weight": 1.0, "reconcile_weight": 0.25, "mode": "kl"}

ENTRIES = [
    *(
        Loss(
            "equipoise.multimodal.ReconcilementLoss",
            settings,
            inputs,
            functional="equipoise.multimodal.reconcilement_loss",
        )
        for settings, inputs in (
            ({}, _logits),
            ({"reduction": "sum"}, _first_turn),
            ({**_KL, "class_average": False}, _logits),
        )
    ),
    Measure("equipoise.multimodal.MacroAccuracy", {"num_classes": 4}, _predicted),
    Function("equipoise.multimodal.reconcilement_loss", {**_KL, "reduction": "none"}, _logits),
    Function("equipoise.multimodal.memory_consolidation_loss", {"alpha": 0.25}, _memory),
    Function("equipoise.multimodal.residual_target", {"reconcile_weight": 0.5}, _residual),
    Function(
        "equipoise.multimodal.ensemble_logits",
        {"boost_rate": 0.5, "exclude": 1},
        lambda generator, n: {"per_modality_logits": torch.randn(3, n, 4, generator=generator)},
    ),
    Function("equipoise.multimodal.ModalityEnsemble", {"learners": _LEARNERS, "boost_rate": 0.5}),
    Function("equipoise.multimodal.modulation_factors", {"modulation": 0.5}, _parts),
    Function(
        "equipoise.multimodal.ReconBoostTrainer",
        {"learners": _LEARNERS, "num_classes": 3, "alpha": 0.25, "lr": 0.1, "rectify_lr": 0.2, "lr_milestones": (3, 5)},
    ),
    Function(
        "equipoise.multimodal.LateFusionTrainer",
        {"learners": _LEARNERS, "num_classes": 3, "method": "ogm", "modulation": 0.25, "lr": 0.1},
    ),
]

OTHERS = {
    "equipoise.workflows.FuseOutcome": "a result that the library makes",
    "equipoise.workflows.FuseRequest": "a record of options, checked against the file by `fuse_blocks`",
    "equipoise.workflows.FusionModel": "made by `fuse_blocks`; tests/workflows saves, loads and asks it",
    "equipoise.workflows.fuse_blocks": "reads and writes files; tests/workflows/fuse gives it bad ones",
    "equipoise.multimodal.Accuracies": "a result that the library makes",
    "equipoise.multimodal.BoostingStage": "a result that the library makes",
    "equipoise.multimodal.FusionEpoch": "a result that the library makes",
}
