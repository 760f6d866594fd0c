"""The public names of `equipoise.language` for hard and soft labels, and for what a student meets by itself."""

import torch

from contracts.model import Function, Loss

# The room is that of `entries/language.py`.
PACKAGES: list[str] = []

_ALONE = "a row of logits is a token, a sequence is a sample"


def _pair(generator, n):
    """Texts of four tokens; the first sample has a token that does not count."""
    labels = torch.randint(6, (n, 4), generator=generator)
    labels[0, 1] = -100
    return {
        "student_logits": torch.randn(n, 4, 6, generator=generator),
        "teacher_logits": torch.randn(n, 4, 6, generator=generator),
        "labels": labels,
    }


def _teacher(generator, n):
    batch = _pair(generator, n)
    return {"teacher_logits": batch["teacher_logits"], "labels": batch["labels"]}


def _student(generator, n):
    batch = _pair(generator, n)
    return {"logits": batch["student_logits"], "labels": batch["labels"]}


def _world(generator, n):
    """A chain of n states."""
    probs = torch.rand(2, n, 3, generator=generator).double()
    following = torch.arange(1, n + 1)[:, None].expand(n, 3).clone()
    following[-1] = -1
    return {
        "teacher_probs": probs[0] / probs[0].sum(1, keepdim=True),
        "next_state": following,
        "state_loss": torch.rand(n, generator=generator),
        "student_probs": probs[1] / probs[1].sum(1, keepdim=True),
    }


def model(ids):
    """A language model that repeats itself."""
    return 2 * torch.nn.functional.one_hot(ids, 4).float()


def other(ids):
    """One that likes the token after."""
    return 2 * torch.nn.functional.one_hot((ids + 1) % 4, 4).float()


_MODELS = {"teacher": model, "student": other}


def _text(generator, n):
    return {"input_ids": torch.randint(4, (n,), generator=generator)}


_ANY_LABEL = "labels may be whole numbers of any kind"
_IN_PARTS = {"bad_batches_are_refused_by_name": "logits are looked at in parts, and a batch may have no tokens"}

ENTRIES = [
    Loss(
        "equipoise.language.HybridKDLoss",
        {"mode": "entropy", "lam": 0.9},
        _pair,
        functional="equipoise.language.hybrid_kd_loss",
    ),
    Loss("equipoise.language.RiskGuidedHybridLoss", {"distill_weight": 0.3, "gamma": 0.9}, _pair),
    Function(
        "equipoise.language.completion_mask",
        {"eos_token_id": 2},
        lambda g, n: {"tokens": torch.randint(4, (n, 5), generator=g)},
    ),
    Function("equipoise.language.curriculum_soft_weight", {"step": 3, "total": 10, "lam_max": 0.5}),
    Function(
        "equipoise.language.estimate_kappa",
        {**_MODELS, "position": 3, "n_rollouts": 2, "horizon": 2},
        _text,
    ),
    Function(
        "equipoise.language.exposure_bias",
        {**_MODELS, "max_new_tokens": 2, "n_rollouts": 2},
        lambda g, n: {"prompts": [torch.randint(4, (3,), generator=g) for _ in range(2)]},
    ),
    Function("equipoise.language.hybrid_kd_loss", {"mode": "entropy", "lam": 0.9}, _pair),
    Function("equipoise.language.hybrid_soft_weight", {"mode": "power_entropy"}, _teacher),
    Function("equipoise.language.kappa_tabular", {}, _world),
    Function("equipoise.language.risk_guided_hard_loss", {"gamma": 0.9}, _student),
    Function(
        "equipoise.language.split_bridge_garden",
        {"fraction": 0.3},
        lambda g, n: {"state_kappa": torch.randn(n, generator=g)},
    ),
    Function("equipoise.language.token_risks", {**_MODELS, "alternatives": 1, "n_rollouts": 2, "horizon": 2}, _text),
]

_RESULT = "a result, which is not made by users"
OTHERS = {
    "equipoise.language.BridgeGarden": _RESULT,
    "equipoise.language.ExposureBias": _RESULT,
    "equipoise.language.KappaEstimate": _RESULT,
    "equipoise.language.KappaResult": _RESULT,
    "equipoise.language.OracleReport": _RESULT,
    "equipoise.language.TokenRisks": _RESULT,
    "equipoise.language.CurriculumSchedule": "settings, whose values `curriculum_soft_weight` is entered for",
    "equipoise.language.ScriptedOracle": "a world to study students in",
    "equipoise.language.TabularLanguageModel": "a world to study students in",
}
