"""Sharpness-aware steps for groups of classes: one optimizer of which SAM and its long-tail relatives are settings.

    L_g(θ) = 1/B Σ_i W[y_i, g] ℓ_i(θ)          e_g = ρ_g ∇L_g(θ) / ‖∇L_g(θ)‖
    G = Σ_g ∇L_g(θ + e_g),   then one step of any optimizer from θ with gradient G

W is a (class × group) matrix of weights, ρ_g the radius of a group. One group with weight 1 is SAM; head and tail with
radius 0 for the head is ImbSAM; a plain and a focal share of every sample is Focal-SAM. All clean gradients are taken
before any weight moves, groups without radius share one backward pass, a group that a batch lacks costs nothing, and
every weight is restored from a copy, also where a closure raises. Perturbed passes leave batch-norm statistics alone,
unless told otherwise.

Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2021; adaptive radii: Kwon et
al., "ASAM", 2021. The form over groups is reconstructed, and checked against four authors' steps.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from equipoise.core.distributed import world_size
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
from equipoise.core.types import NonNegative
from equipoise.core.validate import check_nonnegative

Closure = Callable[[], Any]
"""Returns (losses (B,), class indices (B,)); for one group losses (B,) alone, or PyTorch's closure with a scalar."""
Gradients = list[Tensor]

# Key of the groups without radius, which share one gradient.
_STILL = -1


