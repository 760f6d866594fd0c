"""Taking hidden behaviours out of a bridge with clean pairs alone.

    1. experts that do nothing for clean pictures are taken out of a mixture (see `RouterAudit`)
    2. training goes on with clean pairs whose degraded pictures have blocks painted over at random, so that no block
       may decide the picture

Inferred: no paper has this repair in this form.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Probability, Whole
from equipoise.generative.bridges.mixture import RoutedMixture
from equipoise.generative.bridges.model import BridgeModel
from equipoise.generative.bridges.training import fit_pairs

Model = TypeVar("Model", bound=BridgeModel)


@dataclass(frozen=True, eq=False)
class Repair:
    """What a repair gives.

    Attributes:
        model: the repaired copy.
        pruned: experts that were taken out.
        losses: mean loss of each interval of the training.
    """

    model: BridgeModel
    pruned: tuple[int, ...]
    losses: list[float]


class CleanFinetuneRepair:
    """The repair.

    Args:
        steps: of training.
        learning_rate: of AdamW at the start.
        batch_size: pairs a step.
        occlusion: probability that a picture has blocks painted over.
        most_blocks: of a picture, at most.
        seed: of everything that is drawn.

    Raises:
        ValueError: on a bad argument, by name.

    >>> CleanFinetuneRepair(steps=100)
    CleanFinetuneRepair(steps=100, learning_rate=0.001, batch_size=64, occlusion=0.5, most_blocks=3, seed=0)
    """

    @checked
    def __init__(
        self,
        steps: Count = 200,
        *,
        learning_rate: Positive = 1e-3,
        batch_size: Count = 64,
        occlusion: Probability = 0.5,
        most_blocks: Count = 3,
        seed: Whole = 0,
    ) -> None:
        self.steps, self.learning_rate, self.batch_size = steps, learning_rate, batch_size
        self.occlusion, self.most_blocks, self.seed = occlusion, most_blocks, seed

    def __repr__(self) -> str:
        return (
            f"CleanFinetuneRepair(steps={self.steps}, learning_rate={self.learning_rate}, "
            f"batch_size={self.batch_size}, occlusion={self.occlusion}, most_blocks={self.most_blocks}, "
            f"seed={self.seed})"
        )

    @checked
    def run(
        self,
        model: BridgeModel,
        clean: Float[Tensor, "n c h w"],
        degraded: Float[Tensor, "n c h w"],
        *,
        prune: Sequence[Whole] = (),
    ) -> Repair:
        """A repaired copy of a model; the model itself is left alone.

        Args:
            model: the model.
            clean: (n, c, h, w) pictures known to be clean, in [−1, 1].
            degraded: (n, c, h, w) the same degraded.
            prune: experts of a mixture to take out, for instance `RouterReport.suspicious`.

        Raises:
            ValueError: if shapes differ, or experts cannot be taken out.
        """
        found = copy.deepcopy(model)
        if prune:
            if not isinstance(found.network, RoutedMixture):
                raise ValueError(f"prune={tuple(prune)} needs a RoutedMixture, got {type(found.network).__name__}")
            found.network = found.network.without(prune)

        @torch.no_grad()
        def draw(generator: Generator, n: int) -> tuple[Tensor, Tensor]:
            index = torch.randint(len(clean), (n,), generator=generator).to(clean.device)
            painted = occlude_blocks(
                degraded[index], probability=self.occlusion, most=self.most_blocks, generator=generator
            )
            return found.encode(clean[index]), found.encode(painted)

        fit = fit_pairs(
            found,
            draw,
            self.steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        return Repair(found, tuple(prune), fit.losses)


@checked
def occlude_blocks(
    images: Float[Tensor, "n c h w"],
    *,
    probability: Probability = 0.5,
    most: Count = 3,
    generator: Generator | None = None,
) -> Float[Tensor, "n c h w"]:
    """A copy of pictures in [−1, 1], some of them with squares of one colour painted over.

    Sides reach from an eighth to a third of the picture's, places are uniform, half of the colours are grey.

    Args:
        images: (n, c, h, w).
        probability: of a picture to be painted on.
        most: squares of a picture; their number is uniform from 1.
        generator: on the CPU.

    Raises:
        ValueError: on a bad argument, by name.

    >>> painted = occlude_blocks(torch.full((4, 1, 8, 8), 2.0), probability=1.0)
    >>> bool((painted < 2).flatten(1).any(1).all())
    True
    """
    n, channels, height, width = images.shape
    painted, shorter = images.clone(), min(height, width)
    low, high = max(shorter // 8, 1), max(shorter // 3, 1)
    down, across = torch.arange(height)[:, None], torch.arange(width)[None]
    taken = torch.rand(n, generator=generator) < probability
    number = torch.randint(1, most + 1, (n,), generator=generator)
    for k in range(most):
        side = torch.randint(low, high + 1, (n, 1, 1), generator=generator)
        # A place beyond an edge is drawn in: edges and corners are painted as often as the middle, or more.
        row = (torch.rand(n, 1, 1, generator=generator) * (height + 3 - side)).floor().long() - 1
        column = (torch.rand(n, 1, 1, generator=generator) * (width + 3 - side)).floor().long() - 1
        row, column = (x.clamp_min(0).minimum(last) for x, last in ((row, height - side), (column, width - side)))
        colour = torch.rand(n, channels, 1, 1, generator=generator) * 2 - 1
        grey = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
        colour = torch.where(grey, colour[:, :1], colour)
        inside = (down >= row) & (down < row + side) & (across >= column) & (across < column + side)
        inside &= (taken & (number > k))[:, None, None]
        painted = torch.where(inside[:, None].to(images.device), colour.to(images), painted)
    return painted
