"""Trainings that ReconBoost is held against, with the same number of epochs for each learner.

    joint         cross-entropy(β Σ_m φ_m, y), all learners at once
    ogm           the same, but the gradients of a learner that is ahead of the others are made smaller
    independent   cross-entropy(φ_m, y), each learner alone; the logits are added afterwards

Of "ogm": s_m = Σ_i softmax(φ_m)_{i y_i} over a batch, ρ_m = s_m divided by the mean of the others', and gradients of
the learner are multiplied by 1 − tanh(modulation · ρ_m) where ρ_m > 1; with noise, each gradient gets Gaussian noise of
its own standard deviation. Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation, CVPR 2022;
reconstructed, and so is what it does with more than two modalities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, NumClasses, Positive, Whole
from equipoise.core.validate import check_classes
from equipoise.multimodal.boosting.ensemble import ensemble_logits, read_parts
from equipoise.multimodal.boosting.fusion import FusionTrainer, Monitor, kept_weights
from equipoise.multimodal.boosting.loops import Augment, OptimizerFactory, derived_seed, trainable
from equipoise.multimodal.boosting.samples import ClassIndices, Samples

FusionMethod: TypeAlias = Literal["joint", "ogm", "independent"]
_NOISE = 4


@dataclass(frozen=True)
class FusionEpoch:
    """What an epoch came to.

    Attributes:
        epoch: from 0.
        loss: mean cross-entropy of the sum; of independent learners, the mean of theirs.
        accuracy: of the sum on validation data; NaN without any.
        macro_accuracy: mean recall of the classes on it.
        by_modality: accuracy of each learner alone on it.
    """

    epoch: int
    loss: float
    accuracy: float = math.nan
    macro_accuracy: float = math.nan
    by_modality: dict[str, float] = field(default_factory=dict)


@checked
def modulation_factors(
    parts: Mapping[str, Tensor], target: ClassIndices, modulation: NonNegative = 0.5
) -> dict[str, float]:
    """What gradients of each learner are multiplied by, see "ogm" in the module.

    Args:
        parts: logits (n, C) by modality.
        target: (n,) class indices.
        modulation: strength; 0 leaves all gradients as they are.

    Returns:
        Factors in [0, 1]; 1 for a learner that is not ahead, and where there is one only.

    Raises:
        ValueError: if there is no modality, shapes differ, a label is no class, or the strength is negative.

    >>> parts = {"audio": torch.tensor([[9.0, 0.0]]), "video": torch.tensor([[0.0, 0.0]])}
    >>> {name: round(factor, 3) for name, factor in modulation_factors(parts, torch.tensor([0])).items()}
    {'audio': 0.238, 'video': 1.0}
    """
    logits = dict(zip(parts, read_parts(parts), strict=True))
    count, classes = next(iter(logits.values())).shape
    if len(target) != count:
        raise ValueError(f"target has {len(target)} samples, the logits have {count}")
    check_classes(target, classes)
    right = {
        name: float(each.detach().softmax(1).gather(1, target[:, None]).sum(dtype=torch.float64))
        for name, each in logits.items()
    }
    factors = dict.fromkeys(right, 1.0)
    for name, mine in right.items():
        others = (sum(right.values()) - mine) / max(len(right) - 1, 1)
        if len(right) > 1 and mine > others:
            factors[name] = 1 - math.tanh(modulation * mine / max(others, 1e-12))
    return factors


class LateFusionTrainer(FusionTrainer):
    """A learner for each modality, trained jointly or each alone, whose logits are added.

    Args:
        learners: as in `ReconBoostTrainer`, and so are all settings but these.
        num_classes: C.
        method: "joint", "ogm" or "independent", see the module.
        modulation: strength of "ogm".
        noise: whether "ogm" adds noise to gradients.
        lr: learning rate.
        optimizer_factory: makes an optimizer of (parameters, learning rate).
        shared_head: a module from features to logits; not for "independent".
        augment: changes a training batch.
        batch_size: samples of a step.
        autocast: half precision of forward passes.
        monitor: the validation value by which the best epoch is kept.
        seed: of batches, augmentation, dropout and noise.

    Attributes:
        ensemble: the learners and β, with the weights of the best epoch after `fit`.
        history: a `FusionEpoch` for each epoch.

    Raises:
        ValueError: if a setting is out of range, or independent learners have a shared head.

    >>> y = torch.arange(90) % 3
    >>> x = {"audio": torch.eye(3)[y], "video": torch.randn(90, 3, generator=Generator().manual_seed(0))}
    >>> trainer = LateFusionTrainer({"audio": nn.Linear(3, 3), "video": nn.Linear(3, 3)}, 3, method="ogm", lr=0.1)
    >>> trainer.fit((x, y), epochs=8).evaluate((x, y)).accuracy > 0.9
    True
    """

    @checked
    def __init__(
        self,
        learners: Mapping[str, nn.Module] | Sequence[nn.Module],
        num_classes: NumClasses,
        *,
        method: FusionMethod = "joint",
        modulation: NonNegative = 0.5,
        noise: bool = False,
        lr: Positive = 0.01,
        optimizer_factory: OptimizerFactory | None = None,
        shared_head: nn.Module | None = None,
        augment: Augment | None = None,
        batch_size: Count = 64,
        autocast: torch.dtype | None = None,
        monitor: Monitor = "accuracy",
        seed: Whole = 0,
    ) -> None:
        super().__init__(
            learners,
            num_classes,
            batch_size=batch_size,
            optimizer_factory=optimizer_factory,
            shared_head=shared_head,
            autocast=autocast,
            augment=augment,
            monitor=monitor,
            seed=seed,
        )
        if method == "independent" and shared_head is not None:
            raise ValueError("shared_head joins the learners, which method='independent' trains apart; leave it out")
        self.method, self.modulation, self.noise, self.lr = method, modulation, noise, lr
        self.history: list[FusionEpoch] = []

    @checked
    def fit(self, train: Any, val: Any = None, *, epochs: Count) -> LateFusionTrainer:
        """Train for some epochs; with validation data keep the best, of independent learners the best of each.

        Args:
            train: (inputs by modality, target (n,)), as for `ReconBoostTrainer`.
            val: the same of validation data.
            epochs: of every learner.

        Raises:
            ValueError: if a modality is missing or unknown, sizes disagree, a label is no class, or a learner gives
                other than C logits.
            FloatingPointError: if a loss or a logit is not finite.
        """
        samples = self.samples(train, "train")
        judged = None if val is None else self.samples(val, "val")
        apart = self.method == "independent"
        groups = [(name,) for name in self.names] if apart else [self.names]
        parameters = [trainable([self.ensemble.learner(group[0]) if apart else self.ensemble]) for group in groups]
        if not all(parameters):
            raise ValueError("a learner has no parameter to train; let one require a gradient")
        optimizers = [self.optimizer_factory(each, self.lr) for each in parameters]
        scalers = [self.loop.scaler(self.device) for _ in groups]
        best: dict[tuple[str, ...], tuple[float, dict[str, Any]]] = {}
        self.history = []
        for epoch in range(epochs):
            self.ensemble.train()
            losses = [
                self._epoch(samples, group, optimizer, scaler, (k, epoch))
                for k, (group, optimizer, scaler) in enumerate(zip(groups, optimizers, scalers, strict=True))
            ]
            found = None if judged is None else self.judge(judged)
            self.history.append(
                FusionEpoch(epoch, sum(losses) / len(losses), **({} if found is None else found._asdict()))
            )
            if found is None:
                continue
            for group in groups:
                value = found.by_modality[group[0]] if apart else getattr(found, self.monitor)
                if group not in best or value > best[group][0]:
                    best[group] = value, self._weights(group, whole=not apart)
        for _, weights in best.values():
            self.ensemble.load_state_dict({**self.ensemble.state_dict(), **weights})
        self.ensemble.zero_grad()
        self.ensemble.eval()
        return self

    def _epoch(
        self,
        samples: Samples,
        group: Sequence[str],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        place: tuple[int, int],
    ) -> float:
        parts: dict[str, Tensor] = {}
        seen: list[Tensor] = []
        noise = Generator(self.device).manual_seed(derived_seed(self.loop.seed, *place, _NOISE))

        def losses(rows: Tensor, inputs: dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
            parts.update(self.parts(inputs, group))
            seen[:] = [target]
            rate = 1.0 if self.method == "independent" else self.ensemble.boost_rate
            return {"loss": cross_entropy(ensemble_logits(parts, rate), target)}

        def modulate() -> None:
            if self.method == "ogm":
                for name, factor in modulation_factors(parts, seen[0], self.modulation).items():
                    self._change(name, factor, noise)

        batches = self.loop.batches(samples, group, self.device, place)
        return self.loop.epoch(batches, optimizer, scaler, losses, place, modulate)["loss"]

    def _change(self, name: str, factor: float, generator: Generator) -> None:
        for parameter in self.ensemble.learner(name).parameters():
            if parameter.grad is None:
                continue
            parameter.grad.mul_(factor)
            if self.noise and parameter.numel() > 1:
                drawn = torch.randn(parameter.shape, generator=generator, device=self.device, dtype=parameter.dtype)
                parameter.grad.add_(drawn * parameter.grad.std())

    def _weights(self, group: Sequence[str], whole: bool) -> dict[str, Any]:
        starts = [f"learners.{self.names.index(name)}." for name in group]
        kept = kept_weights(self.ensemble)
        return {name: value for name, value in kept.items() if whole or any(name.startswith(s) for s in starts)}