class GroupSAM(Optimizer):
    """A sharpness-aware wrapper around any optimizer.

    Args:
        params: parameters or parameter groups, as for the base optimizer. A group may have its own `rho` and
            `adaptive`.
        base_optimizer: its class, such as `torch.optim.SGD`.
        rho: one radius per group of classes, at least 0.
        group_weights: (C, groups) W; None for one group that holds every sample with weight 1.
        adaptive: perturb by θ² ∇L / ‖ |θ| ∇L ‖ rather than by ∇L / ‖∇L‖.
        norm: whose norm divides the gradient in the perturbation: that of all parameter groups together ("all"), or of
            each by itself ("per_group"), so that each moves as far as its own `rho`.
        bn_stats: running statistics of batch norm count the clean pass ("first"), or the perturbed ones too ("both", as
            in the authors' code).
        sync: under torch.distributed, perturb by the gradient of all processes ("global"), by each one's own and
            average at the end ("local"), or leave processes alone ("none").
        skip_nonfinite: warn and leave out a step whose loss or gradient is NaN or infinite, rather than raise.
        same_dropout: draw the same random numbers in the perturbed passes as in the clean one.
        base_options: of the base optimizer.

    Learning-rate schedulers work on this optimizer: its parameter groups and its state are those of the base.

    Raises:
        ValueError: if the number of radii is not that of the groups, or the base optimizer has a setting `rho` or
            needs a closure itself.

    >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    >>> sam = GroupSAM([weight], torch.optim.SGD, rho=[0.1], lr=0.5)
    >>> loss = sam.step(lambda: (weight**2).sum()[None])
    >>> weight.data
    tensor([-0.0707, -0.0707], dtype=torch.float64)
    """

    @checked
    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer],
        rho: NonNegative | Sequence[NonNegative],
        group_weights: Float[Tensor, "classes groups"] | None = None,
        *,
        adaptive: bool = False,
        norm: Literal["all", "per_group"] = "all",
        bn_stats: Literal["first", "both"] = "first",
        sync: Literal["global", "local", "none"] = "global",
        skip_nonfinite: bool = False,
        same_dropout: bool = False,
        **base_options: Any,
    ) -> None:
        self.group_weights = None if group_weights is None else group_weights.detach().clone()
        self.norm, self.bn_stats = norm, bn_stats
        self.sync, self.skip_nonfinite, self.same_dropout = sync, skip_nonfinite, same_dropout
        own = {"rho": rho, "adaptive": adaptive}
        super().__init__(params, own)
        self.base = base_optimizer(self.param_groups, **base_options)
        if any(p.default is p.empty for p in inspect.signature(self.base.step).parameters.values()):
            raise ValueError(f"{base_optimizer.__name__} needs a closure itself; choose another base_optimizer")
        if "rho" in self.base.defaults:
            raise ValueError(f"{base_optimizer.__name__} has a setting rho itself; choose another base_optimizer")
        self.defaults = self.base.defaults | own
        self._link()

    def _link(self) -> None:
        self.base.__setstate__({"state": self.state, "param_groups": self.param_groups})

    def __getstate__(self) -> dict[str, Any]:
        # What begins with an underscore are hooks, and schedulers replace `step`.
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_") and name != "step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        self._link()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, with its own `rho` and `adaptive` or those of the others."""
        self.radii(param_group.get("rho", self.defaults["rho"]))
        super().add_param_group(param_group)

    @property
    def num_groups(self) -> int:
        """How many groups of classes there are."""
        return 1 if self.group_weights is None else self.group_weights.shape[1]

    @property
    def rho(self) -> list[float]:
        """One radius per group of classes, for the first group of parameters."""
        return self.radii(self.param_groups[0]["rho"])

    def radii(self, rho: Any) -> list[float]:
        """One radius per group of classes, of what a parameter group says as `rho`.

        Raises:
            ValueError: if there are too many or too few, or one is negative or not finite.
        """
        radii = [float(r) for r in (rho if isinstance(rho, Sequence) else [rho])]
        if len(radii) != self.num_groups:
            raise ValueError(f"rho has {len(radii)} radii for {self.num_groups} groups")
        for radius in radii:
            check_nonnegative("rho", radius)
        return radii

    def step(  # type: ignore[override]
        self, closure: Closure | Sequence[Closure] | None = None, scaler: torch.amp.GradScaler | None = None
    ) -> Tensor:
        """One step.

        Args:
            closure: computes the losses at the weights as they are, without calling backward, and returns them with
                the class of every sample: (losses (B,), target (B,)). Several closures are the parts of one large
                batch (gradient accumulation). With one group, also losses alone, or PyTorch's kind of closure, which
                calls backward and returns a scalar, as Lightning passes it.
            scaler: of losses in half precision. Losses are scaled before every backward pass and gradients unscaled
                before the perturbation; where a gradient overflows, the step is skipped and the scale lowered, as
                usual. The scaler is updated here: call neither its `step` nor its `update`.

        Gradients are cleared before every pass. Parameters that no loss depends on keep the gradient None.

        Returns:
            The mean loss at the weights before the step, without graph; NaN, with a warning and no step, where the
            closure returned None, as Lightning's does for a batch that is to be skipped.

        Raises:
            RuntimeError: without a closure; if gradients of an earlier backward were there, which PyTorch's kind of
                closure added to: whether they were meant to count cannot be told.
            ValueError: if a closure returns something else, or all parameters are frozen; no weight has moved then.
            FloatingPointError: if a loss or gradient is not finite and there is no scaler; every weight is as before.
            NotImplementedError: on sparse gradients.
        """
        if closure is None:
            raise RuntimeError("a sharpness-aware step needs a closure: it computes the losses more than once")
        self._prepare()
        weights = _Weights.of(self)
        if not weights.params:
            raise ValueError("no parameter of this optimizer requires a gradient")
        passes = _Passes([closure] if callable(closure) else list(closure), weights, self.same_dropout)
        try:
            with RunningStatistics() as statistics:
                loss = self._step(passes, weights, scaler, statistics)
        except NotFiniteError as error:
            self.zero_grad()
            return error.left_out(self.skip_nonfinite)
        mark_spent(self._owned())
        return loss

    def _prepare(self) -> None:
        """What a subclass looks at before a step."""

    def _owned(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _step(
        self,
        passes: _Passes,
        weights: _Weights,
        scaler: torch.amp.GradScaler | None,
        statistics: RunningStatistics,
    ) -> Tensor:
        pending = clear_gradients(self._owned())
        first = passes.run(0)
        touched = [k for k, p in enumerate(weights.params) if p.grad is not pending.get(p)]
        if isinstance(first, Tensor) and first.ndim == 0:
            if scaler is not None:
                raise ValueError("a scaler needs a closure that returns losses of shape (B,) and calls no backward")
            if self.group_weights is not None:
                raise ValueError("the closure returned a scalar; groups need one loss per sample: reduction='none'")
            refuse_added(pending)
            if len(passes.closures) > 1 or not touched:
                raise ValueError("a closure that returns a scalar must be alone and call backward; or return losses")
            return self._plain_step(passes, first.detach(), weights.kept(touched))
        if touched:
            raise ValueError("a closure that calls backward must return a scalar; one that returns losses must not")
        if first is None:
            raise NoLossError
        clear_gradients(self._owned())
        # Asked in this way, a new scaler sets itself up.
        scale = 1.0 if scaler is None else float(scaler.scale(torch.ones((), device=weights.params[0].device)))
        moving = {g: [g] for g in range(self.num_groups) if weights.moves(g)}
        still = [g for g in range(self.num_groups) if g not in moving]
        groups = moving | ({_STILL: still} if still else {})
        clean, loss, seen = self._gradients(passes, groups, weights.params, scale, first)
        result = clean.pop(_STILL, None) or [torch.zeros_like(p) for p in weights.params]
        losses = [loss]
        for g, gradients in clean.items():
            with weights.moved(g, gradients) as moved:
                if moved:
                    again, perturbed, also = self._gradients(passes, {g: [g]}, weights.params, scale)
                    gradients = again.get(g, gradients)
                    losses.append(perturbed)
                    seen = seen | also
            torch._foreach_add_(result, gradients)
        if self.sync == "local" and world_size() > 1:
            _all_reduce(result)
            torch._foreach_div_(result, world_size())
        finite = all_finite([*losses, *result], everywhere=self.sync != "none")
        if not finite and scaler is None:
            raise NotFiniteError(loss)
        for p, gradient, used in zip(weights.params, result, seen.tolist(), strict=True):
            p.grad = None if not used else gradient * (scale if finite else torch.inf) if scaler else gradient
        if scaler is None:
            self.base.step()
            return loss
        if not finite:
            statistics.restore()
        # It unscales again, and steps only where every gradient is finite.
        scaler.step(self.base)
        scaler.update()
        return loss

    def _plain_step(self, passes: _Passes, loss: Tensor, weights: _Weights) -> Tensor:
        """SAM with PyTorch's closure, which was called once and has left its gradients on the parameters."""
        losses = [loss]
        with weights.moved(0, [p.grad.detach().clone() for p in weights.params if p.grad is not None]) as moved:
            if moved:
                clear_gradients(self._owned())
                losses.append(passes.run(0).detach())
        gradients = [p.grad for p in weights.params if p.grad is not None]
        if not all_finite([*losses, *gradients], everywhere=self.sync != "none"):
            raise NotFiniteError(loss)
        self.base.step()
        return loss

    def _gradients(
        self, passes: _Passes, groups: dict[int, list[int]], params: list[Tensor], scale: float, first: Any = None
    ) -> tuple[dict[int, Gradients], Tensor, Tensor]:
        """Per key of `groups` the gradient of its columns' share of the mean loss; the mean loss; which were seen."""
        held: dict[int, Gradients] = {}
        seen = torch.zeros(len(params), dtype=torch.bool)
        count, total = 0, torch.zeros((), device=params[0].device)
        for part in range(len(passes.closures)):
            losses, weights = self._read(passes.run(part) if part or first is None else first)
            count, total = count + len(losses), total + losses.detach().sum()
            parts = {key: weights[:, columns].sum(1) for key, columns in groups.items()}
            live = {key: weight for key, weight in parts.items() if bool((weight != 0).any())}
            for left, (key, weight) in enumerate(live.items(), 1):
                found = torch.autograd.grad(
                    losses, params, weight * scale, retain_graph=left < len(live), allow_unused=True
                )
                _check_dense(found)
                seen |= torch.tensor([gradient is not None for gradient in found])
                # Parameters that are added to each other have one gradient, and a sum's is one number: copy both.
                dense = [torch.zeros_like(p) if g is None else g.clone() for p, g in zip(params, found, strict=True)]
                if key in held:
                    torch._foreach_add_(held[key], dense)
                else:
                    held[key] = dense
        whole = torch.stack([torch.full_like(total, count), total, *seen.to(total)])
        if self.sync == "global" and world_size() > 1:
            # A process may lack a group that another has, and all must take part.
            for key in groups:
                held.setdefault(key, [torch.zeros_like(p) for p in params])
                _all_reduce(held[key])
            _all_reduce([whole])
        for gradients in held.values():
            torch._foreach_div_(gradients, float(whole[0]) * scale)
        return held, whole[1] / whole[0], whole[2:].cpu() > 0

    def _read(self, found: Any) -> tuple[Tensor, Tensor]:
        """Losses and the weights of their samples in every group."""
        losses, target = found if isinstance(found, tuple) else (found, None)
        if not isinstance(losses, Tensor) or losses.ndim != 1 or not len(losses):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"a closure must return losses of shape (B,), B >= 1: use reduction='none'; got {got}")
        if not losses.requires_grad:
            raise ValueError("the closure's losses have no graph; return them undetached and without no_grad")
        if self.group_weights is None:
            return losses, torch.ones_like(losses)[:, None]
        if target is None or target.shape != losses.shape or target.is_floating_point():
            shape = None if target is None else tuple(target.shape)
            raise ValueError(f"the closure must return class indices of shape {tuple(losses.shape)} too, got {shape}")
        classes = len(self.group_weights)
        target = target.long()
        if not 0 <= int(target.min()) <= int(target.max()) < classes:
            raise ValueError(f"the closure's target must hold classes from 0 to {classes - 1}")
        return losses, self.group_weights.to(losses)[target]


