"""Saddle problems: a loss with variables of its own, some minimised with the network and some maximised against it.

    min over network and `min_parameters`   max over `max_parameters`   of  loss(scores, target)

A loss derives from `SaddleLoss` and declares which of its variables is which and in what box it lives. Everything that
moves them reads the declaration, so that no ascent is forgotten, no box is left, and weight decay touches the network
only. Any PyTorch optimizer becomes a solver by `descent_ascent`; `core.solvers.saddle_solvers` has two more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Positive
from equipoise.core.validate import check_positive

Box = tuple[float | Tensor, float | Tensor]
NETWORK = "the network"
OptimizerT = TypeVar("OptimizerT", bound=Optimizer)


class SaddleLoss(nn.Module):
    """A loss that is minimised over some of its parameters and maximised over others.

    Subclasses say which by `min_parameters`, `max_parameters` and `bounds`; parameters not named are an error where a
    solver is made. They are ordinary parameters otherwise: in `state_dict`, moved by `.to()`, with the true gradient.
    """

    def min_parameters(self) -> Sequence[nn.Parameter]:
        """Parameters of the loss that are minimised."""
        return ()

    def max_parameters(self) -> Sequence[nn.Parameter]:
        """Parameters of the loss that are maximised."""
        return ()

    def bounds(self) -> Mapping[nn.Parameter, Box]:
        """The box (lowest, highest) of a parameter, at the present values of the others; one not named is free.

        A bound of a maximised parameter may depend on minimised ones, which are projected first.
        """
        return {}

    def initialize(self, scores: Tensor, target: Tensor) -> None:
        """Set the variables to the saddle point for these scores, where there is a closed form.

        Raises:
            TypeError: if the loss has none.
        """
        raise TypeError(f"{type(self).__name__} has no closed-form saddle point; it starts from its own values")

    @torch.no_grad()
    def project_(self) -> None:
        """Put every variable into its box, the minimised ones first."""
        for parameters in (self.min_parameters(), self.max_parameters()):
            box = self.bounds()
            for parameter in parameters:
                if parameter in box:
                    clamp_(parameter, box[parameter])


class WarmStarted(nn.Module):
    """A saddle loss whose variables begin at the saddle point of the first training batch that it sees.

    Whether that was is in the state dict, so that a resumed run does not start them again.

    Args:
        loss: has a closed form, see `SaddleLoss.initialize`.
    """

    started: Tensor

    def __init__(self, loss: SaddleLoss) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("started", torch.tensor(False))

    def forward(self, logits: Float[Tensor, " n"], target: Int[Tensor, " n"] | Bool[Tensor, " n"]) -> Float[Tensor, ""]:
        """The loss, after the start where it is due; a batch of one class cannot be started from."""
        if self.training and not self.started and 0 < int(target.sum()) < len(target):
            self.loss.initialize(logits.detach(), target)
            self.started.fill_(True)
        loss: Tensor = self.loss(logits, target)
        return loss


class Variable(NamedTuple):
    """A parameter that a solver moves.

    Attributes:
        name: as `named_parameters` gives it.
        parameter: what is moved.
        loss: the saddle loss it belongs to; None for the network.
        ascends: whether it is maximised.
    """

    name: str
    parameter: nn.Parameter
    loss: SaddleLoss | None
    ascends: bool


def clamp_(tensor: Tensor, box: Box) -> Tensor:
    """Clamp into a box in place.

    Raises:
        ValueError: if its lowest value is above its highest.
    """
    low, high = (torch.as_tensor(bound, dtype=tensor.dtype, device=tensor.device) for bound in box)
    if bool((low > high).any()):
        raise ValueError(f"the lower bound {low.max().item():g} is above the upper bound {high.min().item():g}")
    return tensor.clamp_(min=low, max=high)


def saddle_losses(*modules: nn.Module) -> Iterator[SaddleLoss]:
    """Every saddle loss in the modules, once.

    >>> list(saddle_losses(nn.Linear(2, 1)))
    []
    """
    seen: set[int] = set()
    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, SaddleLoss) and id(part) not in seen:
            seen.add(id(part))
            yield part


def variables(*modules: nn.Module) -> list[Variable]:
    """Every parameter that requires a gradient, with its role; the network's before the losses' own.

    Raises:
        ValueError: if a loss declares a parameter twice, or has one that it does not declare.
    """
    found: dict[int, Variable] = {}
    for loss in saddle_losses(*modules):
        low, high = ({id(p) for p in side} for side in (loss.min_parameters(), loss.max_parameters()))
        for name, parameter in loss.named_parameters(recurse=False):
            if (id(parameter) in low) == (id(parameter) in high):
                what = "both minimised and maximised" if id(parameter) in low else "neither minimised nor maximised"
                raise ValueError(f"{type(loss).__name__} declares its parameter {name!r} {what}; it must be one")
            found[id(parameter)] = Variable(name, parameter, loss, id(parameter) in high)
    network = {
        id(parameter): Variable(name, parameter, None, False)
        for module in modules
        for name, parameter in module.named_parameters()
        if id(parameter) not in found
    }
    return [v for v in [*network.values(), *found.values()] if v.parameter.requires_grad]


@checked
def parameter_groups(
    *modules: nn.Module,
    lr: Positive,
    dual_lr: float | Mapping[str, float] | None = None,
    weight_decay: NonNegative = 0.0,
) -> list[dict[str, Any]]:
    """Parameter groups for a PyTorch optimizer, made from what the losses declare.

    Args:
        modules: the network, the loss, or modules that hold them.
        lr: step size of the network.
        dual_lr: step size of the losses' own variables, one for all or by name; `lr` where not given.
        weight_decay: of the network; the losses' own variables have none.

    Returns:
        One group for the network and one for each variable of a loss, with `maximize=True` where it ascends. "role" is
        `NETWORK` or the variable's name.

    Raises:
        ValueError: if a loss declares a parameter twice or not at all, `dual_lr` names one that is not there, or
            there is nothing to move.

    >>> [group["params"][0].shape for group in parameter_groups(nn.Linear(3, 1), lr=0.1)]
    [torch.Size([1, 3])]
    """
    found = variables(*modules)
    if not found:
        raise ValueError("the modules have no parameter that requires a gradient; pass the network and the loss")
    network = [v.parameter for v in found if v.loss is None]
    duals = [v for v in found if v.loss is not None]
    groups: list[dict[str, Any]] = []
    if network:
        groups.append({"params": network, "lr": lr, "weight_decay": weight_decay, "maximize": False, "role": NETWORK})
    for v, rate in zip(duals, _dual_rates(duals, lr, dual_lr), strict=True):
        groups.append({"params": [v.parameter], "lr": rate, "weight_decay": 0.0, "maximize": v.ascends, "role": v.name})
    return groups


def _dual_rates(duals: Sequence[Variable], lr: float, dual_lr: float | Mapping[str, float] | None) -> list[float]:
    if not isinstance(dual_lr, Mapping):
        rate = lr if dual_lr is None else dual_lr
        check_positive("dual_lr", rate)
        return [rate] * len(duals)
    unknown = sorted(set(dual_lr) - {v.name for v in duals})
    if unknown:
        known = ", ".join(repr(name) for name in dict.fromkeys(v.name for v in duals)) or "none"
        raise ValueError(f"dual_lr names {unknown[0]!r}, which no loss declares; the declared variables are {known}")
    for name, rate in dual_lr.items():
        check_positive(f"dual_lr[{name!r}]", rate)
    return [dual_lr.get(v.name, lr) for v in duals]


def descent_ascent(
    optimizer: type[OptimizerT],
    *modules: nn.Module,
    lr: float,
    dual_lr: float | Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    **options: Any,
) -> OptimizerT:
    """A PyTorch optimizer that descends, ascends and projects as the losses declare.

    Use it as any other: `zero_grad`, `backward`, `step`, `state_dict`, schedulers, Lightning's `configure_optimizers`.
    A copy or pickle holds the losses that it projects; copy them and the network with it, in one go.

    Args:
        optimizer: a class whose groups know `maximize`, such as `torch.optim.SGD`, `Adam` or `AdamW`.
        modules: the network and the loss, or a module that holds both.
        lr: step size of the network.
        dual_lr: step size of the losses' own variables, one for all or by name; `lr` where not given.
        weight_decay: of the network only.
        options: further arguments of the optimizer.

    Returns:
        An instance of a subclass of `optimizer`.

    Raises:
        ValueError: as `parameter_groups`; if the optimizer cannot ascend.

    >>> class Bilinear(SaddleLoss):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.dual = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.5))
    ...     def min_parameters(self): return [self.a]
    ...     def max_parameters(self): return [self.dual]
    ...     def bounds(self): return {self.dual: (0.0, 1.0)}
    ...     def forward(self): return (self.a - 2) ** 2 + self.dual * (self.a - 1)
    >>> loss = Bilinear()
    >>> optimizer = descent_ascent(torch.optim.SGD, loss, lr=0.1)
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     loss().backward()
    ...     optimizer.step()
    >>> round(loss.a.item(), 3), loss.dual.item()
    (1.5, 1.0)
    """
    groups = parameter_groups(*modules, lr=lr, dual_lr=dual_lr, weight_decay=weight_decay)
    made = _projecting(optimizer)(groups, lr=lr, **options)  # type: ignore[call-arg]
    if "maximize" not in made.defaults and any(group["maximize"] for group in groups):
        raise ValueError(
            f"{optimizer.__name__} cannot ascend; use one whose groups know `maximize`, such as SGD or Adam"
        )
    made.project_after_steps(list(saddle_losses(*modules)))
    return made  # type: ignore[return-value]


class _Projecting(Optimizer):
    """Projects losses after every step, and so do its copies and pickles: PyTorch leaves hooks out of those."""

    def project_after_steps(self, losses: list[SaddleLoss]) -> None:
        self._projected = losses

        def project(*_: object) -> None:
            for loss in losses:
                loss.project_()

        self.register_step_post_hook(project)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is made as needed, and pickles find classes by their names.
        return _unborn, (type(self).__mro__[2],), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_projected": self._projected}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.project_after_steps(self._projected)


_CLASSES: dict[type[Optimizer], type[_Projecting]] = {}


def _projecting(optimizer: type[Optimizer]) -> type[_Projecting]:
    if optimizer not in _CLASSES:
        names = {name: getattr(optimizer, name) for name in ("__module__", "__qualname__", "__doc__")}
        _CLASSES[optimizer] = type(optimizer.__name__, (_Projecting, optimizer), names)
    return _CLASSES[optimizer]


def _unborn(optimizer: type[Optimizer]) -> _Projecting:
    return _Projecting.__new__(_projecting(optimizer))
