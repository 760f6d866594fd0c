"""Sharpness-aware steps for groups of classes: one optimizer of which SAM and its long-tail relatives are settings.

    L_g(θ) = 1/B Σ_i W[y_i, g] ℓ_i(θ)          e_g = ρ_g ∇L_g(θ) / ‖∇L_g(θ)‖
    G = Σ_g ∇L_g(θ + e_g),   then one step of any optimizer from θ with gradient G

W is a (class × group) matrix of weights, ρ_g the radius of a group. One group with weight 1 is SAM; head and tail with
radius 0 for the head is ImbSAM; a plain and a focal share of every sample is Focal-SAM. All clean gradients are taken
before any weight moves, groups without radius share one backward pass, a group that a batch lacks costs nothing, and
every weight is restored from a copy, also where a closure raises. Perturbed passes leave batch-norm statistics alone.

Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2021; adaptive radii: Kwon et
al., "ASAM", 2021. The form over groups is reconstructed, and checked against four authors' steps.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer

from equipoise.core.distributed import world_size
from equipoise.core.signature import checked
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
            `adaptive`; the norm in the perturbation is that of all groups together.
        base_optimizer: its class, such as `torch.optim.SGD`.
        rho: one radius per group of classes, at least 0.
        group_weights: (C, groups) W; None for one group that holds every sample with weight 1.
        adaptive: perturb by θ² ∇L / ‖ |θ| ∇L ‖ rather than by ∇L / ‖∇L‖.
        sync: under torch.distributed, perturb by the gradient of all processes ("global"), by each one's own and
            average at the end ("local"), or leave processes alone ("none").
        skip_nonfinite: warn and leave out a step whose loss or gradient is NaN or infinite, rather than raise.
        same_dropout: draw the same random numbers in the perturbed passes as in the clean one.
        base_options: of the base optimizer.

    Learning-rate schedulers work on this optimizer: its parameter groups and its state are those of the base.

    Raises:
        ValueError: if the number of radii is not that of the groups, or the base optimizer has a setting `rho` itself.

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
        sync: Literal["global", "local", "none"] = "global",
        skip_nonfinite: bool = False,
        same_dropout: bool = False,
        **base_options: Any,
    ) -> None:
        self.group_weights = None if group_weights is None else group_weights.detach().clone()
        self.sync, self.skip_nonfinite, self.same_dropout = sync, skip_nonfinite, same_dropout
        own = {"rho": rho, "adaptive": adaptive}
        super().__init__(params, own)
        self.base = base_optimizer(self.param_groups, **base_options)
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
            The mean loss at the weights before the step, without graph.

        Raises:
            RuntimeError: without a closure; if gradients of an earlier backward were there, which PyTorch's kind of
                closure added to: whether they were meant to count cannot be told.
            ValueError: if a closure returns something else; no weight has moved then.
            FloatingPointError: if a loss or gradient is not finite and there is no scaler; every weight is as before.
            NotImplementedError: on sparse gradients.
        """
        if closure is None:
            raise RuntimeError("a sharpness-aware step needs a closure: it computes the losses more than once")
        self._prepare()
        weights = _Weights.of(self)
        passes = _Passes([closure] if callable(closure) else list(closure), weights, self.same_dropout)
        pending = self._clear_gradients()
        first = passes.run(0)
        touched = [k for k, p in enumerate(weights.params) if p.grad is not pending.get(p)]
        if isinstance(first, Tensor) and first.ndim == 0:
            if scaler is not None:
                raise ValueError("a scaler needs a closure that returns losses of shape (B,) and calls no backward")
            if self.group_weights is not None:
                raise ValueError("the closure returned a scalar; groups need one loss per sample: reduction='none'")
            if any(p.grad is held and bool((held != 0).any()) for p, held in pending.items()):
                raise RuntimeError(
                    "there were gradients before the step, and the closure added its own to them. Call zero_grad "
                    "first in the closure; to accumulate over several batches (Lightning's accumulate_grad_batches), "
                    "pass the list of their closures, each of which returns losses of shape (B,)"
                )
            if len(passes.closures) > 1 or not touched:
                raise ValueError("a closure that returns a scalar must be alone and call backward; or return losses")
            return self._plain_step(passes, first, weights.kept(touched))
        if touched:
            raise ValueError("a closure that calls backward must return a scalar; one that returns losses must not")
        self._clear_gradients()
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
        finite = self._finite(losses, result)
        if not finite and scaler is None:
            return self._refused(loss)
        for p, gradient, used in zip(weights.params, result, seen.tolist(), strict=True):
            p.grad = None if not used else gradient * (scale if finite else torch.inf) if scaler else gradient
        if scaler is None:
            self.base.step()
        else:
            # It unscales again, and steps only where every gradient is finite.
            scaler.step(self.base)
            scaler.update()
        self._mark_spent()
        return loss

    def _prepare(self) -> None:
        """What a subclass looks at before a step."""

    def _plain_step(self, passes: _Passes, loss: Tensor, weights: _Weights) -> Tensor:
        """SAM with PyTorch's closure, which was called once and has left its gradients on the parameters."""
        losses = [loss.detach()]
        with weights.moved(0, [p.grad.detach().clone() for p in weights.params if p.grad is not None]) as moved:
            if moved:
                self._clear_gradients()
                losses.append(passes.run(0).detach())
        if not self._finite(losses, [p.grad for p in weights.params if p.grad is not None]):
            return self._refused(losses[0])
        self.base.step()
        self._mark_spent()
        return losses[0]

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
                dense = [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]
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

    def _clear_gradients(self) -> dict[Tensor, Tensor]:
        """Clear all gradients; those that no step of ours has left are pending, and get a zero of their own."""
        pending = {}
        for p in (p for group in self.param_groups for p in group["params"]):
            gradient, p.grad = p.grad, None
            if gradient is None or getattr(gradient, _SPENT, None) == gradient._version or not p.requires_grad:
                continue
            _check_dense([gradient])
            if bool((gradient != 0).any()):
                pending[p] = p.grad = torch.zeros_like(gradient)
        return pending

    def _mark_spent(self) -> None:
        """Mark the gradients of this step, so that the next one knows them unless something is added."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    setattr(p.grad, _SPENT, p.grad._version)

    def _finite(self, losses: list[Tensor], gradients: Gradients) -> bool:
        """Whether everything is finite, on all processes."""
        bad = torch.zeros((), device=losses[0].device)
        for tensor in (*losses, *gradients):
            bad += (~tensor.isfinite()).any().to(bad)
        if self.sync != "none" and world_size() > 1:
            _all_reduce([bad])
        return not bool(bad)

    def _refused(self, loss: Tensor) -> Tensor:
        self.zero_grad()
        message = "the loss or its gradient is NaN or infinite"
        if not self.skip_nonfinite:
            raise FloatingPointError(f"{message}; nothing was changed. skip_nonfinite=True leaves such steps out")
        warnings.warn(f"{message}; this step is left out", UserWarning, stacklevel=3)
        return loss


_SPENT = "_spent_at_version"


class _Weights:
    """Parameters that take part in a step, and how far each may move.

    Attributes:
        params: the parameters.
        radii: per parameter one radius per group of classes.
        adaptive: per parameter, whether it moves in proportion to its square.
    """

    def __init__(self, rows: list[tuple[Tensor, list[float], bool]]) -> None:
        self.rows = rows
        self.params = [p for p, _, _ in rows]
        self.radii = [radii for _, radii, _ in rows]
        self.adaptive = [adaptive for _, _, adaptive in rows]

    @classmethod
    def of(cls, optimizer: GroupSAM) -> _Weights:
        """Those that an optimizer moves."""
        groups = [
            (group["params"], optimizer.radii(group["rho"]), group["adaptive"]) for group in optimizer.param_groups
        ]
        return cls([(p, radii, adaptive) for params, radii, adaptive in groups for p in params if p.requires_grad])

    def kept(self, places: list[int]) -> _Weights:
        """Those at some places."""
        return _Weights([self.rows[k] for k in places])

    def moves(self, g: int) -> bool:
        """Whether a group of classes has a radius."""
        return any(radii[g] > 0 for radii in self.radii)

    @contextmanager
    def moved(self, g: int, gradients: Gradients) -> Iterator[bool]:
        """The weights at θ + e if that is another place, and θ to the last bit afterwards.

        Batch-norm statistics of every module that runs meanwhile are as before too.
        """
        _check_dense(gradients)
        sizes = [
            gradient * p.detach().abs() if adaptive else gradient
            for p, gradient, adaptive in zip(self.params, gradients, self.adaptive, strict=True)
        ]
        norm = float(torch.stack(list(torch._foreach_norm(sizes))).norm())
        if not (self.moves(g) and 0 < norm < torch.inf):
            yield False
            return
        steps = [
            (size * p.detach().abs() if adaptive else size) * (radii[g] / norm)
            for p, size, adaptive, radii in zip(self.params, sizes, self.adaptive, self.radii, strict=True)
        ]
        saved = [p.detach().clone() for p in self.params]
        try:
            with torch.no_grad():
                torch._foreach_add_(self.params, steps)
            with _kept_statistics():
                yield True
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.params, saved)


class _Passes:
    """The closures of the parts of a batch; where asked, the later passes of a part see the first one's dropout."""

    def __init__(self, closures: list[Closure], weights: _Weights, same_dropout: bool) -> None:
        self.closures, self.same_dropout = closures, same_dropout
        self.devices = sorted({p.device.index for p in weights.params if p.device.type == "cuda"})
        self.states: dict[int, list[Tensor]] = {}

    def run(self, part: int) -> Any:
        """What the closure of a part returns."""
        with torch.enable_grad():
            if not self.same_dropout:
                return self.closures[part]()
            if part not in self.states:
                self.states[part] = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in self.devices)]
                return self.closures[part]()
            with torch.random.fork_rng(self.devices):
                torch.set_rng_state(self.states[part][0])
                for device, state in zip(self.devices, self.states[part][1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
                return self.closures[part]()


@contextmanager
def _kept_statistics() -> Iterator[None]:
    """Restore the running statistics of every normalisation that is run by this thread meanwhile."""
    known: set[nn.Module] = set()
    saved: list[tuple[Tensor, Tensor]] = []
    thread = threading.get_ident()

    def remember(module: nn.Module, inputs: Any) -> None:
        if module in known or threading.get_ident() != thread:
            return
        for part in module.modules():
            if part not in known and isinstance(part, _NormBase):
                saved.extend((buffer, buffer.clone()) for buffer in part.buffers(recurse=False))
            known.add(part)

    hook = register_module_forward_pre_hook(remember)
    try:
        yield
    finally:
        hook.remove()
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


def _check_dense(gradients: Sequence[Tensor | None]) -> None:
    if any(gradient is not None and gradient.is_sparse for gradient in gradients):
        raise NotImplementedError("sparse gradients cannot be perturbed; use dense embeddings")


def _all_reduce(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        dist.all_reduce(tensor)
