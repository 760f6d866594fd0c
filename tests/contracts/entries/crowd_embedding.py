"""The public names of `equipoise.crowd` for places of items."""

import torch

from contracts.model import Function, Loss

# The room is that of `entries/crowd.py`.
PACKAGES: list[str] = []

_ITEMS = 6


def _triplets(generator, n):
    return {"triplets": torch.stack([torch.randperm(_ITEMS, generator=generator)[:3] for _ in range(n)])}


def _places(generator, n):
    return {"embedding": torch.randn(_ITEMS, 2, generator=generator), **_triplets(generator, n)}


def _gram(generator, n):
    places = _places(generator, n)
    return {"gram": places["embedding"] @ places["embedding"].T, "triplets": places["triplets"]}


def _pairs(generator, n):
    rows = _triplets(generator, n)["triplets"]
    names = ("near_i", "near_j", "far_i", "far_j")
    return {
        "places": torch.randn(_ITEMS, 2, generator=generator),
        **{name: rows[:, k].clone() for name, k in zip(names, (0, 1, 0, 2), strict=True)},
    }


def _matrix(generator, n):
    return {"matrix": torch.randn(n, n, generator=generator)}


_DISTRIBUTIONAL = {"p": 2, "gamma0": 1.0, "lam": 0.5}

ENTRIES = [
    Loss(
        "equipoise.crowd.TripletLoss",
        {"kind": "ste", "reduction": "mean", "margin": 1.0, "delta": 0.05, "gamma0": 1.0},
        _places,
        functional="equipoise.crowd.triplet_loss",
    ),
    Function("equipoise.crowd.dmoe_admm_step", {**_DISTRIBUTIONAL, "mu": 0.5}, _gram),
    Function("equipoise.crowd.dmoe_fit", {**_DISTRIBUTIONAL, "n_items": _ITEMS}, _triplets),
    Function("equipoise.crowd.dmoe_objective", _DISTRIBUTIONAL, _gram),
    Function(
        "equipoise.crowd.hinge_prox",
        {"p": 2, "mu": 0.5},
        lambda generator, n: {"s": torch.randn(n, generator=generator)},
    ),
    Function("equipoise.crowd.nuclear_prox", {"threshold": 0.5}, _matrix),
    Function("equipoise.crowd.ordinal_margin", {"form": "embedding"}, _pairs),
    Function(
        "equipoise.crowd.procrustes_alignment",
        {"scaled": True},
        lambda generator, n: {name: torch.randn(n, 2, generator=generator) for name in ("embedding", "reference")},
    ),
    Function("equipoise.crowd.psd_projection", {}, _matrix),
    Function("equipoise.crowd.triplet_loss", {"kind": "tste", "reduction": "mean"}, _places),
]

OTHERS = {
    "equipoise.crowd.Alignment": "a result that the library makes",
    "equipoise.crowd.Conflicts": "a result that the library makes",
    "equipoise.crowd.GramFit": "a result that the library makes",
    "equipoise.crowd.OrdinalEmbedding": "fitted to answers about items, which no estimator of scikit-learn is given",
}
