"""What an exact ranking objective costs beside LightGBM's own binary objective, the same rounds on the same data."""

from __future__ import annotations

from _timing import Row, medians


def rows(quick: bool) -> list[Row]:
    """Training time of the exact objectives over that of LightGBM's own log loss.

    Args:
        quick: fewer rows and rounds.
    """
    try:
        import lightgbm as lgb
    except ImportError:
        return []
    import numpy as np

    from equipoise.estimators.boosting import RankingObjective
    from equipoise.estimators.lightgbm import train

    n, rounds = (20_000, 10) if quick else (200_000, 30)
    random = np.random.RandomState(0)
    features = random.randn(n, 28)
    signal = features[:, 0] + features[:, 1] * features[:, 2] + 0.5 * features[:, 3] ** 2
    target = (signal + random.randn(n) > 3.6).astype(int)
    params = {"verbosity": -1, "num_threads": 2}
    # Binning is the same for all and done once, so that the loss of the rounds alone is compared.
    data = lgb.Dataset(features, target, params=params).construct()
    objectives = {
        "squared hinge, all pairs": (RankingObjective("auc", "squared_hinge"), 2.5),
        "square, all pairs": (RankingObjective("auc", "square"), None),
        "logistic, all pairs": (RankingObjective("auc", "logistic"), None),
        "logistic, pairs with FPR ≤ 0.05": (RankingObjective("partial_auc", max_fpr=0.05), None),
    }
    own, *times = medians(
        lambda: train(params, data, rounds),
        *(lambda o=objective: train(params, data, rounds, objective=o) for objective, _ in objectives.values()),
        repeats=3 if quick else 5,
        seconds=60,
    )
    share = f"{target.mean():.0%} positives"
    return [
        Row(
            f"LightGBM with {name}, n = {n:,}, {rounds} rounds",
            "LightGBM's own binary objective",
            taken / own,
            goal,
            larger_is_better=False,
            note=f"{share}, {own / rounds * 1e3:.0f} ms a round of its own",
        )
        for (name, (_, goal)), taken in zip(objectives.items(), times, strict=True)
    ]


if __name__ == "__main__":
    from _timing import table

    print(table(rows(quick=False)))
