"""Sharpness-aware steps for groups of classes: one optimizer of which SAM and its long-tail relatives are settings.

    L_g(θ) = 1/B Σ_i W[y_i, g] ℓ_i(θ)          e_g = ρ_g ∇L_g(θ) / ‖∇L_g(θ)‖
    G = Σ_g ∇L_g(θ + e_g),   then one step of any optimizer from θ with gradient G

W is a (class × group) matrix of weights, ρ_g the radius of a group. One group with weight 1 is SAM; head and tail with
radius 0 for the head is ImbSAM; a plain and a focal share of every sample is Focal-SAM. All clean gradients are taken
before any weight moves, groups without radius share one backward pass, a group that a batch lacks costs nothing, and
every weight is restored from a copy, also where a closure raises.

Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2021; adaptive radii: Kwon et
al., "ASAM", 2021 [memory]. The form over groups is inferred; it was checked against four authors' steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from equipoise.core.distributed import world_size
from equipoise.core.validate import check_choice, check_nonnegative

SYNC = ("global", "local", "none")

Closure = Callable[[], Any]
"""Returns (losses (B,), class indices (B,)); for one group losses (B,) alone, or PyTorch's closure with a scalar."""
Gradients = list[Tensor]


class GroupSAM(Optimizer):
    """A sharpness-aware wrapper around any optimizer.

    Args:
        params: parameters or parameter groups, as for the base optimizer.
        base_optimizer: its class, such as `torch.optim.SGD`.
        rho: radius of every group, at least 0.
        group_weights: (C, groups) W; None for one group that holds every sample with weight 1.
        adaptive: perturb by θ² ∇L / ‖ |θ| ∇L ‖ rather than by ∇L / ‖∇L‖.
        model: whose batch-norm statistics count the clean pass only; without it they count every pass.
        sync: under torch.distributed, perturb by the gradient of all processes ("global"), by each one's own and
            average at the end ("local"), or leave processes alone ("none").
        base_options: of the base optimizer.

    Learning-rate schedulers work on this optimizer: its parameter groups and its state are those of the base.

    Raises:
        ValueError: if a radius or a weight is not finite, a radius is negative, or shapes do not fit.

    >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    >>> sam = GroupSAM([weight], torch.optim.SGD, rho=[0.1], lr=0.5)
    >>> loss = sam.step(lambda: (weight**2).sum()[None])
    >>> weight.data
    tensor([-0.0707, -0.0707], dtype=torch.float64)
    """

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer],
        rho: Sequence[float],
        group_weights: Float[Tensor, "classes groups"] | None = None,
        *,
        adaptive: bool = False,
        model: nn.Module | None = None,
        sync: str = "global",
        **base_options: Any,
    ) -> None:
        check_choice("sync", sync, SYNC)
        self.adaptive, self.sync, self.group_weights = adaptive, sync, None
        if group_weights is not None:
            if group_weights.ndim != 2 or not bool(group_weights.isfinite().all()):
                raise ValueError(
                    f"group_weights must be finite of shape (classes, groups), got {tuple(group_weights.shape)}"
                )
            self.group_weights = group_weights.detach().clone()
        self.set_rho(rho)
        super().__init__(params, {})
        self.base = base_optimizer(self.param_groups, **base_options)
        self.defaults = self.base.defaults
        self._link()
        self._normed = [] if model is None else [m for m in model.modules() if isinstance(m, _BatchNorm)]

    def _link(self) -> None:
        self.base.param_groups, self.base.state = self.param_groups, self.state

    @property
    def num_groups(self) -> int:
        """How many groups of classes there are."""
        return 1 if self.group_weights is None else self.group_weights.shape[1]

    def set_rho(self, rho: Sequence[float]) -> None:
        """Set the radii, one a group.

        Raises:
            ValueError: if there are too many or too few, or one is negative or not finite.
        """
        radii = [float(r) for r in rho]
        if len(radii) != self.num_groups:
            raise ValueError(f"rho has {len(radii)} radii for {self.num_groups} groups")
        for radius in radii:
            check_nonnegative("rho", radius)
        self.rho = radii

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave: the state of the base optimizer and the parameter groups."""
        super().load_state_dict(state_dict)
        self._link()

    def step(  # type: ignore[override]
        self, closure: Closure | Sequence[Closure] | None = None, scaler: torch.amp.GradScaler | None = None
    ) -> Tensor:
        """One step.

        Args:
            closure: computes the losses at the weights as they are, without calling backward, and returns them with
                the class of every sample: (losses (B,), target (B,)). Several closures are the parts of one large
                batch (gradient accumulation). With one group, also losses alone, or PyTorch's kind of closure, which
                clears gradients, calls backward and returns a scalar, as Lightning passes it.
            scaler: of losses in half precision. Losses are scaled before every backward pass and gradients unscaled
                before the perturbation; where a gradient overflows, the step is skipped and the scale lowered, as
                usual. The scaler is updated here: call neither its `step` nor its `update`.

        Returns:
            The mean loss at the weights before the step, without graph.

        Raises:
            RuntimeError: without a closure.
            ValueError: if a closure returns something else; no weight has moved then.
            FloatingPointError: if a gradient is not finite and there is no scaler; every weight is as before.
            NotImplementedError: on sparse gradients.
        """
        if closure is None:
            raise RuntimeError("a sharpness-aware step needs a closure: it computes the losses more than once")
        closures = [closure] if callable(closure) else list(closure)
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        with torch.enable_grad():
            first = closures[0]()
        if isinstance(first, Tensor) and first.ndim == 0:
            if scaler is not None:
                raise ValueError("a scaler needs a closure that returns losses of shape (B,) and calls no backward")
            return self._plain_step(closures, first, params)
        # Asked in this way, a new scaler sets itself up.
        scale = 1.0 if scaler is None else float(scaler.scale(torch.ones((), device=params[0].device)))
        moving = {g: [g] for g, radius in enumerate(self.rho) if radius > 0}
        still = [g for g, radius in enumerate(self.rho) if radius == 0]
        clean, loss = self._gradients(closures, moving | ({_STILL: still} if still else {}), params, scale, first)
        result = clean.pop(_STILL, None) or [torch.zeros_like(p) for p in params]
        for g, gradients in clean.items():
            norm = self._norm(gradients, params)
            if not bool(norm.isfinite()) and scaler is None:
                raise FloatingPointError(f"the gradient of group {g} is not finite; nothing was changed")
            if bool(norm.isfinite()) and bool(norm > 0):
                with self._moved(gradients, norm, self.rho[g], params):
                    gradients = self._gradients(closures, {g: [g]}, params, scale)[0].get(g, gradients)
            torch._foreach_add_(result, gradients)
        if self.sync == "local" and world_size() > 1:
            _all_reduce(result)
            torch._foreach_div_(result, world_size())
        if scaler is None and not all(bool(gradient.isfinite().all()) for gradient in result):
            raise FloatingPointError("the gradient at the perturbed weights is not finite; nothing was changed")
        for p, gradient in zip(params, result, strict=True):
            p.grad = gradient if scaler is None else gradient * scale
        if scaler is None:
            self.base.step()
        else:
            # It unscales again, and steps only where every gradient is finite.
            scaler.step(self.base)
            scaler.update()
        return loss

    def _plain_step(self, closures: list[Closure], loss: Tensor, params: list[Tensor]) -> Tensor:
        """SAM with PyTorch's closure, which was called once and has left its gradients on the parameters."""
        if self.group_weights is not None:
            raise ValueError("the closure returned a scalar; groups need one loss a sample: use reduction='none'")
        if len(closures) > 1 or all(p.grad is None for p in params):
            raise ValueError("a closure that returns a scalar must be alone and call backward; or return (B,) losses")
        held = [p for p in params if p.grad is not None]
        gradients = [p.grad.detach().clone() for p in held if p.grad is not None]
        norm = self._norm(gradients, held)
        if not bool(norm.isfinite()):
            raise FloatingPointError("the gradient is not finite; nothing was changed")
        if self.rho[0] > 0 and bool(norm > 0):
            with self._moved(gradients, norm, self.rho[0], held), torch.enable_grad():
                closures[0]()
        self.base.step()
        return loss.detach()

    def _gradients(
        self,
        closures: list[Closure],
        groups: dict[int, list[int]],
        params: list[Tensor],
        scale: float = 1.0,
        first: Any = None,
    ) -> tuple[dict[int, Gradients], Tensor]:
        """Of every key of `groups` the gradient of its columns' share of the mean loss, and the mean loss."""
        held: dict[int, Gradients] = {}
        count, total = 0, torch.zeros((), device=params[0].device)
        for k, closure in enumerate(closures):
            if k or first is None:
                with torch.enable_grad():
                    first = closure()
            losses, weights = self._read(first)
            count, total = count + len(losses), total + losses.detach().sum()
            parts = {key: weights[:, columns].sum(1) for key, columns in groups.items()}
            live = {key: weight for key, weight in parts.items() if bool((weight != 0).any())}
            for left, (key, weight) in enumerate(live.items(), 1):
                found = torch.autograd.grad(
                    losses, params, weight * scale, retain_graph=left < len(live), allow_unused=True
                )
                dense = [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]
                if any(g.is_sparse for g in dense):
                    raise NotImplementedError("sparse gradients cannot be perturbed; use dense embeddings")
                if key in held:
                    torch._foreach_add_(held[key], dense)
                else:
                    held[key] = dense
        whole = torch.tensor(float(count), device=params[0].device)
        if self.sync == "global" and world_size() > 1:
            # A process may lack a group that another has, and all must take part.
            for key in groups:
                held.setdefault(key, [torch.zeros_like(p) for p in params])
                _all_reduce(held[key])
            _all_reduce([whole])
        for gradients in held.values():
            torch._foreach_div_(gradients, float(whole) * scale)
        return held, total / count

    def _read(self, found: Any) -> tuple[Tensor, Tensor]:
        """Losses and the weights of their samples in every group."""
        losses, target = found if isinstance(found, tuple) else (found, None)
        if not isinstance(losses, Tensor) or losses.ndim != 1 or not len(losses):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"a closure must return losses of shape (B,), B >= 1: use reduction='none'; got {got}")
        if self.group_weights is None:
            return losses, torch.ones_like(losses)[:, None]
        if target is None or target.shape != losses.shape or target.is_floating_point():
            shape = None if target is None else tuple(target.shape)
            raise ValueError(f"the closure must return class indices of shape {tuple(losses.shape)} too, got {shape}")
        classes = len(self.group_weights)
        if not 0 <= int(target.min()) <= int(target.max()) < classes:
            raise ValueError(f"the closure's target must hold classes from 0 to {classes - 1}")
        return losses, self.group_weights.to(losses)[target]

    @contextmanager
    def _moved(self, gradients: Gradients, norm: Tensor, radius: float, params: list[Tensor]) -> Iterator[None]:
        """The weights at θ + e, and θ to the last bit afterwards; batch-norm statistics as they were before."""
        saved = [p.detach().clone() for p in params]
        buffers = [buffer for module in self._normed for buffer in module.buffers()]
        statistics = [buffer.clone() for buffer in buffers]
        steps = gradients
        if self.adaptive:
            steps = [g * p.detach().square() for g, p in zip(gradients, params, strict=True)]
        try:
            with torch.no_grad():
                torch._foreach_add_(params, torch._foreach_mul(steps, float(radius / norm)))
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, saved)
                for buffer, value in zip(buffers, statistics, strict=True):
                    buffer.copy_(value)

    def _norm(self, gradients: Gradients, params: list[Tensor]) -> Tensor:
        if self.adaptive:
            gradients = [g * p.detach().abs() for g, p in zip(gradients, params, strict=True)]
        return torch.stack(list(torch._foreach_norm(gradients))).norm()


# Key of the groups without radius, which share one gradient.
_STILL = -1


def _all_reduce(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        dist.all_reduce(tensor)
