"""`robust_auroc` as a `torchmetrics.Metric`: batches are attacked as they come, and judged as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from equipoise.core.solvers.perturbation import Model
from equipoise.core.validate import check_choice, check_nonnegative, check_positive
from equipoise.ranking.metrics.functional import auroc
from equipoise.ranking.robust.adversarial_auc import PGDAttack, attacked_scores


class RobustAUROC(Metric):
    """AUROC of the inputs as they are and under a loss-agnostic attack at several radii, over batches and processes.

    One attack bounds the harm from below; it is no certificate.

    Args:
        attack: settings; its own `eps` and `step` give the ratio of step to radius.
        radii: the ε to attack with.
        seed: of the random starts; a batch's are derived from the seed and its place.
        on_undefined: "nan" or "raise" where one class is absent.

    Raises:
        ValueError: if a radius is negative, or the attack's own radius is 0.

    >>> metric = RobustAUROC(PGDAttack(random_start=False), radii=[0.25])
    >>> metric.update(lambda x: x, torch.tensor([[0.75], [0.5]]), torch.tensor([1, 0]))
    >>> metric.compute()
    {0.0: tensor(1.), 0.25: tensor(0.)}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]
    target: list[Tensor]

    def __init__(
        self, attack: PGDAttack, radii: Sequence[float], *, seed: int = 0, on_undefined: str = "nan", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_positive("the attack's eps", attack.eps)
        for radius in radii:
            check_nonnegative("radius", radius)
        check_choice("on_undefined", on_undefined, ("nan", "raise"))
        self.attack, self.radii = attack, tuple(dict.fromkeys(float(r) for r in (0.0, *radii)))
        self.seed, self.on_undefined = seed, on_undefined
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, model: Model, inputs: Tensor, target: Tensor) -> None:
        """Attack a batch.

        Args:
            model: inputs → scores (n,) or (n, 1); evaluated without its training behaviour.
            inputs: (n, ...) within the attack's bounds.
            target: (n,) in {0, 1}; one class is enough.

        Raises:
            ValueError: if inputs are not finite or outside their bounds.
        """
        generator = torch.Generator(device=inputs.device)
        generator.manual_seed(self.seed * 1_000_003 + len(self.target))
        columns = [attacked_scores(model, inputs, target, radius, self.attack, generator) for radius in self.radii]
        self.scores.append(torch.stack(columns, 1))
        self.target.append(target.detach())

    def compute(self) -> dict[float, Tensor]:
        """{0.0: clean AUROC, radius: AUROC under attack, ...}.

        Raises:
            ValueError: if there were no samples; if one class is absent and `on_undefined` is "raise".
        """
        if not len(self.scores):
            raise ValueError("RobustAUROC has seen no samples; call update(model, inputs, target) first")
        scores, target = dim_zero_cat(self.scores), dim_zero_cat(self.target)
        return {
            radius: auroc(column.contiguous(), target, on_undefined=self.on_undefined)
            for radius, column in zip(self.radii, scores.unbind(1), strict=True)
        }
