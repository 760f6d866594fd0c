"""Sampling hardness: that a range of the ROC curve is trained, and that the range is what matters."""

from __future__ import annotations

import torch

from equipoise.claims.lab.recommenders import Budget, Sampled, inner_split, interest_split, judged, train_sampled
from equipoise.claims.lab.tuning import VALIDATION_SEEDS, Setting, Tuning, grid
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.recsys import sampling_quantile_weight, topk_negative_loss

_KINDS = ((10, 10), (10, 1), (60, 6), (60, 1))
_NEGATIVES, _DRAWS = 5000, 20_000


def _mechanism(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """One user with fixed distances: the mean of the sampled loss against the integral over quantiles."""
    generator = torch.Generator().manual_seed(seed)
    negatives = (torch.randn(_NEGATIVES, generator=generator).abs() + 0.3).sort().values
    positives = torch.randn(10, generator=generator).abs() * 0.5
    each = (1 + positives[:, None] - negatives).clamp_min(0).mean(0).double()
    quantile = (torch.arange(_NEGATIVES, dtype=torch.float64) + 0.5) / _NEGATIVES
    exact = float(each[: _NEGATIVES // 10].mean())
    measures = {}
    for candidates, kept in _KINDS:
        weighed = float((sampling_quantile_weight(quantile, candidates, kept) * each).mean())
        rows = torch.randint(_NEGATIVES, (2000 if quick else _DRAWS, candidates), generator=generator)
        own = torch.randint(10, (len(rows),), generator=generator)
        sampled = float(topk_negative_loss(positives[own], negatives[rows], kept))
        measures[f"{kept} of {candidates}"] = {
            "sampled loss": sampled,
            "integral": weighed,
            "relative gap": abs(sampled / weighed - 1),
            "distance from the exact partial loss": abs(weighed - exact),
        }
    nearer = "nearer to the partial loss than the hardest of 10"
    gaps = {name: values["distance from the exact partial loss"] for name, values in measures.items()}
    measures["6 of 60"][nearer] = gaps["1 of 10"] - gaps["6 of 60"]
    return measures


_ARMS = {
    "10 of 10": Sampled(3, 10, 10, diversity=True),
    "1 of 10": Sampled(3, 10, 1, diversity=True),
    "1 of 60": Sampled(3, 60, 1, diversity=True),
    "6 of 60": Sampled(3, 60, 6, diversity=True),
    "12 of 60": Sampled(3, 60, 12, diversity=True),
}
_SIZES = {"num_users": 250, "num_groups": 12, "interactions_per_user": 50}
_BUDGET = Budget(dim=12, epochs=15, batch=1024)
_DISTANCE = "distance of NDCG@20 from 1 of 10"


def _measured(arm: str, setting: Setting, seed: int, quick: bool = False) -> dict[str, float]:
    split = interest_split(seed, **_SIZES)
    budget = Budget(dim=12, epochs=2, batch=1024) if quick else _BUDGET
    model = train_sampled(split.train, _ARMS[arm], budget, learning_rate=setting["lr"], seed=seed)
    return judged(model, split)


def _training(seed: int, quick: bool, settings: dict[str, Setting]) -> dict[str, dict[str, float]]:
    measures = {arm: _measured(arm, setting, seed, quick) for arm, setting in settings.items()}
    measures["6 of 60"][_DISTANCE] = abs(measures["6 of 60"]["NDCG@20"] - measures["1 of 10"]["NDCG@20"])
    return measures


def _score(arm: str, setting: Setting, seed: int) -> float:
    split = inner_split(interest_split(seed, **_SIZES), seed)
    model = train_sampled(split.train, _ARMS[arm], _BUDGET, learning_rate=setting["lr"], seed=seed)
    return judged(model, split)["NDCG@20"]


CLAIM = Claim(
    slug="dpcml-plus",
    statement=(
        "Training against the K nearest of S sampled items optimises a one-way partial AUC whose range is K/S. More "
        "candidates at K = 1 shrink the range and do harm; K in proportion keeps it."
    ),
    experiments=(
        Experiment(
            name="What a sampler trains",
            protocol=(
                "One user, 10 observed distances .5 |N(0, 1)|, 5,000 others |N(0, 1)| + .3, margin 1. The mean loss of "
                "20,000 draws of S candidates with K kept, against the integral of the losses with the weight of each "
                "quantile, and against the exact loss over the nearest tenth."
            ),
            run=_mechanism,
            parts=(
                *(
                    Bound(f"{k} of {s}: the sampled loss is the integral", f"{k} of {s}", "relative gap", at_most=0.02)
                    for s, k in _KINDS
                ),
                Bound(
                    "6 of 60 are nearer to the exact partial loss than 1 of 10",
                    "6 of 60",
                    "nearer to the partial loss than the hardest of 10",
                    at_least=1e-9,
                ),
            ),
        ),
        Experiment(
            name="The range, not the number of candidates",
            protocol=(
                "The world of dpcml with 250 users, 12 groups of 40 and 50 items a user. Three vectors of 12 "
                "dimensions with the diversity penalty (.05, .25, weight 10), margin 1, Adam, 1,024 pairs a step, 15 "
                "epochs. Every arm has learning rates of .01, .03, .1 and .3 to choose from, by NDCG@20 on a third of "
                "the training part of 2 other seeds."
            ),
            run=_training,
            parts=(
                Gain("6 of 60 rank better than 1 of 60", "6 of 60", "1 of 60", "NDCG@20", 0.02),
                Gain("1 of 10 rank better than 1 of 60", "1 of 10", "1 of 60", "NDCG@20", 0.02),
                Bound("6 of 60 rank as 1 of 10 do", "6 of 60", _DISTANCE, at_most=0.03),
                Gain("12 of 60 rank better than 6 of 60", "12 of 60", "6 of 60", "NDCG@20", 0.005, asserted=False),
                Gain("12 of 60 rank better than all of 10", "12 of 60", "10 of 10", "NDCG@20", 0.005, asserted=False),
            ),
            seeds=tuple(range(10)),
            tuning=Tuning({arm: grid(lr=(0.01, 0.03, 0.1, 0.3)) for arm in _ARMS}, _score, seeds=VALIDATION_SEEDS[:2]),
        ),
    ),
    caveats=(
        "No table of the paper was readable and no code of this version is public: K of S is our reading of its "
        "sampling, and nothing of its results is compared with.",
        "The adaptive number of vectors per user is not tested.",
    ),
)
