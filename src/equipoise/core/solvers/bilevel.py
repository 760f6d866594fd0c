r"""Bilevel problems by unrolled descent: an outer loss judges parameters after steps of descent on an inner loss.

    θ₀ = θ,  θ_{k+1} = θ_k − α ∇_θ L_in(θ_k, φ)            J(θ, φ) = L_out(θ_K, φ) + μ/K Σ_k L_in(θ_k, φ)

    K = 1:   ∂J/∂θ = g − α H g + μ ∇_θ L_in        ∂J/∂φ = ∇_φ L_out(θ₁, φ) − α C g + μ ∇_φ L_in
             g = ∇_θ L_out(θ₁, φ),  H = ∂²L_in/∂θ²,  C = ∂²L_in/∂φ∂θ

Only products of H and C with a vector are computed, by differentiating through the steps; first order leaves them out.
The parameters after the steps are tensors of their own, so that those of the model stay as they are until an optimizer
moves them.

To first order in α, J ≈ L_out − α ⟨∇L_out, ∇L_in⟩: descent prefers parameters whose gradients on two samples agree.

Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017; the variant
"bilevel" after Liu, Simonyan and Yang, "DARTS", ICLR 2019. Written from the derivatives above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Scalar
from equipoise.core.validate import check_finite

Parameters = dict[str, Tensor]
Point: TypeAlias = Float[Tensor, "..."] | Mapping[str, Tensor]
"""A tensor, or several by name."""
Variant: TypeAlias = Literal["meta", "bilevel"]
Selection: TypeAlias = Callable[[str], bool] | Sequence[str]
LossOfModel = Callable[[nn.Module, Any], Tensor]
"""(model, batch) → scalar."""


class Hypergradient(NamedTuple):
    """An outer loss after one inner step, and its gradients.

    Attributes:
        theta_prime: inner parameters after the step.
        inner_loss: scalar, before the step.
        outer_loss: scalar, after it.
        theta: gradient of the outer loss with respect to the inner parameters before the step.
        phi: with respect to the outer parameters.
    """

    theta_prime: Any
    inner_loss: Tensor
    outer_loss: Tensor
    theta: Any
    phi: Any


class Unrolled(NamedTuple):
    """Parameters after some steps of gradient descent.

    Attributes:
        parameters: after the last step.
        losses: scalars, before each step.
        gradients: with respect to the parameters, of each step.
    """

    parameters: Parameters
    losses: list[Tensor]
    gradients: list[Parameters]


@checked
def one_step_hypergradient(
    inner_loss: Callable[[Any, Any], Tensor],
    outer_loss: Callable[[Any, Any], Tensor],
    theta: Point,
    phi: Point,
    inner_lr: NonNegative,
    first_order: bool = False,
) -> Hypergradient:
    """The outer loss after one step on the inner loss, differentiated through the step.

    Args:
        inner_loss: (theta, phi) → scalar, twice differentiable.
        outer_loss: (theta, phi) → scalar.
        theta: inner parameters, a tensor or tensors by name.
        phi: outer parameters, likewise.
        inner_lr: α, the length of the step.
        first_order: take the inner gradient as a constant.

    Returns:
        Values and gradients, in the form of the parameters, detached.

    Raises:
        ValueError: on parameters that are not finite, or a loss that is no scalar.

    >>> found = one_step_hypergradient(
    ...     lambda theta, phi: ((theta - phi) ** 2).sum() / 2,
    ...     lambda theta, phi: (theta**2).sum() / 2,
    ...     torch.tensor([2.0]),
    ...     torch.tensor([1.0]),
    ...     inner_lr=0.5,
    ... )
    >>> found.theta_prime, found.theta, found.phi
    (tensor([1.5000]), tensor([0.7500]), tensor([0.7500]))
    """
    with torch.inference_mode(False), torch.enable_grad():
        inner, outer = _leaves("theta", theta), _leaves("phi", phi)
        held = _unnamed(outer, phi)
        steps = unrolled_descent(
            lambda moved: inner_loss(_unnamed(moved, theta), held), inner, inner_lr, first_order=first_order
        )
        value = _scalar("outer_loss", outer_loss(_unnamed(steps.parameters, theta), held))
        by_theta = _gradients(value, inner, retain_graph=True)
        by_phi = _gradients(value, outer)
    return Hypergradient(
        _unnamed({key: t.detach() for key, t in steps.parameters.items()}, theta),
        steps.losses[0].detach(),
        value.detach(),
        _unnamed(by_theta, theta),
        _unnamed(by_phi, phi),
    )


def unrolled_descent(
    loss: Callable[[Parameters], Tensor],
    parameters: Parameters,
    lr: float,
    *,
    steps: int = 1,
    first_order: bool = False,
    keep_losses: bool = False,
) -> Unrolled:
    """Steps of gradient descent that can be differentiated.

    Args:
        loss: parameters → scalar.
        parameters: where it begins, attached to the graph; not changed.
        lr: length of a step.
        steps: how many.
        first_order: take the gradients as constants.
        keep_losses: leave the losses attached to the graph also under `first_order`.

    Raises:
        ValueError: if the loss is no scalar.

    >>> start = {"x": torch.tensor(4.0, requires_grad=True)}
    >>> unrolled_descent(lambda p: p["x"] ** 2 / 2, start, 0.5, steps=2).parameters["x"]
    tensor(1., grad_fn=<SubBackward0>)
    """
    losses, gradients = [], []
    with torch.enable_grad():
        for _ in range(steps):
            value = _scalar("the inner loss", loss(parameters))
            found = _gradients(value, parameters, create_graph=not first_order, retain_graph=keep_losses)
            parameters = {name: p - lr * found[name] for name, p in parameters.items()}
            losses.append(value if keep_losses or not first_order else value.detach())
            gradients.append(found)
    return Unrolled(parameters, losses, gradients)


class MetaWrapper:
    r"""Gradients of a model by unrolled descent: parameters are judged on one part of a batch after steps on another.

    `step` does what `loss.backward()` does elsewhere: it fills `.grad`, and any optimizer moves the parameters then.

    Args:
        model: any module.
        inner_params: which of its parameters θ the inner steps move: the names of submodules and parameters, or a
            function of a parameter's name. The rest are outer parameters φ.
        inner_lr: α, the length of an inner step.
        inner_steps: K.
        mu: μ, weight of the mean inner loss in the objective; of "meta" only.
        first_order: take the inner gradients as constants.
        variant: "meta": θ, as where the steps begin, and φ descend J. "bilevel": φ descends L_out(θ_K(φ), φ), and θ the
            plain inner loss.
        strict: refuse two batches that share a tensor: the outer loss would judge nothing that was held out.

    Running statistics of normalisations count the outer batch alone. Dropout draws anew in every pass.

    Raises:
        ValueError: on a setting out of range, a selection that is empty, has a name that the model lacks, or leaves no
            outer parameter to "bilevel"; if `mu` is given with "bilevel".

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    >>> wrapper = MetaWrapper(model, ["2"], inner_lr=0.5)
    >>> x, y = torch.randn(8, 3), torch.rand(8, 1)
    >>> loss = wrapper.step((x[:4], y[:4]), (x[4:], y[4:]), lambda model, b: (model(b[0]) - b[1]).square().mean())
    >>> model[0].weight.grad.shape
    torch.Size([4, 3])
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        inner_params: Selection,
        inner_lr: NonNegative = 0.1,
        inner_steps: Count = 1,
        mu: NonNegative = 0.0,
        first_order: bool = False,
        variant: Variant = "meta",
        *,
        strict: bool = True,
    ) -> None:
        self.model, self.inner_lr, self.inner_steps, self.mu = model, inner_lr, inner_steps, mu
        self.first_order, self.variant, self.strict = first_order, variant, strict
        if mu and variant == "bilevel":
            raise ValueError(
                f"mu={mu!r} weighs the inner loss in the objective of variant 'meta'; in 'bilevel' only the inner "
                "parameters descend it, so leave mu at 0"
            )
        self.inner_names = selected_parameters(model, inner_params)
        if variant == "bilevel" and not self._outer():
            raise ValueError("inner_params selects every parameter; variant 'bilevel' needs outer ones")

    def step(self, batch_in: Any, batch_out: Any, loss_fn: LossOfModel) -> Scalar:
        """Add the gradients of one step to `.grad`.

        Args:
            batch_in: rows for the inner steps.
            batch_out: other rows, for the outer loss.
            loss_fn: (model, batch) → scalar; the model that it is given has the parameters of the moment.

        Returns:
            The outer loss, detached.

        Raises:
            ValueError: if the batches share a tensor and `strict` is set, or a loss is no scalar.
            FloatingPointError: if the objective is not finite; no gradient has changed then.
        """
        if self.strict:
            _check_apart(batch_in, batch_out)
        objective = _Objective(self.model, loss_fn)

        def loss(moved: Parameters, batch: Any) -> Tensor:
            return functional_call(objective, {f"model.{name}": value for name, value in moved.items()}, (batch,))

        known = dict(self.model.named_parameters())
        inner: Parameters = {name: known[name] for name in self.inner_names}
        unrolled = unrolled_descent(
            lambda moved: loss(moved | _statistics(self.model), batch_in),
            inner,
            self.inner_lr,
            steps=self.inner_steps,
            first_order=self.first_order,
            keep_losses=self.mu > 0,
        )
        with torch.enable_grad():
            outer_loss = _scalar("the outer loss", loss(unrolled.parameters, batch_out))
            total = outer_loss
            if self.mu:
                total = total + self.mu * torch.stack(unrolled.losses).mean()
        if not bool(torch.isfinite(total)):
            raise FloatingPointError(f"the objective after the inner steps is {total.item()}; lower inner_lr")
        outer = self._outer()
        if self.variant == "meta":
            total.backward(inputs=[*inner.values(), *outer])
        else:
            total.backward(inputs=outer)
            for name, gradient in unrolled.gradients[0].items():
                before = inner[name].grad
                inner[name].grad = gradient.detach() if before is None else before + gradient.detach()
        return outer_loss.detach()

    def _outer(self) -> list[Tensor]:
        return [p for name, p in self.model.named_parameters() if p.requires_grad and name not in self.inner_names]


