"""How fast the ranking metrics are: `python benchmarks/metrics.py [--quick]`.

Our times include the checks of the input, as a user meets them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, medians, table

from equipoise.ranking import auroc, average_precision, multiclass_auroc, opauc

_Problem = tuple[Tensor, Tensor]


def _binary(n: int, rate: float) -> _Problem:
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(n, generator=generator) < rate).long()
    return torch.randn(n, generator=generator) + target, target


def _multiclass(n: int, classes: int) -> _Problem:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (n,), generator=generator)
    return (torch.randn(n, classes, generator=generator) + one_hot(target, classes)).softmax(1), target


def _beside(
    work: str,
    ours: Callable[[], Tensor],
    peers: dict[str, tuple[Callable[[], object], float | None]],
    repeats: int,
) -> list[Row]:
    """One row for each peer and its goal; all take turns with ours, and have to agree with it."""
    values: dict[str, float] = {}

    def kept(name: str, run: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            values[name] = float(run())  # type: ignore[arg-type]

        return work

    works = [kept("ours", ours), *(kept(name, run) for name, (run, _) in peers.items())]
    mine, *theirs = medians(*works, repeats=repeats, seconds=60)
    for name, value in values.items():
        # torchmetrics adds its areas up in float32.
        if abs(value - values["ours"]) > 1e-4:
            raise RuntimeError(f"{work}: ours is {values['ours']}, that of {name} {value}")
    return [
        Row(work, name, taken / mine, goal, note=f"{1e3 * mine:.3g} ms beside {1e3 * taken:.3g} ms")
        for (name, (_, goal)), taken in zip(peers.items(), theirs, strict=True)
    ]


def _auroc(quick: bool) -> list[Row]:
    from sklearn.metrics import roc_auc_score
    from torchmetrics.functional.classification import binary_auroc

    def compare(n: int, rate: float, goals: tuple[float | None, float | None], digits: int | None = None) -> list[Row]:
        scores, target = _binary(n, rate)
        if digits is not None:
            scores = scores.round(decimals=digits)
        s, y = scores.numpy(), target.numpy()
        return _beside(
            f"AUROC, n = {n:,}, {rate:.0%} positive" + ("" if digits is None else f", scores of {digits} decimals"),
            lambda: auroc(scores, target),
            {
                "scikit-learn": (lambda: roc_auc_score(y, s), goals[0]),
                "torchmetrics": (lambda: binary_auroc(scores, target), goals[1]),
            },
            repeats=3,
        )

    n = 1_000_000 if quick else 10_000_000
    return [
        *compare(n, 0.02, (12, 4)),
        *compare(n, 0.5, (7, 3)),
        *compare(1_000_000, 0.5, (None, None), digits=2),
    ]


def _curves(quick: bool) -> list[Row]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    n = 1_000_000
    scores, target = _binary(n, 0.05)
    s, y = scores.numpy(), target.numpy()
    repeats = 3 if quick else 7
    return [
        *_beside(
            f"OPAUC(0.05), n = {n:,}, 5% positive",
            lambda: opauc(scores, target, 0.05, normalization="mcclish"),
            {"scikit-learn": (lambda: roc_auc_score(y, s, max_fpr=0.05), None)},
            repeats,
        ),
        *_beside(
            f"average precision, n = {n:,}, 5% positive",
            lambda: average_precision(scores, target),
            {"scikit-learn": (lambda: average_precision_score(y, s), None)},
            repeats,
        ),
    ]


def _one_vs_one(quick: bool) -> list[Row]:
    from sklearn.metrics import roc_auc_score

    n, classes = 20_000, 50
    scores, target = _multiclass(n, classes)
    return _beside(
        f"one-vs-one AUROC, n = {n:,}, C = {classes}",
        lambda: multiclass_auroc(scores, target),
        {"scikit-learn": (lambda: roc_auc_score(target.numpy(), scores.numpy(), multi_class="ovo"), 30)},
        repeats=3 if quick else 5,
    )


def rows(quick: bool) -> list[Row]:
    """Every figure of this file."""
    return [*_auroc(quick), *_one_vs_one(quick), *_curves(quick)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(table(rows(parser.parse_args().quick)))
