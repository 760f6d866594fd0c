"""The public names of `equipoise.recsys` for click models."""

import torch

from contracts.model import Function, Measure
from equipoise.data import click_world
from equipoise.recsys import DIN

# The room is that of `entries/recsys.py`.
PACKAGES: list[str] = []

_WORLD = click_world(20, length=3, num_items=9)
_RUNS_A_MODEL = {"autocast_changes_nothing": "it runs a model, which autocast is there to change"}
_CLICKS, _MODEL = _WORLD.clicks, DIN(item_features=_WORLD.item_features)


def _users(generator, n):
    """Impressions of four users."""
    return {
        "group": torch.arange(n) % 4,
        "scores": torch.randn(n, generator=generator),
        "target": (torch.arange(n) % 3 == 0).long(),
    }


def _one_class(generator, n):
    """Impressions without a click."""
    return {**_users(generator, n), "target": torch.zeros(n, dtype=torch.long)}


def _histories(generator, n):
    """Histories of up to three items, some of them empty."""
    return {
        "behavior": torch.randn(n, 3, 2, generator=generator),
        "logit": torch.randn(n, 3, generator=generator),
        "mask": (torch.arange(3) < torch.arange(n)[:, None] % 4).long(),
    }


ENTRIES = [
    Measure("equipoise.recsys.GroupedAUC", {}, _users, functional="equipoise.recsys.grouped_auc", undefined=_one_class),
    Function("equipoise.recsys.DIN", {"num_items": 5, "dim": 3}),
    Function("equipoise.recsys.InterestSelector", {"dim": 3, "hidden": (4, 2), "threshold": 0.5}),
    Function("equipoise.recsys.click_log_loss", {"model": _MODEL, "clicks": _CLICKS}, exempt=_RUNS_A_MODEL),
    Function(
        "equipoise.recsys.click_logits", {"model": _MODEL, "clicks": _CLICKS, "batch_size": 7}, exempt=_RUNS_A_MODEL
    ),
    Function("equipoise.recsys.fit_click_model", {"model": _MODEL, "clicks": _CLICKS, "epochs": 1}),
    Function("equipoise.recsys.grouped_auc", {}, _users),
    Function("equipoise.recsys.interest_pooling", {}, _histories),
    Function("equipoise.recsys.relative_improvement", {"auc": 0.7, "base": 0.6}),
]

OTHERS = {
    "equipoise.recsys.ClickFit": "a result that the library makes",
}
