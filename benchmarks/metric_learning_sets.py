"""Metric learning on real logs, by the protocol of DPCML's authors: `python benchmarks/metric_learning_sets.py PATH`.

PATH is an npz file with `user`, `item`, `n_users` and `n_items`, and perhaps the authors' own parts, `train_user`,
`train_item`, `val_user`, ... Without them the log is split into 60, 20 and 20 per cent of each user's items. One vector
or several, against all candidates or the hardest; the epoch is chosen by P@3 on the validation part. At the test,
training items alone are no candidates, and a user counts at N from N test items on, as in the authors' evaluation.

The authors add the diversity penalty to a sum over the batch, the paper to a mean; both are run. A run is a line of
`--output` when it ends, and a run that stands there is not repeated. `--table` prints what the file holds.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from equipoise.data import Interactions, split_interactions
from equipoise.recsys import (
    DiversityControl,
    MultiVectorCML,
    SampledTrainer,
    UniformNegatives,
    evaluate_recommender,
    fit_recommender,
)

COLUMNS = ("precision@3", "recall@3", "ndcg@3", "precision@5", "recall@5", "ndcg@5", "map", "mrr")
KEYS = ("set", "arm", "seed")
CANDIDATES, ETA = 10, 10.0
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Arm:
    """Vectors per user, kept candidates, band of the pairwise penalty, and the loss that its weight stands beside."""

    vectors: int
    kept: int
    band: tuple[float, float] | None = None
    beside: str = "mean"


ARMS = {
    "one vector, uniform (UniS)": Arm(1, CANDIDATES),
    "one vector, hard (HarS)": Arm(1, 1),
    "five vectors, uniform (DPCML1), beside the sum": Arm(5, CANDIDATES, (0.1, 0.35), "sum"),
    "five vectors, uniform (DPCML1), beside the mean": Arm(5, CANDIDATES, (0.1, 0.35), "mean"),
    "five vectors, hard (DPCML2), beside the sum": Arm(5, 1, (0.05, 0.25), "sum"),
    "five vectors, hard (DPCML2), beside the mean": Arm(5, 1, (0.05, 0.25), "mean"),
}


def load(path: Path) -> tuple[Interactions, Interactions, Interactions]:
    """Training, validation and test part."""
    held = np.load(path, allow_pickle=False)
    sizes = {"num_users": int(held["n_users"]), "num_items": int(held["n_items"])}
    if "train_user" in held.files:
        parts = (Interactions.from_pairs(held[f"{one}_user"], held[f"{one}_item"], **sizes) for one in PARTS)
        train, validation, test = parts
        return train, validation, test
    return split_interactions(Interactions.from_pairs(held["user"], held["item"], **sizes), seed=0)


def run(
    arm: Arm, parts: tuple[Interactions, Interactions, Interactions], seed: int, options: argparse.Namespace
) -> dict[str, float]:
    """Percentages on the test part, the epoch that was chosen, and seconds."""
    train, validation, test = parts
    model = MultiVectorCML(train.num_users, train.num_items, options.dim, arm.vectors, seed=seed)
    share = 1.0 if arm.beside == "mean" else 1.0 / (options.batch * arm.kept)
    trainer = SampledTrainer(
        model,
        train,
        sampler=UniformNegatives(train, CANDIDATES, generator=torch.Generator().manual_seed(seed)),
        kept=arm.kept,
        diversity=None if arm.band is None else DiversityControl(*arm.band, "pairwise"),
        diversity_weight=ETA * share,
        learning_rate=options.learning_rate,
        batch_size=options.batch,
        seed=seed,
    )

    def validate() -> float:
        return evaluate_recommender(model, validation, train, k=3).means(min_test="N")["precision@3"].value

    started = time.perf_counter()
    history = fit_recommender(
        trainer, options.epochs, validate=validate, validate_every=options.every, patience=options.patience
    )
    seconds = time.perf_counter() - started
    means = evaluate_recommender(model, test, train, k=(3, 5)).means(min_test="N")
    found = {name: round(100 * means[name].value, 3) for name in COLUMNS}
    return {**found, "epoch": history.best_epoch + 1, "epochs": len(history.losses), "seconds": round(seconds, 1)}


def finished(path: Path) -> list[dict[str, str]]:
    """The runs that stand in the file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]]) -> str:
    """Mean ± standard deviation of every arm of every set, as Markdown."""
    lines = ["| set | arm | seeds | " + " | ".join(COLUMNS) + " |", "|---|---|---:|" + "---:|" * len(COLUMNS)]
    for name, arm in dict.fromkeys((row["set"], row["arm"]) for row in rows):
        found = [row for row in rows if (row["set"], row["arm"]) == (name, arm)]
        cells = [[float(row[column]) for row in found] for column in COLUMNS]
        shown = [
            f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
            for values in cells
        ]
        lines.append(f"| {name} | {arm} | {len(found)} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what has not been run, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--every", type=int, default=2, help="epochs between two validations")
    parser.add_argument("--patience", type=int, default=10, help="epochs without a better validation value")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("metric-learning-sets.csv"))
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if not options.table:
        parts = load(options.path)
        about: Mapping[str, object] = {"dim": options.dim, "batch": options.batch, "rate": options.learning_rate}
        for seed in range(options.seeds):
            for name in options.arms:
                key = {"set": options.path.stem, "arm": name, "seed": str(seed)}
                if any(all(row[column] == key[column] for column in KEYS) for row in finished(options.output)):
                    continue
                row = {**key, **about, **run(ARMS[name], parts, seed, options)}
                fresh = not options.output.is_file()
                with options.output.open("a", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, list(row))
                    if fresh:
                        writer.writeheader()
                    writer.writerow(row)
                print(row, flush=True)
    print(table(finished(options.output)))


if __name__ == "__main__":
    main()
