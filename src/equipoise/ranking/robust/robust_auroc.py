"""AUROC under attack: batches are attacked by a loss-agnostic objective at several radii, and judged as a whole.

It is one attack: a lower bound on the harm, and no certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.metrics import SampleMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.solvers.perturbation import Model, evaluation_mode
from equipoise.core.types import BinaryTarget, Count, NonNegative, Scores, Whole
from equipoise.ranking.metrics.binary_areas import auroc
from equipoise.ranking.metrics.common import OnUndefined
from equipoise.ranking.robust.adversarial_auc import PGDAttack, column_of, loss_agnostic_terms


@checked
def robust_auroc(
    model: Model,
    inputs: Float[Tensor, "n ..."],
    target: BinaryTarget,
    radii: Sequence[NonNegative],
    attack: PGDAttack,
    *,
    batch_size: Count = 512,
    generator: torch.Generator | None = None,
) -> dict[float, Tensor]:
    """AUROC of the inputs as they are (at 0.0) and under attack at several radii.

    The steps are in proportion to the radius.

    Args:
        model: inputs → scores (n,) or (n, 1).
        inputs: (n, ...) within the attack's bounds.
        target: (n,) in {0, 1}, both classes present.
        radii: the ε to attack with.
        attack: settings; its own `eps` and `step` give the ratio of step to radius.
        batch_size: samples attacked at once.
        generator: of the random starts.

    Returns:
        {0.0: clean AUROC, radius: AUROC under attack, ...}.

    Raises:
        ValueError: if the attack's own radius is 0, or as the attack.
    """
    found = {}
    for radius in (0.0, *radii):
        scores = [
            attacked_scores(model, inputs[rows], target[rows], radius, attack, generator)
            for rows in torch.arange(len(inputs), device=inputs.device).split(batch_size)
        ]
        found[float(radius)] = auroc(torch.cat(scores), target)
    return found


@checked
def attacked_scores(
    model: Model,
    inputs: Float[Tensor, "n ..."],
    target: BinaryTarget,
    radius: NonNegative,
    attack: PGDAttack,
    generator: torch.Generator | None = None,
) -> Scores:
    """Scores under a loss-agnostic attack at a radius, steps in proportion to it; the scores as they are at 0.

    Args:
        model: inputs → scores (n,) or (n, 1).
        inputs: (n, ...) within the attack's bounds.
        target: (n,) in {0, 1}; one class is enough.
        radius: ε to attack with.
        attack: settings; its own `eps` and `step` give the ratio of step to radius.
        generator: of the random starts.

    Raises:
        ValueError: if the attack's own radius is 0, or as the attack.

    >>> x, y = torch.full((2, 1), 0.5), torch.tensor([1, 0])
    >>> attacked_scores(lambda x: x, x, y, 0.25, PGDAttack(random_start=False))
    tensor([0.2500, 0.7500])
    """
    check_has_radius(attack)
    delta = torch.zeros_like(inputs)
    if radius != 0:
        scaled = PGDAttack(
            radius,
            attack.step * radius / attack.eps,
            attack.steps,
            attack.norm,
            attack.bounds,
            attack.random_start,
            attack.restarts,
        )
        # Two more rows carry both classes, without which an attack changes nothing.
        both = torch.cat([inputs, inputs[:1], inputs[:1]])
        labels = torch.cat([target.long(), torch.tensor([0, 1], device=target.device)])
        delta = scaled(model, both, labels, loss_agnostic_terms, generator)[: len(inputs)]
    with evaluation_mode(model), torch.no_grad():
        return column_of(model(inputs + delta))


def check_has_radius(attack: PGDAttack) -> None:
    """Raise `ValueError` unless the attack's own radius says how long its steps are."""
    if attack.eps == 0:
        raise ValueError("the attack's eps is 0, so that its steps have no proportion to the radius; give it another")


class RobustAUROC(SampleMetric):
    """AUROC of the inputs as they are and under a loss-agnostic attack at several radii, over batches and processes.

    Args:
        attack: settings; its own `eps` and `step` give the ratio of step to radius.
        radii: the ε to attack with.
        seed: of the random starts; a batch's are derived from the seed and its place.
        on_undefined: "nan" or "raise" where one class is absent.

    Raises:
        ValueError: if the attack's own radius is 0.

    >>> metric = RobustAUROC(PGDAttack(random_start=False), radii=[0.25])
    >>> metric.update(lambda x: x, torch.tensor([[0.75], [0.5]]), torch.tensor([1, 0]))
    >>> metric.compute()
    {0.0: tensor(1.), 0.25: tensor(0.)}
    """

    target: list[Tensor]
    kept = ("scores", "target")

    @checked
    def __init__(
        self,
        attack: PGDAttack,
        radii: Sequence[NonNegative],
        *,
        seed: Whole = 0,
        on_undefined: OnUndefined = "nan",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_has_radius(attack)
        self.attack, self.radii = attack, tuple(dict.fromkeys(float(r) for r in (0.0, *radii)))
        self.seed, self.on_undefined = seed, on_undefined
        self._before = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Attack a batch, and give the value of it alone."""
        # The batch is looked at in an emptied state, which hides its place.
        self._before = len(self.target)
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._before = 0

    def nothing(self) -> Any:
        """NaN by name."""
        return {radius: value.float() for radius, value in nan_by_name(self.radii, self.device).items()}

    @checked
    def update(self, model: Model, inputs: Float[Tensor, "n ..."], target: BinaryTarget) -> None:
        """Attack a batch.

        Args:
            model: inputs → scores (n,) or (n, 1); evaluated without its training behaviour.
            inputs: (n, ...) within the attack's bounds.
            target: (n,) in {0, 1}; one class is enough.

        Raises:
            ValueError: if inputs are not finite or outside their bounds.
        """
        generator = torch.Generator(device=inputs.device)
        generator.manual_seed(self.seed * 1_000_003 + self._before + len(self.target))
        columns = [attacked_scores(model, inputs, target, radius, self.attack, generator) for radius in self.radii]
        self.keep(torch.stack(columns, 1), target)

    def compute(self) -> dict[float, Tensor]:
        """{0.0: clean AUROC, radius: AUROC under attack, ...}.

        Raises:
            ValueError: if one class is absent and `on_undefined` is "raise".
        """
        scores, target = self.samples()
        return {
            radius: auroc(column.contiguous(), target, on_undefined=self.on_undefined)
            for radius, column in zip(self.radii, scores.unbind(1), strict=True)
        }