class _Weights:
    """Parameters that take part in a step, and how far each may move.

    Attributes:
        params: the parameters.
        radii: per parameter one radius per group of classes, below 0 where the base optimizer maximises.
        adaptive: per parameter, whether it moves in proportion to its square.
        parts: per parameter, which of them share a norm.
        bn_stats: as in `GroupSAM`.
    """

    def __init__(self, rows: list[tuple[Tensor, list[float], bool, int]], bn_stats: str) -> None:
        self.rows, self.bn_stats = rows, bn_stats
        self.params = [p for p, _, _, _ in rows]
        self.radii = [radii for _, radii, _, _ in rows]
        self.adaptive = [adaptive for _, _, adaptive, _ in rows]
        self.parts = [part for _, _, _, part in rows]

    @classmethod
    def of(cls, optimizer: GroupSAM) -> _Weights:
        """Those that an optimizer moves."""
        rows = []
        for place, group in enumerate(optimizer.param_groups):
            part = place if optimizer.norm == "per_group" else 0
            sign = -1 if group.get("maximize") else 1
            radii = [sign * radius for radius in optimizer.radii(group["rho"])]
            rows += [(p, radii, group["adaptive"], part) for p in group["params"] if p.requires_grad]
        return cls(rows, optimizer.bn_stats)

    def kept(self, places: list[int]) -> _Weights:
        """Those at some places."""
        return _Weights([self.rows[k] for k in places], self.bn_stats)

    def moves(self, g: int) -> bool:
        """Whether a group of classes has a radius."""
        return any(radii[g] for radii in self.radii)

    @contextmanager
    def moved(self, g: int, gradients: Gradients) -> Iterator[bool]:
        """The weights at θ + e if that is another place, and θ to the last bit afterwards.

        Batch-norm statistics of every module that runs meanwhile are as before too, unless all passes count.
        """
        _check_dense(gradients)
        sizes = [
            gradient * p.detach().abs() if adaptive else gradient
            for p, gradient, adaptive in zip(self.params, gradients, self.adaptive, strict=True)
        ]
        norms = {
            part: _norm([size for size, other in zip(sizes, self.parts, strict=True) if other == part])
            for part in dict.fromkeys(self.parts)
        }
        if not (self.moves(g) and any(norms.values()) and all(math.isfinite(norm) for norm in norms.values())):
            yield False
            return
        steps = [
            (size * p.detach().abs() if adaptive else size) * (radii[g] / (norms[part] or 1.0))
            for p, size, adaptive, radii, part in zip(
                self.params, sizes, self.adaptive, self.radii, self.parts, strict=True
            )
        ]
        with kept_weights(self.params), RunningStatistics() as statistics:
            with torch.no_grad():
                torch._foreach_add_(self.params, steps)
            torch.clear_autocast_cache()
            yield True
            if self.bn_stats == "first":
                statistics.restore()


