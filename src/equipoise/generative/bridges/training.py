"""Training of bridges on pairs.

    n uniform,  x_n and its label as `BridgeSchedule`,  loss = mean (e(x_n, n) − label)²
    of a mixture, over all experts and the router: the same plus λ Σ_m mean_b (w_m − 1/K)²

AdamW, a cosine from the learning rate to 0, and an exponential average of the weights, which the model has in the end.
The authors train long at a nearly constant rate of 5·10⁻⁵; the rate here is for small networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from equipoise.core.epochs import fit_epochs
from equipoise.core.fingerprint import fingerprint
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, ProperFraction, Whole
from equipoise.generative.bridges.mixture import RoutedMixture
from equipoise.generative.bridges.model import BridgeModel
from equipoise.generative.bridges.reallocation import weight_reallocation_loss

Pairs: TypeAlias = Callable[[Generator, int], tuple[Tensor, Tensor]]
"""(generator, n) → n encoded pairs x_0, x_1 (n, ...)."""

# Between two savings of a training that can be taken up again.
_INTERVAL = 50


@dataclass(frozen=True, eq=False)
class BridgeFit:
    """What a training saw.

    Attributes:
        model: the trained model, in evaluation mode.
        losses: mean loss of each interval of at most 50 steps.
    """

    model: BridgeModel
    losses: list[float]


class BridgeTrainer:
    """Steps of training, for `equipoise.core.epochs.fit_epochs`: an epoch is an interval of steps.

    Args:
        model: trained in place.
        pairs: draws encoded pairs.
        steps: of training.
        batch_size: pairs a step.
        learning_rate: at the start.
        weight_decay: of AdamW.
        average: of the exponential average, in [0, 1).
        reallocation: λ, for a mixture.
        seed: of pairs, steps and noise.
        interval: steps of an epoch.

    Raises:
        ValueError: on a bad argument, by name.
    """

    @checked
    def __init__(
        self,
        model: BridgeModel,
        pairs: Pairs,
        steps: Count,
        *,
        batch_size: Count = 64,
        learning_rate: Positive = 2e-3,
        weight_decay: NonNegative = 0.0,
        average: ProperFraction = 0.99,
        reallocation: NonNegative = 0.0,
        seed: Whole = 0,
        interval: Count = _INTERVAL,
    ) -> None:
        self.model, self.pairs, self.steps, self.batch_size = model, pairs, steps, batch_size
        self.learning_rate, self.reallocation, self.interval, self.done = learning_rate, reallocation, interval, 0
        self.generator = Generator().manual_seed(seed)
        self.weights = [each for each in model.network.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=learning_rate, weight_decay=weight_decay)
        self.averaged = AveragedModel(model.network, multi_avg_fn=get_ema_multi_avg_fn(average))

    def epoch(self) -> float:
        """The mean loss of the next steps."""
        self.model.train()
        total, count = 0.0, min(self.interval, self.steps - self.done)
        for _ in range(count):
            total += self._step()
        return total / max(count, 1)

    def finish(self) -> None:
        """Give the model the averaged weights."""
        if self.done:
            with torch.no_grad():
                averages = self.averaged.module.parameters()
                for weight, mean in zip(self.model.network.parameters(), averages, strict=True):
                    weight.copy_(mean)
        self.model.eval()

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted training needs to go on."""
        return {
            "network": self.model.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "done": self.done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.model.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.done = state["done"]

    def _step(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * (1 + math.cos(math.pi * self.done / self.steps)) / 2
        x0, x1 = self.pairs(self.generator, self.batch_size)
        schedule = self.model.schedule
        step = torch.randint(schedule.num_steps, (len(x0),), generator=self.generator)
        noise = torch.randn(x0.shape, generator=self.generator).to(x0)
        step = step.to(x0.device)
        x_n = schedule.sample(x0, x1, step, noise)
        loss = self._loss(x_n, step, x1, schedule.label(x_n, x0, step))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.averaged.update_parameters(self.model.network)
        self.done += 1
        return float(loss.detach())

    def _loss(self, x_n: Tensor, step: Tensor, x1: Tensor, label: Tensor) -> Tensor:
        network = self.model.network
        if isinstance(network, RoutedMixture) and self.reallocation > 0:
            time = self.model.schedule.time.to(x_n.device)[step].to(x_n)
            given = torch.cat([x_n, x1], 1) if self.model.cond_x1 else x_n
            said = network.outputs(given, time)[:, :, : x_n.shape[1]]
            return weight_reallocation_loss(said, network.logits(x1), label, weight=self.reallocation)
        return (self.model.predict(x_n, step, x1) - label).square().mean()


@checked
def fit_bridge(
    model: BridgeModel,
    clean: Float[Tensor, "n c h w"],
    degraded: Float[Tensor, "n c h w"],
    *,
    steps: Count = 500,
    batch_size: Count = 64,
    learning_rate: Positive = 2e-3,
    weight_decay: NonNegative = 0.0,
    average: ProperFraction = 0.99,
    reallocation: NonNegative = 0.0,
    seed: Whole = 0,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> BridgeFit:
    """Train a bridge on pairs of pictures, in place.

    Args:
        model: the model.
        clean: (n, c, h, w) in [−1, 1].
        degraded: (n, c, h, w), the same pictures degraded.
        steps: of training.
        batch_size: pairs a step, drawn with replacement.
        learning_rate: of AdamW at the start; a cosine takes it to 0.
        weight_decay: of AdamW.
        average: of the exponential average of the weights, which the model has in the end.
        reallocation: λ of `weight_reallocation_loss`, for a mixture.
        seed: of pairs, steps and noise.
        checkpoint: a file, written now and then and taken up by the same training if it is there.
        progress: told the steps done and the loss of the last interval.

    Raises:
        ValueError: if shapes differ, a setting is out of range, or the checkpoint is of another training.

    >>> pictures = torch.rand(8, 1, 2, 2) * 2 - 1
    >>> model = BridgeModel.for_pairs(pictures, -pictures, components=4, width=8)
    >>> len(fit_bridge(model, pictures, -pictures, steps=20).losses)
    1
    """
    for name, images in (("clean", clean), ("degraded", degraded)):
        model.warn_of_range(name, images)
    settings = {
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "average": average,
        "reallocation": reallocation,
        "seed": seed,
    }
    with torch.no_grad():
        x0, x1 = model.encode(clean), model.encode(degraded)
    mark = "" if checkpoint is None else fingerprint(model, x0, x1, steps, settings)
    return fit_pairs(model, drawn_from(x0, x1), steps, checkpoint=checkpoint, mark=mark, progress=progress, **settings)


def fit_pairs(
    model: BridgeModel,
    pairs: Pairs,
    steps: int,
    *,
    checkpoint: str | Path | None = None,
    mark: str = "",
    progress: Callable[[int, float], None] | None = None,
    **settings: Any,
) -> BridgeFit:
    """Train on whatever draws encoded pairs; `settings` are those of `BridgeTrainer`."""
    trainer = BridgeTrainer(model, pairs, steps, **settings)

    def told(epoch: int, loss: float, value: float | None) -> None:
        if progress is not None:
            progress(trainer.done, loss)

    epochs = math.ceil(steps / trainer.interval)
    history = fit_epochs(trainer, epochs, checkpoint=checkpoint, fingerprint=mark, progress=told)
    trainer.finish()
    return BridgeFit(model, history.losses)


def drawn_from(x0: Tensor, x1: Tensor) -> Pairs:
    """Pairs drawn with replacement from encoded ones (n, ...)."""

    def draw(generator: Generator, n: int) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(x0), (n,), generator=generator).to(x0.device)
        return x0[index], x1[index]

    return draw
