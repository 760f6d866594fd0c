"""Solvers of saddle problems that do more than PyTorch's optimizers: with variance reduction, and stage by stage.

`AcceleratedDescentAscent` (Huang et al., "Accelerated Zeroth-Order and First-Order Momentum Methods from Mini to
Minimax Optimization", JMLR 2022, as used by Shao et al., NeurIPS 2022, Algorithm 1), with τ all minimised and γ all
maximised variables, Π the projection onto their boxes, and gradients g of one batch at two points:

    η_t = k / (m + t)^(1/3)
    τ_{t+1} = (1 − η) τ_t + η Π(τ_t − ν v_t)              γ_{t+1} = (1 − η) γ_t + η Π(γ_t + λ w_t)
    v_{t+1} = g_τ(t + 1) + (1 − c₁ η²)(v_t − g_τ(t))      w_{t+1} = g_γ(t + 1) + (1 − c₂ η²)(w_t − g_γ(t))

`ProximalDescentAscent` (the proximal epoch stochastic method for AUC margin losses, Yuan et al., ICCV 2021): clipped
gradients, and a pull towards the mean of the previous stage's iterates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equipoise.core.signature import checked
from equipoise.core.solvers.closures import (
    NoLossError,
    NotFiniteError,
    RandomState,
    RunningStatistics,
    all_finite,
    clear_gradients,
    kept_weights,
    mark_spent,
    refuse_added,
)
from equipoise.core.solvers.saddle import NETWORK, Box, clamp_, parameter_groups, saddle_losses
from equipoise.core.types import NonNegative, Positive, ProperFraction

Closure = Callable[[], Tensor]


class _DescentAscent(Optimizer):
    """What both solvers keep beside PyTorch's state: the modules, whose boxes are read at every step."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        defaults: dict[str, Any],
        modules: tuple[nn.Module, ...],
        skip_nonfinite: bool,
    ) -> None:
        super().__init__(groups, defaults)
        self._modules, self.skip_nonfinite = modules, skip_nonfinite

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_modules": self._modules, "skip_nonfinite": self.skip_nonfinite}

    def _owned(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


class AcceleratedDescentAscent(_DescentAscent):
    """Stochastic descent-ascent with variance-reduced gradient estimates (ASGDA).

    `step` takes a closure that computes the loss of the *current* batch, calls `backward` and returns the loss. It is
    called twice, before and after the move, with the same random numbers and gradients cleared; running statistics of
    batch norm count the batch once, at the new point. The estimates start at the first gradient (our choice: the paper
    starts them at zero, which delays the start by some twenty steps).

    A variable with sparse gradients, such as one value a training sample, moves only in the rows of the batch.

    Args:
        modules: the network and the loss, or a module that holds both.
        lr: ν, of what is minimised, and λ, of what is maximised.
        dual_lr: ν or λ of the losses' own variables, one for all or by name; `lr` where not given.
        k: η₀ = k / m^(1/3), the weight of a move, which must be at most 1.
        m: how slowly η falls, in steps.
        c1: speed at which old gradients of what is minimised are forgotten.
        c2: the same of what is maximised.
        weight_decay: L2 penalty on the network only.
        skip_nonfinite: warn and leave out a step whose loss or gradient is NaN or infinite, rather than raise.

    Raises:
        ValueError: if a step size, k, m, c1 or c2 is not above 0, η₀ is above 1, or a loss does not declare a variable.

    >>> x, y = torch.randn(80, 3, generator=torch.Generator().manual_seed(0)), torch.arange(80) < 20
    >>> model = nn.Linear(3, 1)
    >>> optimizer = AcceleratedDescentAscent(model, lr=0.5, m=8)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y.float())
    ...     loss.backward()
    ...     return loss
    >>> losses = [optimizer.step(closure).item() for _ in range(20)]
    >>> losses[-1] < losses[0]
    True
    """

    @checked
    def __init__(
        self,
        *modules: nn.Module,
        lr: Positive = 0.02,
        dual_lr: float | Mapping[str, float] | None = None,
        k: Positive = 1.0,
        m: Positive = 500.0,
        c1: Positive = 3.0,
        c2: Positive = 3.0,
        weight_decay: NonNegative = 0.0,
        skip_nonfinite: bool = False,
    ) -> None:
        if k / m ** (1 / 3) > 1:
            raise ValueError(f"k / m^(1/3) = {k / m ** (1 / 3):.3g}, but eta_0 must be <= 1; raise m or lower k")
        groups = parameter_groups(*modules, lr=lr, dual_lr=dual_lr, weight_decay=weight_decay)
        for group in groups:
            group["forgetting"] = c2 if group["maximize"] else c1
        super().__init__(groups, {"lr": lr, "k": k, "m": m, "steps": 0}, modules, skip_nonfinite)

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Move once.

        Returns:
            The loss at the old point; NaN, with a warning and no step, where the closure returned None.

        Raises:
            TypeError: without a closure.
            RuntimeError: if gradients of an earlier backward were there, which the closure added to.
            FloatingPointError: if the loss or its gradient is not finite, at either point; nothing has changed then.
        """
        if closure is None:
            raise TypeError("this solver needs step(closure): the loss is computed before and after the move")
        params = self._owned()
        try:
            with kept_weights(params, only_on_error=True), RunningStatistics() as statistics:
                loss = self._step(closure, params, statistics)
        except NotFiniteError as error:
            self.zero_grad()
            return error.left_out(self.skip_nonfinite)
        mark_spent(params)
        return loss

    def _step(self, closure: Closure, params: list[Tensor], statistics: RunningStatistics) -> Tensor:
        random_state = RandomState(params)
        pending = clear_gradients(params)
        with torch.enable_grad():
            loss = closure()
        refuse_added(pending)
        statistics.restore()
        before = self._gradients(loss)
        with torch.no_grad():
            self._move(before)
        torch.clear_autocast_cache()
        clear_gradients(params)
        with torch.enable_grad(), random_state.again():
            again = closure()
        after = self._gradients(loss, again)
        with torch.no_grad():
            for group in self.param_groups:
                share = 1 - min(1.0, group["forgetting"] * _eta(group) ** 2)
                for parameter in (p for p in group["params"] if p in before and p in after):
                    self._estimate(parameter, before[parameter], after[parameter], share)
                group["steps"] += 1
        return loss

    def _gradients(self, *losses: Tensor) -> dict[nn.Parameter, Tensor]:
        found = {}
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                gradient = parameter.grad.detach()
                if gradient.is_sparse:
                    found[parameter] = gradient.coalesce().clone()
                else:
                    found[parameter] = gradient.add(parameter.detach(), alpha=group["weight_decay"])
        if any(loss is None for loss in losses):
            raise NoLossError
        if not all_finite([*losses, *found.values()]):
            raise NotFiniteError(losses[0])
        return found

    def _past(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """The estimate, of the rows of a sparse gradient; where there is none yet, the gradient itself."""
        state = self.state.get(parameter, {})
        if not gradient.is_sparse:
            return state.get("estimate", gradient)
        rows, values = gradient.indices()[0], gradient.values()
        if not state:
            return values
        # `load_state_dict` casts to the parameter's dtype.
        seen = state["seen"][rows].bool().view(-1, *[1] * (values.ndim - 1))
        return torch.where(seen, state["estimate"][rows], values)

    def _move(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        losses = list(saddle_losses(*self._modules))
        # The boxes of what is maximised may depend on what is minimised, which therefore moves first.
        for ascends in (False, True):
            boxes: dict[nn.Parameter, Box] = {p: box for loss in losses for p, box in loss.bounds().items()}
            for group in (g for g in self.param_groups if g["maximize"] == ascends):
                eta, rate = _eta(group), group["lr"] if ascends else -group["lr"]
                for parameter in (p for p in group["params"] if p in gradients):
                    box, sparse = boxes.get(parameter), gradients[parameter].is_sparse
                    rows = gradients[parameter].indices()[0] if sparse else ...
                    wanted = parameter[rows] + rate * self._past(parameter, gradients[parameter])
                    parameter[rows] = parameter[rows].lerp(wanted if box is None else clamp_(wanted, box), eta)
        for loss in losses:
            loss.project_()

    def _estimate(self, parameter: nn.Parameter, before: Tensor, after: Tensor, share: float) -> None:
        past, state = self._past(parameter, before), self.state[parameter]
        if not after.is_sparse:
            state["estimate"] = after + share * (past - before)
            return
        if not state:
            state["estimate"] = torch.zeros_like(parameter)
            state["seen"] = torch.zeros(len(parameter), dtype=torch.bool, device=parameter.device)
        rows = after.indices()[0]
        state["estimate"][rows] = after.values() + share * (past - before.values())
        state["seen"][rows] = True


class ProximalDescentAscent(_DescentAscent):
    """Descent-ascent with clipped gradients and a pull towards a reference point, renewed at every stage.

        d = clip(g, −clip, clip) + epoch_decay (w − w_ref) + weight_decay w       (the last two for the network only)
        buf = momentum buf + (1 − momentum) d         w ← Π(w ∓ lr buf)

    w_ref begins at the first weights; `update_reference`, called where a stage ends and the step size is lowered, sets
    it to the mean of the stage's iterates. The published code weighs the new direction by 0.9, which is `momentum=0.1`
    here.

    Args:
        modules: the network and the loss, or a module that holds both.
        lr: step size of the network.
        dual_lr: step size of the losses' own variables, one for all or by name; `lr` where not given.
        momentum: weight of the past directions, in [0, 1).
        weight_decay: of the network only.
        epoch_decay: strength of the pull towards the reference point; 0 switches it off.
        clip: largest absolute value of a gradient's entry.
        skip_nonfinite: as in `AcceleratedDescentAscent`.

    Raises:
        ValueError: if a setting is out of range, or a loss does not declare a variable.

    >>> model = nn.Linear(3, 1)
    >>> optimizer = ProximalDescentAscent(model, lr=0.1)
    >>> model(torch.ones(4, 3)).square().mean().backward()
    >>> optimizer.step()
    >>> optimizer.update_reference()
    """

    @checked
    def __init__(
        self,
        *modules: nn.Module,
        lr: Positive = 0.1,
        dual_lr: float | Mapping[str, float] | None = None,
        momentum: ProperFraction = 0.1,
        weight_decay: NonNegative = 0.0,
        epoch_decay: NonNegative = 2e-3,
        clip: Positive = 1.0,
        skip_nonfinite: bool = False,
    ) -> None:
        groups = parameter_groups(*modules, lr=lr, dual_lr=dual_lr, weight_decay=weight_decay)
        for group in groups:
            group["epoch_decay"] = epoch_decay if group["role"] == NETWORK else 0.0
        defaults = {"lr": lr, "momentum": momentum, "clip": clip, "iterates": 0}
        super().__init__(groups, defaults, modules, skip_nonfinite)
        for parameter in (p for group in self.param_groups if group["epoch_decay"] for p in group["params"]):
            self.state[parameter]["reference"] = parameter.detach().clone()
            self.state[parameter]["sum"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """Move once, by the gradients that are there or those of the closure.

        Returns:
            The closure's loss, or None.

        Raises:
            FloatingPointError: if the loss or its gradient is not finite; no weight has moved then.
            NotImplementedError: on sparse gradients.
        """
        try:
            with RunningStatistics():
                loss = self._loss(closure)
        except NotFiniteError as error:
            self.zero_grad()
            return error.left_out(self.skip_nonfinite)
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                direction = parameter.grad.clamp(-group["clip"], group["clip"])
                if group["epoch_decay"]:
                    direction.add_(parameter - state["reference"], alpha=group["epoch_decay"])
                direction.add_(parameter, alpha=group["weight_decay"])
                if group["momentum"]:
                    past = state.setdefault("direction", direction.clone())
                    direction = past.lerp_(direction, 1 - group["momentum"])
                parameter.add_(direction, alpha=group["lr"] if group["maximize"] else -group["lr"])
            for parameter in group["params"] if group["epoch_decay"] else ():
                self.state[parameter]["sum"].add_(parameter)
            group["iterates"] += 1
        for saddle in saddle_losses(*self._modules):
            saddle.project_()
        return loss

    def _loss(self, closure: Closure | None) -> Tensor | None:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        gradients = [p.grad for p in self._owned() if p.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise NotImplementedError("sparse gradients cannot be clipped here; use AcceleratedDescentAscent")
        if gradients and not all_finite(gradients if loss is None else [loss, *gradients]):
            raise NotFiniteError(loss)
        return loss

    @torch.no_grad()
    def update_reference(self) -> None:
        """End a stage: the mean of its iterates becomes the reference point."""
        for group in (g for g in self.param_groups if g["epoch_decay"] and g["iterates"]):
            for parameter in group["params"]:
                state = self.state[parameter]
                state["reference"] = state["sum"] / group["iterates"]
                state["sum"].zero_()
            group["iterates"] = 0


def _eta(group: Mapping[str, Any]) -> float:
    return float(group["k"] / (group["m"] + group["steps"]) ** (1 / 3))
