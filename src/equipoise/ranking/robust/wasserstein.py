"""The adversary of a Wasserstein ball: moves inputs to where the loss is worst, at a price for every move.

    max over δ_i   Σ_i  objective_i(x_i + δ_i) − λ_{y_i} ‖δ_i‖²            λ ← max(0, λ − lr (ε − mean cost))

Strong duality makes the worst distribution within mean squared distance ε of the data a penalty λ on every sample's
own squared distance, with labels kept, so that each is moved by itself and λ follows the cost: above the budget it
rises. See `ranking.robust.distributional_auc` for the loss, and for what differs from the authors' code.

Wang et al., "DRAUC: An Instance-wise Distributionally Robust AUC Optimization Framework", NeurIPS 2023, arXiv
2311.03055.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
from equipoise.core.types import BinaryTarget, Count, NonNegative, OpenFraction, Positive, SampleWeight
from equipoise.ranking.robust.adversarial_auc import Norm, Terms, column_of
from equipoise.ranking.robust.minmax_auc import Number

Selection: TypeAlias = Literal["last", "best"]


class ClassBudgets(NamedTuple):
    """Transport budgets of the classes.

    Attributes:
        eps_pos: ε₊.
        eps_neg: ε₋.
    """

    eps_pos: float
    eps_neg: float


class Ascent(NamedTuple):
    """Where the inputs were moved.

    Attributes:
        delta: the changes.
        cost: (n,) squared length of each.
    """

    delta: Tensor
    cost: Tensor


@checked
def class_budgets(eps: Positive, prior: OpenFraction, k: Positive = 1.0) -> ClassBudgets:
    """Budgets of the classes, ε₊ = k ε and ε₋ = ε (1 − p k)/(1 − p), which average to ε over the data.

    Raises:
        ValueError: if p k is at least 1.

    >>> class_budgets(0.5, prior=0.1, k=1.5)
    ClassBudgets(eps_pos=0.75, eps_neg=0.4722222222222222)
    """
    if prior * k >= 1:
        raise ValueError(f"k={k:g} leaves the negatives no budget at prior={prior:g}; it must be below {1 / prior:g}")
    return ClassBudgets(k * eps, eps * (1 - prior * k) / (1 - prior))


def transport_cost(delta: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Squared Euclidean length of every change.

    >>> transport_cost(torch.tensor([[3.0, 4.0]]))
    tensor([25.])
    """
    return delta.flatten(1).square().sum(1)


@checked
def dual_step(multiplier: Number, budget: float, mean_cost: Number, lr: Positive) -> Tensor:
    """λ ← max(0, λ − lr (budget − cost)): a cost above the budget makes transport dearer.

    >>> dual_step(1.0, budget=0.5, mean_cost=1.0, lr=0.5)
    tensor(1.2500)
    """
    return torch.as_tensor(multiplier - lr * (budget - mean_cost)).clamp_min(0)


