"""Several vectors per user: whether they serve people with several interests, and what keeping them apart is worth."""

from __future__ import annotations

from equipoise.claims.lab.recommenders import Budget, Sampled, inner_split, interest_split, judged, train_sampled
from equipoise.claims.lab.tuning import VALIDATION_SEEDS, Setting, Tuning, grid
from equipoise.claims.model import Claim, Experiment, Gain

_ARMS = {
    "one vector, uniform": Sampled(1, 5, 5),
    "four vectors, uniform": Sampled(4, 5, 5),
    "four vectors + diversity, uniform": Sampled(4, 5, 5, diversity=True),
    "one vector, hard": Sampled(1, 5, 1),
    "four vectors, hard": Sampled(4, 5, 1),
    "four vectors + diversity, hard": Sampled(4, 5, 1, diversity=True),
}
_BUDGET = Budget(dim=8, epochs=30, batch=512)


def _measured(arm: str, setting: Setting, seed: int, quick: bool = False) -> dict[str, float]:
    split = interest_split(seed)
    budget = Budget(dim=8, epochs=3, batch=512) if quick else _BUDGET
    model = train_sampled(split.train, _ARMS[arm], budget, learning_rate=setting["lr"], seed=seed)
    return judged(model, split)


def _run(seed: int, quick: bool, settings: dict[str, Setting]) -> dict[str, dict[str, float]]:
    return {arm: _measured(arm, setting, seed, quick) for arm, setting in settings.items()}


def _score(arm: str, setting: Setting, seed: int) -> float:
    split = inner_split(interest_split(seed), seed)
    model = train_sampled(split.train, _ARMS[arm], _BUDGET, learning_rate=setting["lr"], seed=seed)
    return judged(model, split)["NDCG@20"]


CLAIM = Claim(
    slug="dpcml",
    statement=(
        "People like several kinds of items and one vector in a metric space remembers the main one. Several vectors "
        "per user, kept neither in one point nor scattered, recommend better."
    ),
    experiments=(
        Experiment(
            name="Four interests in eight dimensions",
            protocol=(
                "300 users, 600 items in 15 groups of 40, popularity 1 + Pareto(3); every user likes 4 groups in "
                "shares .4, .3, .2, .1 of 60 items and takes 5 % more at random; 40 % of each user's items are the "
                "test. Vectors of 8 dimensions in the unit ball, margin 1, 5 candidates per observed item, Adam, 512 "
                "pairs a step, 30 epochs; diversity by the paper's average, .05 to .25, weight 10. Every arm has "
                "learning rates of .003, .01, .03 and .1 to choose from, by NDCG@20 on a third of the training part "
                "of 2 other seeds. All items but the training ones are ranked."
            ),
            run=_run,
            parts=(
                Gain(
                    "uniform sampling: four vectors + diversity rank better than one vector",
                    "four vectors + diversity, uniform",
                    "one vector, uniform",
                    "NDCG@20",
                    0.005,
                ),
                Gain(
                    "hard sampling: four vectors + diversity rank better than one vector",
                    "four vectors + diversity, hard",
                    "one vector, hard",
                    "NDCG@20",
                    0.005,
                ),
                Gain(
                    "hard sampling: the diversity penalty makes four vectors rank better",
                    "four vectors + diversity, hard",
                    "four vectors, hard",
                    "NDCG@20",
                    0.005,
                ),
                Gain(
                    "uniform sampling: the diversity penalty makes four vectors rank better",
                    "four vectors + diversity, uniform",
                    "four vectors, uniform",
                    "NDCG@20",
                    0.005,
                    asserted=False,
                ),
                Gain(
                    "hard sampling: more of the two smallest interests is found",
                    "four vectors + diversity, hard",
                    "one vector, hard",
                    "recall@20, two smallest interests",
                    0.005,
                    asserted=False,
                ),
                Gain(
                    "uniform sampling: more of the two smallest interests is found",
                    "four vectors + diversity, uniform",
                    "one vector, uniform",
                    "recall@20, two smallest interests",
                    0.005,
                    asserted=False,
                ),
            ),
            seeds=tuple(range(10)),
            tuning=Tuning(
                {arm: grid(lr=(0.003, 0.01, 0.03, 0.1)) for arm in _ARMS}, _score, seeds=VALIDATION_SEEDS[:2]
            ),
        ),
    ),
    caveats=(
        "A synthetic world, with fewer dimensions than one vector needs for four interests. Real logs of the paper's "
        "size are not part of this claim.",
    ),
)
