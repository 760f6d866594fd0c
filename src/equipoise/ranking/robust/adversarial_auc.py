"""AUC that holds when every input is changed by an adversary, for rare positives.

    min over network, a, b   max over α   max over ‖δ_i‖ ≤ ε   mean g(f(x_i + δ_i), a, b, α)  −  κ/2 ‖δ_i‖²

g is the saddle form of the square AUC loss (`ranking.robust.minmax_auc`), whose terms hold one sample each, so that an
attack on the AUC is an attack on every input by itself. κ makes the inside concave in δ, under which the order of max
and min may be exchanged (reconstructed: the published code has no such term, as is the default here).

Attacks need not be finished: the first-order stationarity of a sample, c = ε ‖g‖_* − ⟨δ, g⟩ ≥ 0, is zero where δ is the
best the linearised problem has, and samples below a threshold are left alone (reconstructed, after dynamic adversarial
training).

For α in [max(−a, b − 1), 1] the worst case only pushes positives down and negatives up, whatever a, b and α are: the
loss-agnostic objective.

Yang et al., "AdAUC: End-to-end Adversarial AUC Optimization Against Long-tail Problems", ICML 2022, arXiv 2206.12169.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from equipoise.core.signature import checked
from equipoise.core.solvers.perturbation import (
    Bounds,
    Model,
    check_inputs,
    evaluation_mode,
    input_gradient,
    project_ball,
    project_box,
    random_start,
    step_direction,
)
from equipoise.core.types import BinaryTarget, Count, NonNegative, Positive, Scores, Whole

Norm: TypeAlias = Literal["linf", "l2"]
Terms: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(scores, target) → one value per sample, which the attack raises; for example `MinMaxAUCLoss.terms`."""


@checked
def loss_agnostic_terms(scores: Scores, target: BinaryTarget) -> Scores:
    """Minus a positive's score, and a negative's as it is: what the worst case of the AUC raises under any a, b and α.

    >>> loss_agnostic_terms(torch.tensor([0.75, 0.25]), torch.tensor([1, 0]))
    tensor([-0.7500,  0.2500])
    """
    return torch.where(target == 1, -scores, scores)


@checked
def first_order_stationarity(
    gradient: Float[Tensor, "n ..."], delta: Float[Tensor, "n ..."], eps: NonNegative, norm: Norm = "linf"
) -> Scores:
    """How far each change is from the best of the linearised problem, ε ‖g‖_* − ⟨δ, g⟩ (FOSC); 0 at it.

    Args:
        gradient: of the objective with respect to each change.
        delta: the changes.
        eps: radius of the ball.
        norm: of the ball, "linf" (whose dual norm sums absolute values) or "l2".

    >>> first_order_stationarity(torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 0.5]]), eps=0.5)
    tensor([1.])
    """
    flat, moved = gradient.flatten(1), delta.flatten(1)
    if norm == "linf":
        # Entry by entry, which no rounding makes negative.
        return (eps * flat.abs() - flat * moved).sum(1)
    return eps * flat.norm(dim=1) - (flat * moved).sum(1)