@checked
def wasserstein_ascent(
    model: Model,
    inputs: Float[Tensor, " n *shape"],
    target: BinaryTarget,
    objective: Terms,
    multiplier: SampleWeight,
    start: Float[Tensor, " n *shape"],
    *,
    steps: Count,
    lr: Positive,
    norm: Norm = "l2",
    bounds: Bounds = (0.0, 1.0),
    radius: NonNegative | SampleWeight | None = None,
    normalize: bool = True,
    select: Selection = "last",
) -> Ascent:
    """Raise objective_i − λ_i ‖δ_i‖² for every sample by gradient steps on its input.

    Args:
        model: inputs → scores (n,) or (n, 1), in the mode it is in.
        inputs: (n, ...) within the bounds.
        target: (n,) in {0, 1}.
        objective: (scores, target) → terms whose mean is the loss.
        multiplier: (n,) λ of each sample.
        start: the changes to begin with; cut to the bounds first.
        steps: how many.
        lr: length of a step.
        norm: "l2" for steps along the gradient, "linf" along its signs.
        bounds: of the inputs.
        radius: largest change in the norm, one for all or (n,); any if absent, the penalty being the constraint.
        normalize: steps of length lr in the norm, else lr times the gradient.
        select: "last", or "best" for the highest penalised objective of all changes met, the start among them.

    >>> x, y = torch.full((2, 1), 0.5), torch.tensor([1, 0])
    >>> terms = lambda scores, target: torch.where(target == 1, -scores, scores)
    >>> wasserstein_ascent(lambda x: x, x, y, terms, torch.zeros(2), torch.zeros(2, 1), steps=2, lr=0.125).delta
    tensor([[-0.2500],
            [ 0.2500]])
    """
    delta = project_box(inputs, start, bounds)
    best, highest = delta, torch.full((len(inputs),), -torch.inf, dtype=inputs.dtype, device=inputs.device)
    penalty = multiplier.view(-1, *[1] * (inputs.ndim - 1))

    def terms(output: Tensor) -> Tensor:
        return objective(column_of(output), target)

    for _ in range(steps):
        values, gradient = input_gradient(model, inputs, delta, terms)
        if select == "best":
            best, highest = _better(best, highest, delta, values - multiplier * transport_cost(delta))
        gradient = gradient * len(inputs) - 2 * penalty * delta
        delta = delta + lr * (step_direction(gradient, norm) if normalize else gradient)
        if radius is not None:
            delta = project_ball(delta, radius, norm)
        delta = project_box(inputs, delta, bounds)
    if select == "best":
        with torch.no_grad():
            values = terms(model(inputs + delta))
        delta, _ = _better(best, highest, delta, values - multiplier * transport_cost(delta))
    return Ascent(delta, transport_cost(delta))