def selected_parameters(model: nn.Module, selection: Selection) -> frozenset[str]:
    """Names of the trainable parameters that a function of their names, or names of submodules and parameters, select.

    Raises:
        ValueError: if a name is not there, or nothing trainable is selected.

    >>> sorted(selected_parameters(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), ["1"]))
    ['1.bias', '1.weight']
    """
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    if callable(selection):
        found = frozenset(name for name in trainable if selection(name))
    else:
        there = {name for name, _ in model.named_modules()} | {name for name, _ in model.named_parameters()}
        missing = [prefix for prefix in selection if prefix not in there]
        if missing:
            raise ValueError(f"inner_params holds {missing[0]!r}, which the model has not; it has {sorted(there)[1:9]}")
        found = frozenset(n for n in trainable if any(p in ("", n) or n.startswith(f"{p}.") for p in selection))
    if not found:
        raise ValueError("inner_params selects no trainable parameter of the model")
    return found


class _Objective(nn.Module):
    """The loss as a module that holds the model, so that the model can be run with other parameters as a whole."""

    def __init__(self, model: nn.Module, loss: LossOfModel) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.model, batch)


def _statistics(model: nn.Module) -> Parameters:
    """Copies of running statistics, to be updated in place of the model's; these may not be put back afterwards, for
    the second derivative reads them."""
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _NormBase)]
    return {f"{name}.{key}": b.clone() for name, module in norms for key, b in module.named_buffers(recurse=False)}


