"""AUC for shifted or corrupted test data: the worst distribution in a Wasserstein ball around the training data.

    g = mean₊ (f − a)² + mean₋ (f − b)² + 2 α (m + mean₋ f − mean₊ f) − k α²            α ≥ 0, f in [0, 1]

    min over network, a, b, λ ≥ 0    max over α    λ ε + E_z max over x' { g(x', y) − λ ‖x' − x‖² }

By duality the ball costs a penalty λ on the transport, squared Euclidean distance with labels kept; the worst case is
found sample by sample by gradient ascent on the inputs, and λ follows the cost: above the budget ε it rises. One ball
for all ("free", DRAUC-Df) lets the adversary spend its budget on the rare class, whose samples weigh more; a ball for
each class ("aware", DRAUC-Da) with p ε₊ + (1 − p) ε₋ = ε does not.

The exchange of max and min makes this an upper bound of the robust risk [paper]. The authors' code measures the budget,
the penalty and the cost of the dual step in three different units, and the norm of a whole batch at once; here all are
the mean squared distance a sample.

Wang et al., "DRAUC: An Instance-wise Distributionally Robust AUC Optimization Framework", NeurIPS 2023, arXiv
2311.03055.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from equipoise.core.perturbation import (
    NORMS,
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
from equipoise.core.saddle import Box, SaddleLoss
from equipoise.core.validate import (
    check_binary,
    check_choice,
    check_fraction,
    check_nonnegative,
    check_positive,
    check_probabilities,
)
from equipoise.ranking.adversarial_auc import Terms
from equipoise.ranking.minmax_auc import class_weights
from equipoise.ranking.pairwise_auc import warn_of_one_class

BinaryTarget = Int[Tensor, " n"] | Bool[Tensor, " n"]
Scalar = float | Float[Tensor, ""]

ALPHA_RULES = ("gradient", "closed_form")
MODES = ("free", "aware")
SELECTIONS = ("last", "best")


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


def margin_auc_terms(
    scores: Float[Tensor, " n"],
    target: BinaryTarget,
    a: Scalar,
    b: Scalar,
    alpha: Scalar,
    *,
    margin: float = 1.0,
    k: float = 1.0,
) -> Float[Tensor, " n"]:
    """One term a sample, whose mean is `drauc_loss`; the objective of the ascent on the inputs.

    >>> margin_auc_terms(torch.tensor([0.75, 0.25]), torch.tensor([1, 0]), 0.75, 0.25, 0.5)
    tensor([-0.7500,  1.2500])
    """
    positive = target == 1
    square = torch.where(positive, scores - a, scores - b).square()
    pull = 2 * alpha * torch.where(positive, -scores, scores)
    return class_weights(scores, positive) * (square + pull) + 2 * alpha * margin - k * alpha * alpha


def drauc_loss(
    scores: Float[Tensor, " n"],
    target: BinaryTarget,
    a: Scalar,
    b: Scalar,
    alpha: Scalar,
    *,
    margin: float = 1.0,
    k: float = 1.0,
) -> Float[Tensor, ""]:
    """The margin form of the min-max AUC loss: minimised over scores, a and b, maximised over α ≥ 0.

    Args:
        scores: (n,) in [0, 1].
        target: (n,) in {0, 1}.
        a: where the positives should be.
        b: where the negatives should be.
        alpha: the dual variable.
        margin: m ≥ 0, by how much the mean of the positives should be ahead.
        k: concavity in α; with 1 the maximum over α is the squared hinge of the gap of the means.

    Returns:
        The loss; zero, still attached to the graph, when one class is absent (warned once). Means divide by the number
        of samples of a class (the authors' code leaves out residuals that are exactly zero).

    Raises:
        ValueError: if a score is outside [0, 1], a target neither 0 nor 1, the margin negative or k not positive.

    >>> drauc_loss(torch.tensor([0.75, 0.25]), torch.tensor([1, 0]), 0.75, 0.25, 0.5)
    tensor(0.2500)
    """
    check_binary(scores, target)
    check_probabilities("scores", scores)
    check_nonnegative("margin", margin)
    check_positive("k", k)
    pos, neg = scores[target == 1], scores[target == 0]
    warn_of_one_class(pos, neg, "the robust AUC loss")
    if not (pos.shape[0] and neg.shape[0]):
        return scores.sum() * 0
    return margin_auc_terms(scores, target, a, b, alpha, margin=margin, k=k).mean()


class DRAUCLoss(SaddleLoss):
    """`drauc_loss` as a module that owns a, b and α.

    Args:
        margin: as in `drauc_loss`.
        k: as in `drauc_loss`.
        alpha_rule: "gradient" ascends in α with the optimizer; "closed_form" sets α = max(0, m + mean₋ f − mean₊ f)/k
            of the batch in training mode.
        from_logits: apply the sigmoid.

    >>> from equipoise.core.saddle import descent_ascent
    >>> generator = torch.Generator().manual_seed(0)
    >>> x, y = torch.rand(200, 2, generator=generator), torch.arange(200) < 20
    >>> x = (x + 0.3 * y[:, None]).clamp(0, 1)
    >>> model, loss, ball = torch.nn.Linear(2, 1), DRAUCLoss(), WassersteinPerturbation(eps=0.05, steps=3, lr=0.1)
    >>> optimizer = descent_ascent(torch.optim.SGD, model, loss, lr=0.5, dual_lr=0.1)
    >>> for _ in range(40):
    ...     delta = ball(model, x, y, loss.terms, generator)
    ...     optimizer.zero_grad()
    ...     value = loss(model(x + delta).squeeze(1), y)
    ...     value.backward()
    ...     optimizer.step()
    >>> bool(loss.a > loss.b), float(ball.lambda_pos) != 1.0
    (True, True)
    """

    def __init__(
        self, margin: float = 1.0, k: float = 1.0, alpha_rule: str = "gradient", from_logits: bool = True
    ) -> None:
        super().__init__()
        check_nonnegative("margin", margin)
        check_positive("k", k)
        check_choice("alpha_rule", alpha_rule, ALPHA_RULES)
        self.margin, self.k, self.alpha_rule, self.from_logits = margin, k, alpha_rule, from_logits
        self.a, self.b = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))
        self.alpha = nn.Parameter(torch.tensor(0.0), requires_grad=alpha_rule == "gradient")

    def min_parameters(self) -> tuple[nn.Parameter, ...]:
        """a and b."""
        return (self.a, self.b)

    def max_parameters(self) -> tuple[nn.Parameter, ...]:
        """α."""
        return (self.alpha,)

    def bounds(self) -> Mapping[nn.Parameter, Box]:
        """a and b in [0, 1], α ≥ 0."""
        return {self.a: (0.0, 1.0), self.b: (0.0, 1.0), self.alpha: (0.0, torch.inf)}

    @torch.no_grad()
    def initialize(self, scores: Tensor, target: Tensor) -> None:
        """Set a, b and α to the saddle point for these scores."""
        probability = scores.sigmoid() if self.from_logits else scores
        self.a.copy_(probability[target == 1].mean())
        self.b.copy_(probability[target == 0].mean())
        self.alpha.copy_((self.margin + self.b - self.a).clamp_min(0) / self.k)

    def terms(self, scores: Float[Tensor, " n"], target: BinaryTarget) -> Float[Tensor, " n"]:
        """One term a sample, for an ascent on the inputs, at the present a, b and α."""
        probability = scores.sigmoid() if self.from_logits else scores
        return margin_auc_terms(probability, target, self.a, self.b, self.alpha, margin=self.margin, k=self.k)

    def forward(self, scores: Float[Tensor, " n"], target: BinaryTarget) -> Float[Tensor, ""]:
        """The loss of scores (n,) by targets (n,)."""
        check_binary(scores, target)
        probability = scores.sigmoid() if self.from_logits else scores
        if self.alpha_rule == "closed_form" and self.training and 0 < int(target.sum()) < len(target):
            with torch.no_grad():
                gap = probability[target == 0].mean() - probability[target == 1].mean()
                self.alpha.copy_((self.margin + gap).clamp_min(0) / self.k)
        return drauc_loss(probability, target, self.a, self.b, self.alpha, margin=self.margin, k=self.k)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"margin={self.margin}, k={self.k}, alpha_rule={self.alpha_rule}"


def class_budgets(eps: float, prior: float, k: float = 1.0) -> ClassBudgets:
    """Budgets of the classes, ε₊ = k ε and ε₋ = ε (1 − p k)/(1 − p), which average to ε over the data.

    Raises:
        ValueError: if ε or k is not positive, the prior not in (0, 1), or p k at least 1.

    >>> class_budgets(0.5, prior=0.1, k=1.5)
    ClassBudgets(eps_pos=0.75, eps_neg=0.4722222222222222)
    """
    check_positive("eps", eps)
    check_fraction("prior", prior, one=False)
    check_positive("k", k)
    if prior * k >= 1:
        raise ValueError(f"k={k:g} leaves the negatives no budget at prior={prior:g}; it must be below {1 / prior:g}")
    return ClassBudgets(k * eps, eps * (1 - prior * k) / (1 - prior))


def transport_cost(delta: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Squared Euclidean length of every change.

    >>> transport_cost(torch.tensor([[3.0, 4.0]]))
    tensor([25.])
    """
    return delta.flatten(1).square().sum(1)


def dual_step(multiplier: Scalar, budget: float, mean_cost: Scalar, lr: float) -> Tensor:
    """λ ← max(0, λ − lr (budget − cost)): a cost above the budget makes transport dearer.

    >>> dual_step(1.0, budget=0.5, mean_cost=1.0, lr=0.5)
    tensor(1.2500)
    """
    check_positive("lr", lr)
    return torch.as_tensor(multiplier - lr * (budget - mean_cost)).clamp_min(0)


def wasserstein_ascent(
    model: Model,
    inputs: Tensor,
    target: BinaryTarget,
    objective: Terms,
    multiplier: Float[Tensor, " n"],
    start: Tensor,
    *,
    steps: int,
    lr: float,
    norm: str = "l2",
    bounds: Bounds = (0.0, 1.0),
    radius: float | None = None,
    normalize: bool = True,
    select: str = "last",
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
        radius: largest change in the norm; any if absent, the penalty being the constraint.
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
        return objective(output.squeeze(1) if output.ndim == 2 and output.shape[1] == 1 else output, target)

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

    Called once a batch, it returns the changes and adds their cost; every `lambda_period` batches λ takes a dual step.
    λ and the costs since are buffers, so that a run resumes where it was.

    Args:
        eps: budget: mean squared Euclidean length of the changes.
        mode: "free" for one ball, "aware" for one a class.
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
        project: keep every change within √ε (or √ε₊, √ε₋) in the norm.
        select: "last" or "best", see `wasserstein_ascent`.

    Raises:
        ValueError: if a setting is out of range, or `mode="aware"` lacks a prior or has no budget for the negatives.
    """

    lambda_pos: Tensor
    lambda_neg: Tensor
    costs: Tensor
    batches: Tensor

    def __init__(
        self,
        eps: float,
        mode: str = "free",
        prior: float | None = None,
        k: float = 1.0,
        steps: int = 10,
        lr: float = 15 / 255,
        norm: str = "l2",
        bounds: Bounds = (0.0, 1.0),
        lambda_init: float = 1.0,
        lambda_lr: float = 0.02,
        lambda_period: int = 10,
        lambda_min: float = 0.0,
        project: bool = False,
        select: str = "last",
    ) -> None:
        super().__init__()
        check_positive("eps", eps)
        check_choice("mode", mode, MODES)
        check_choice("norm", norm, NORMS)
        check_choice("select", select, SELECTIONS)
        for name, value in (("lr", lr), ("lambda_lr", lambda_lr)):
            check_positive(name, value)
        check_nonnegative("lambda_min", lambda_min)
        check_nonnegative("lambda_init", lambda_init)
        if steps < 1 or lambda_period < 1:
            raise ValueError(f"steps={steps} and lambda_period={lambda_period} must both be at least 1")
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

    def forward(
        self,
        model: Model,
        inputs: Tensor,
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
            ValueError: if inputs are not finite or outside their bounds.
        """
        check_inputs(inputs, self.bounds)
        positive = target == 1
        if bool(positive.all()) or not bool(positive.any()):
            return torch.zeros_like(inputs)
        multiplier = torch.where(positive, self.lambda_pos, self.lambda_neg).to(inputs.dtype)
        radius = max(self.budgets) ** 0.5
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
