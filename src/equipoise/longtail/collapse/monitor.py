"""Watch a network collapse: measures per epoch, and when the terminal phase of training began.

The terminal phase begins with the first epoch after which every training sample is right by a margin, judged in
evaluation mode on training data without augmentation. Its margins and measures are those of `margins` and
`metrics.collapse`.

"Towards Demystifying the Generalization Behaviors When Neural Collapse Emerges", 2023; the experiment over permutations
and rotations of a frame, "A Study of Neural Collapse Phenomenon", 2023, with a statistic of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.solvers.perturbation import evaluation_mode
from equipoise.core.types import Count, NumClasses, Whole
from equipoise.longtail.collapse.grassmannian import FrameClassifier
from equipoise.longtail.collapse.margins import MarginMetric
from equipoise.longtail.collapse.metrics import neural_collapse_metrics

Batches = Iterable[tuple[Tensor, Tensor]]


class SymmetryResult(NamedTuple):
    """Accuracy of equivalent assignments of classes to a frame.

    Attributes:
        accuracy: (assignments, seeds).
        means: of every assignment.
        f_statistic: variance between assignments over variance within, one-way analysis of variance.
    """

    accuracy: Tensor
    means: Tensor
    f_statistic: float


@checked
@dataclass
class TPTMonitor:
    """Call `on_epoch_end` after every epoch, or with its number after some; it keeps what it measures.

    Args:
        num_classes: C.
        classifier: the last layer, linear or a `FrameClassifier`, whose input are the features; of a frame they are
            measured as it sees them.
        patience: measured epochs in a row with a positive smallest margin before the terminal phase counts as begun.

    Attributes:
        t0: first epoch of the terminal phase, from 0; None before it.
        history: one dictionary per measured epoch: epoch, train_loss, train_accuracy, test_accuracy, p_min,
            normalized_p_min, mean_margin, q01, q05, q50, gamma_min, gamma_max, gamma_cv, largest_loss, nc1,
            nc1_trace_ratio, nc2_equiangle, nc3.

    Raises:
        TypeError: if the classifier has no weight.

    >>> x, y = torch.eye(2), torch.arange(2)
    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> monitor = TPTMonitor(2, model[2])
    >>> found = monitor.on_epoch_end(model, [(x, y)], [(x, y)])
    >>> found["train_accuracy"] in (0.0, 0.5, 1.0)
    True
    """

    num_classes: NumClasses
    classifier: nn.Module
    patience: Count = 1
    t0: int | None = field(default=None, init=False)
    history: list[dict[str, float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.classifier, "weight", None), Tensor):
            raise TypeError("classifier must be a layer with a weight, such as the last nn.Linear or a FrameClassifier")

    @checked
    def on_epoch_end(
        self, model: nn.Module, train: Batches, test: Batches | None = None, *, epoch: Whole | None = None
    ) -> dict[str, float]:
        """Measure the model in evaluation mode; returns the row that is appended to `history`.

        Args:
            model: inputs to logits.
            train: batches of training data without augmentation.
            test: batches of test data; its accuracy is NaN without them.
            epoch: which epoch this is; the one after the last if absent.

        Raises:
            ValueError: if there is no batch of training data, or the model does not call the classifier.
        """
        held: list[Tensor] = []
        seen = self.classifier.seen if isinstance(self.classifier, FrameClassifier) else lambda features: features
        hook = self.classifier.register_forward_pre_hook(lambda _, inputs: held.append(seen(inputs[0].detach())))
        margins = MarginMetric(self.num_classes)
        features, targets, losses, hits = [], [], 0.0, 0
        try:
            with evaluation_mode(model), torch.no_grad():
                for x, y in train:
                    held.clear()
                    logits = model(x)
                    if not held:
                        raise ValueError("the model does not call the classifier; name the layer that gives the logits")
                    margins.update(logits, y, held[-1])
                    losses += float(nn.functional.cross_entropy(logits.double(), y.long(), reduction="sum"))
                    hits += int((logits.argmax(1) == y).sum())
                    features.append(held[-1])
                    targets.append(y)
                tested = [] if test is None else [(model(x).argmax(1) == y).double() for x, y in test]
        finally:
            hook.remove()
        if not targets:
            raise ValueError("train holds no batch")
        weight: Tensor = self.classifier.weight  # type: ignore[assignment]
        bias = getattr(self.classifier, "bias", None)
        found = margins.compute(weight)
        target = torch.cat(targets)
        collapse = neural_collapse_metrics(torch.cat(features), target, weight, bias, num_classes=self.num_classes)
        row = {
            "epoch": float(len(self.history) if epoch is None else epoch),
            "train_loss": losses / len(target),
            "train_accuracy": hits / len(target),
            "test_accuracy": float(torch.cat(tested).mean()) if tested else float("nan"),
            "mean_margin": float(found["mean"]),
        }
        for name in ("p_min", "normalized_p_min", "q01", "q05", "q50", "gamma_min", "gamma_max", "gamma_cv"):
            row[name] = float(found.get(name, torch.tensor(float("nan"))))
        row["largest_loss"] = float(found["largest_loss"])
        for name in ("nc1", "nc1_trace_ratio", "nc2_equiangle", "nc3"):
            row[name] = float(collapse[name])
        self.history.append(row)
        recent = self.history[-self.patience :]
        if self.t0 is None and len(recent) == self.patience and all(r["p_min"] > 0 for r in recent):
            self.t0 = int(recent[0]["epoch"])
        return row

    def summary(self, k: int = 20) -> dict[str, float]:
        """Smallest margins at the start of the terminal phase and at the end, and test accuracy averaged over its first
        and last k epochs.

        Raises:
            RuntimeError: if the terminal phase has not begun.
        """
        if self.t0 is None:
            raise RuntimeError("the terminal phase has not begun: a training sample still has no positive margin")
        rows = [row for row in self.history if row["epoch"] >= self.t0]
        first, last = rows[:k], rows[-k:]
        return {
            "t0": float(self.t0),
            "p_min at t0": rows[0]["p_min"],
            "p_min at the end": rows[-1]["p_min"],
            "normalized p_min at t0": rows[0]["normalized_p_min"],
            "normalized p_min at the end": rows[-1]["normalized_p_min"],
            "test accuracy, first": sum(r["test_accuracy"] for r in first) / len(first),
            "test accuracy, last": sum(r["test_accuracy"] for r in last) / len(last),
        }


@checked
def symmetric_generalization(
    train: Callable[[Tensor, int], float], frames: Sequence[Float[Tensor, "c d"]], seeds: Sequence[Whole]
) -> SymmetryResult:
    """Train with equivalent frames, which differ by a permutation or a rotation, and compare test accuracies.

    Args:
        train: (frame, seed) → test accuracy.
        frames: of `permute_frame` or `rotate_frame` on one frame, at least two.
        seeds: at least two.

    Raises:
        ValueError: if there are too few frames or seeds.

    >>> symmetric_generalization(lambda frame, seed: float(frame[0, 0]) + seed, [torch.eye(2)] * 2, [0, 1]).f_statistic
    0.0
    """
    if len(frames) < 2 or len(seeds) < 2:
        raise ValueError(f"at least 2 frames and 2 seeds are needed, got {len(frames)} and {len(seeds)}")
    found = torch.tensor([[train(frame, seed) for seed in seeds] for frame in frames], dtype=torch.float64)
    means = found.mean(1)
    within = found.var(1).mean()
    between = len(seeds) * means.var()
    if float(within) == 0:
        return SymmetryResult(found, means, float("inf") if float(between) > 0 else 0.0)
    return SymmetryResult(found, means, float(between / within))