def _gradients(value: Tensor, parameters: Any, *, create_graph: bool = False, retain_graph: bool = False) -> Any:
    """Gradients by the keys of the parameters, zero for those that the value does not depend on."""
    if not value.requires_grad:
        return {name: torch.zeros_like(p) for name, p in parameters.items()}
    found = torch.autograd.grad(
        value,
        list(parameters.values()),
        create_graph=create_graph,
        retain_graph=create_graph or retain_graph,
        materialize_grads=True,
    )
    return dict(zip(parameters, found, strict=True))


def _scalar(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != ():
        kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a scalar tensor, got {kind}")
    return value


def _leaves(name: str, point: Point) -> Parameters:
    if not isinstance(point, Tensor):
        if not point:
            raise ValueError(f"{name} holds no tensor")
        for key, value in point.items():
            check_finite(f"{name}[{key!r}]", value)
    given = {"": point} if isinstance(point, Tensor) else point
    return {key: value.detach().clone().requires_grad_() for key, value in given.items()}


def _unnamed(tensors: Parameters, like: Point) -> Any:
    return tensors[""] if isinstance(like, Tensor) else tensors


def _check_apart(batch_in: Any, batch_out: Any) -> None:
    places = {t.data_ptr() for t in _tensors(batch_in) if t.numel()}
    if any(t.data_ptr() in places for t in _tensors(batch_out) if t.numel()):
        raise ValueError(
            "batch_in and batch_out share a tensor, so that nothing is held out of the inner steps; split the rows, or "
            "pass strict=False for a constant that both need"
        )


def _tensors(batch: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists, mappings and dataclasses."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from _tensors(value)
    elif is_dataclass(batch):
        for each in fields(batch):
            yield from _tensors(getattr(batch, each.name))