class PGDAttack:
    """Projected gradient ascent on one term per sample; `steps=1, step=eps` is the fast gradient sign.

    Of all changes that it meets, the one with the highest term is kept per sample, no change being one of them,
    so that restarts can only help.

    Args:
        eps: radius of the ball, in units of the input; 0 changes nothing.
        step: length of a step.
        steps: how many.
        norm: "linf" or "l2".
        bounds: lowest and highest value of the inputs, numbers or tensors that broadcast (one value per channel).
        random_start: begin at a random change, else at none.
        restarts: how often to begin anew.
        keep: "best" or "last", the change where the last start ended.
        fosc_threshold: leave a sample alone once its first-order stationarity, of the batch's mean objective, is at
            most this; lower it during training for weak attacks first.
        concavity: κ of the penalty κ/2 ‖δ‖², taken off the terms.

    >>> x, y = torch.tensor([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([1, 0])
    >>> attack = PGDAttack(eps=0.1, step=0.05, steps=4, random_start=False)
    >>> attack(lambda x: x @ torch.tensor([1.0, -1.0]), x, y, loss_agnostic_terms)
    tensor([[-0.1000,  0.1000],
            [ 0.1000, -0.1000]])
    """

    @checked
    def __init__(
        self,
        eps: NonNegative = 8 / 255,
        step: Positive = 2 / 255,
        steps: Whole = 10,
        norm: Norm = "linf",
        bounds: Bounds = (0.0, 1.0),
        random_start: bool = True,
        restarts: Count = 1,
        keep: Literal["best", "last"] = "best",
        fosc_threshold: NonNegative | None = None,
        concavity: NonNegative = 0.0,
    ) -> None:
        self.eps, self.step, self.steps, self.norm, self.bounds = eps, step, steps, norm, bounds
        self.random_start, self.restarts, self.keep = random_start, restarts, keep
        self.fosc_threshold, self.concavity = fosc_threshold, concavity

    @checked
    def __call__(
        self,
        model: Model,
        inputs: Float[Tensor, "n ..."],
        target: BinaryTarget,
        objective: Terms,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The changes found, of the shape of the inputs; nothing is changed where a class is absent.

        Args:
            model: inputs → scores (n,) or (n, 1); evaluated without its training behaviour.
            inputs: (n, ...) within the bounds.
            target: (n,) in {0, 1}.
            objective: (scores, target) → one term per sample.
            generator: of the random starts.

        Raises:
            ValueError: if inputs are outside their bounds.
            RuntimeError: if the objective does not depend on the inputs.
        """
        check_inputs(inputs, self.bounds)
        best = torch.zeros_like(inputs)
        if self.eps == 0 or bool((target == 1).all()) or not bool((target == 1).any()):
            return best
        with evaluation_mode(model):
            highest = self._value(model, inputs, best, target, objective)
            for _ in range(self.restarts):
                for delta, value in self._ascend(model, inputs, target, objective, generator):
                    better = value > highest if self.keep == "best" else torch.ones_like(value, dtype=torch.bool)
                    highest = torch.where(better, value, highest)
                    best[better] = delta[better]
        return best

    def _ascend(
        self,
        model: Model,
        inputs: Tensor,
        target: Tensor,
        objective: Terms,
        generator: torch.Generator | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The changes of one start with their terms, each to be looked at before the next is asked for."""
        delta = torch.zeros_like(inputs)
        if self.random_start:
            delta = project_box(inputs, random_start(inputs, self.eps, self.norm, generator), self.bounds)
        active = torch.arange(len(inputs), device=inputs.device)
        values = torch.full((len(inputs),), -torch.inf, dtype=inputs.dtype, device=inputs.device)
        for _ in range(self.steps):
            # The terms know how many of each class there are, so all targets are passed; only the rows that still move
            # go through the network again.
            found, gradient = self._gradient(model, inputs[active], delta[active], target, objective, active)
            values[active] = found.to(values.dtype)
            yield delta, values
            if self.fosc_threshold is not None:
                # The gradient of the batch's mean: that of the rows alone, shared among all.
                share = len(active) / len(inputs)
                left = first_order_stationarity(gradient * share, delta[active], self.eps, self.norm)
                moving = left > self.fosc_threshold
                active, gradient = active[moving], gradient[moving]
                if not len(active):
                    return
            moved = delta[active] + self.step * step_direction(gradient, self.norm)
            moved = project_ball(moved, self.eps, self.norm)
            delta[active] = project_box(inputs[active], moved, self.bounds)
        yield delta, self._value(model, inputs, delta, target, objective)

    def _gradient(
        self, model: Model, inputs: Tensor, delta: Tensor, target: Tensor, objective: Terms, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        values, gradient = input_gradient(model, inputs, delta, lambda out: _terms_of(out, target, objective, rows))
        if self.concavity:
            values = values - self.concavity / 2 * delta.flatten(1).square().sum(1)
            gradient = gradient - self.concavity * delta / len(delta)
        return values, gradient

    @torch.no_grad()
    def _value(self, model: Model, inputs: Tensor, delta: Tensor, target: Tensor, objective: Terms) -> Tensor:
        rows = torch.arange(len(inputs), device=inputs.device)
        values = _terms_of(model(inputs + delta), target, objective, rows).to(inputs.dtype)
        return values - self.concavity / 2 * delta.flatten(1).square().sum(1)


@checked
def adversarial_auc_step(
    model: nn.Module,
    loss: nn.Module,
    attack: PGDAttack,
    optimizer: Optimizer,
    inputs: Float[Tensor, "n ..."],
    target: BinaryTarget,
    *,
    objective: Terms | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One step of adversarial training: attack, clear all gradients, loss at the changed inputs, backward, step.

    Args:
        model: inputs → scores (n,) or (n, 1).
        loss: called as loss(scores, target).
        attack: how inputs are changed.
        optimizer: of the model and the loss, such as `descent_ascent(torch.optim.SGD, model, loss, lr=0.01)`.
        inputs: (n, ...) within the attack's bounds.
        target: (n,) in {0, 1}.
        objective: terms that the attack raises; the loss's own `terms` if it has them, else the loss-agnostic ones.
        generator: of the attack's random starts.

    Returns:
        The loss at the changed inputs, detached.

    >>> from equipoise.core.solvers.saddle import descent_ascent
    >>> from equipoise.ranking import MinMaxAUCLoss, robust_auroc
    >>> generator = torch.Generator().manual_seed(0)
    >>> x, y = torch.rand(100, 2, generator=generator), torch.arange(100) < 20
    >>> x = (x + 0.5 * y[:, None]).clamp(0, 1)
    >>> model, loss = torch.nn.Linear(2, 1), MinMaxAUCLoss()
    >>> attack = PGDAttack(eps=0.05, step=0.02, steps=5)
    >>> optimizer = descent_ascent(torch.optim.SGD, model, loss, lr=0.2)
    >>> for _ in range(30):
    ...     value = adversarial_auc_step(model, loss, attack, optimizer, x, y, generator=generator)
    >>> bool(robust_auroc(model, x, y, [0.05], attack)[0.05] > 0.6)
    True
    """
    terms = objective if objective is not None else getattr(loss, "terms", loss_agnostic_terms)
    delta = attack(model, inputs, target, terms, generator)
    optimizer.zero_grad()
    value: Tensor = loss(column_of(model(inputs + delta)), target)
    value.backward()
    optimizer.step()
    return value.detach()


def column_of(output: Tensor) -> Tensor:
    """Scores (n,) from (n,) or (n, 1)."""
    return output.squeeze(1) if output.ndim == 2 and output.shape[1] == 1 else output


def _terms_of(output: Tensor, target: Tensor, objective: Terms, rows: Tensor) -> Tensor:
    """The terms of some rows, in a batch that has all targets."""
    scores = column_of(output)
    if len(rows) == len(target):
        return objective(scores, target)
    rows = rows.clone()  # Kept for the gradient, which tensors of inference mode cannot be.
    whole = scores.new_zeros(len(target)).index_copy(0, rows, scores)
    return objective(whole, target)[rows]