class WassersteinPerturbation(nn.Module):
    """The adversary of a Wasserstein ball: moves inputs, and prices its moves so that they keep to the budget.

    Called once per batch, it returns the changes and adds their cost; every `lambda_period` batches λ takes a dual
    step. λ and the costs since are buffers, so that a run resumes where it was.

    Args:
        eps: budget: mean squared Euclidean length of the changes.
        mode: "free" for one ball, "aware" for one per class.
        prior: share of positives in the data; for "aware".
        k: ε₊ / ε; for "aware".
        steps: gradient steps on the inputs.
        lr: length of a step, in units of the inputs.
        norm: "l2" or "linf", of the steps and of the projection.
        bounds: of the inputs.
        lambda_init: λ at the start.
        lambda_lr: step size of λ.
        lambda_period: batches between steps of λ.
        lambda_min: least λ; above 0 it keeps the ascent from being unpenalised.
        project: keep every change within √ε in the norm, √ε₊ or √ε₋ of its class where "aware". Random starts lie
            there in any case.
        select: "last" or "best", see `wasserstein_ascent`.

    Raises:
        ValueError: if `mode="aware"` lacks a prior or has no budget for the negatives.
    """

    lambda_pos: Tensor
    lambda_neg: Tensor
    costs: Tensor
    batches: Tensor

    @checked
    def __init__(
        self,
        eps: Positive,
        mode: Literal["free", "aware"] = "free",
        prior: OpenFraction | None = None,
        k: Positive = 1.0,
        steps: Count = 10,
        lr: Positive = 15 / 255,
        norm: Norm = "l2",
        bounds: Bounds = (0.0, 1.0),
        lambda_init: NonNegative = 1.0,
        lambda_lr: Positive = 0.02,
        lambda_period: Count = 10,
        lambda_min: NonNegative = 0.0,
        project: bool = False,
        select: Selection = "last",
    ) -> None:
        super().__init__()
        if mode == "aware" and prior is None:
            raise ValueError("mode='aware' needs the prior, the share of positives in the data, for example prior=0.05")
        self.mode, self.eps = mode, eps
        self.budgets = ClassBudgets(eps, eps) if prior is None or mode == "free" else class_budgets(eps, prior, k)
        self.steps, self.lr, self.norm, self.bounds = steps, lr, norm, bounds
        self.lambda_lr, self.lambda_period, self.lambda_min = lambda_lr, lambda_period, lambda_min
        self.project, self.select = project, select
        self.register_buffer("lambda_pos", torch.tensor(float(lambda_init)))
        self.register_buffer("lambda_neg", torch.tensor(float(lambda_init)))
        # Sum of costs and number of samples since the last dual step: positives, negatives.
        self.register_buffer("costs", torch.zeros(2, 2, dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @checked
    def forward(
        self,
        model: Model,
        inputs: Float[Tensor, " n *shape"],
        target: BinaryTarget,
        objective: Terms,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The changes of a batch; none where a class is absent.

        Args:
            model: inputs → scores (n,) or (n, 1); evaluated without its training behaviour.
            inputs: (n, ...) within the bounds.
            target: (n,) in {0, 1}.
            objective: (scores, target) → terms whose mean is the loss, such as `DRAUCLoss.terms`.
            generator: of the random starts.

        Raises:
            ValueError: if inputs are outside their bounds.
        """
        check_inputs(inputs, self.bounds)
        positive = target == 1
        if bool(positive.all()) or not bool(positive.any()):
            return torch.zeros_like(inputs)
        multiplier = torch.where(positive, self.lambda_pos, self.lambda_neg).to(inputs.dtype)
        of_pos, of_neg = (inputs.new_tensor(budget**0.5) for budget in self.budgets)
        radius = torch.where(positive, of_pos, of_neg)
        with evaluation_mode(model):
            moved = wasserstein_ascent(
                model,
                inputs,
                target,
                objective,
                multiplier,
                random_start(inputs, radius, self.norm, generator),
                steps=self.steps,
                lr=self.lr,
                norm=self.norm,
                bounds=self.bounds,
                radius=radius if self.project else None,
                select=self.select,
            )
        for row, members in enumerate((positive, ~positive)):
            self.costs[row, 0] += moved.cost[members].sum()
            self.costs[row, 1] += members.sum()
        self.batches += 1
        if int(self.batches) >= self.lambda_period:
            self.dual_update()
        return moved.delta

    def mean_costs(self) -> tuple[float, float]:
        """Mean cost of positives and negatives since the last dual step; NaN where there was none."""
        pos, neg = (float(total / count) if count else float("nan") for total, count in self.costs)
        return pos, neg

    @torch.no_grad()
    def dual_update(self) -> None:
        """Step λ by the costs since the last step, and begin anew; a class that was not seen keeps its λ."""
        if self.mode == "free":
            total, count = self.costs.sum(0)
            if count:
                self.lambda_pos.copy_(self._stepped(self.lambda_pos, self.eps, total / count))
                self.lambda_neg.copy_(self.lambda_pos)
        else:
            for row, (multiplier, budget) in enumerate(
                zip((self.lambda_pos, self.lambda_neg), self.budgets, strict=True)
            ):
                if self.costs[row, 1]:
                    multiplier.copy_(self._stepped(multiplier, budget, self.costs[row, 0] / self.costs[row, 1]))
        self.costs.zero_()
        self.batches.zero_()

    def _stepped(self, multiplier: Tensor, budget: float, cost: Tensor) -> Tensor:
        return dual_step(multiplier, budget, cost.to(multiplier), self.lambda_lr).clamp_min(self.lambda_min)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"eps={self.eps}, mode={self.mode}, steps={self.steps}, lr={self.lr}, norm={self.norm}"


def _better(best: Tensor, highest: Tensor, delta: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    better = value > highest
    chosen = torch.where(better.view(-1, *[1] * (delta.ndim - 1)), delta, best)
    return chosen, torch.where(better, value, highest)