class _Passes:
    """The closures of the parts of a batch; where asked, the later passes of a part see the first one's dropout."""

    def __init__(self, closures: list[Closure], weights: _Weights, same_dropout: bool) -> None:
        self.closures, self.same_dropout, self.params = closures, same_dropout, weights.params
        self.states: dict[int, RandomState | None] = {}

    @torch.enable_grad()
    def run(self, part: int) -> Any:
        """What the closure of a part returns."""
        if part not in self.states:
            self.states[part] = RandomState(self.params) if self.same_dropout else None
            return self.closures[part]()
        state = self.states[part]
        with nullcontext() if state is None else state.again():
            found = self.closures[part]()
        if found is None:
            raise NoLossError
        return found


def _norm(tensors: list[Tensor]) -> float:
    """Of all of them as one vector."""
    norm = float(torch.stack(list(torch._foreach_norm(tensors))).norm())
    if norm in (0.0, torch.inf):
        # Squares leave float32 at gradients of 1e-23 and 1e19, and float16 much sooner.
        norm = float(torch.stack([tensor.abs().double().norm() for tensor in tensors]).norm())
    return norm


def _check_dense(gradients: Sequence[Tensor | None]) -> None:
    if any(gradient is not None and gradient.is_sparse for gradient in gradients):
        raise NotImplementedError("sparse gradients cannot be perturbed; use dense embeddings")


def _all_reduce(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        dist.all_reduce(tensor)
