"""Feed-forward blocks with and without a gate, of equal numbers of parameters, and nets that start at zero."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.core.validate import check_choice
from equipoise.language.gated.activations import Activation, ActivationLike, resolve_activation

UnitName: TypeAlias = Literal[
    "relu", "gelu", "silu", "identity", "sigmoid", "reglu", "geglu", "swiglu", "bilinear", "glu"
]
UNITS: dict[str, tuple[str, bool]] = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "silu": ("silu", False),
    "identity": ("identity", False),
    "sigmoid": ("sigmoid", False),
    "reglu": ("relu", True),
    "geglu": ("gelu", True),
    "swiglu": ("silu", True),
    "bilinear": ("identity", True),
    "glu": ("sigmoid", True),
}


@checked
def matched_glu_width(in_dim: Count, hidden: Count, out_dim: Count) -> int:
    """The hidden width at which a gated block has as many weights as a plain one: ⌊ h (d + c) / (2 d + c) ⌋.

    Code: Zemdalk/GLU-NTK. Two thirds where inputs and outputs are of one size.

    Args:
        in_dim: d.
        hidden: h, width of the plain block.
        out_dim: c.

    Raises:
        ValueError: on a bad argument, by name; if the width would be 0.

    >>> matched_glu_width(256, 1024, 256)
    682
    """
    width = hidden * (in_dim + out_dim) // (2 * in_dim + out_dim)
    if width < 1:
        raise ValueError(
            f"hidden={hidden} is too narrow for a gated block of as many weights (in_dim={in_dim}, out_dim={out_dim}): "
            "its width would be below 1"
        )
    return width


class GLUBlock(nn.Module):
    """A feed-forward block, gated or plain:  V [ (P x) ⊙ φ(W x) ]  or  V φ(W x).

    Shazeer, "GLU Variants Improve Transformer", 2020. `GLUBlock.named("swiglu", ...)` has the usual pairs.

    Args:
        dim: size of the inputs' last dimension.
        hidden: width of a plain block; of a gated one likewise unless `match_params`.
        out: size of the outputs' last dimension; `dim` if absent.
        activation: φ, as `activation_kernel` takes it.
        gated: whether there is the linear branch P.
        bias: whether the layers have biases. The theory has none.
        match_params: whether a gated block is narrowed to no more weights than the plain one has.
        init: "lecun", normal with variance 1 / fan-in and no bias; or "torch", what `nn.Linear` does.
        generator: of the "lecun" weights; PyTorch's global one if absent.

    Attributes:
        gate: W.
        up: P; absent in a plain block.
        down: V.

    Raises:
        ValueError: on a bad argument, by name.

    >>> block = GLUBlock(8, 24, generator=torch.Generator().manual_seed(0))
    >>> block(torch.ones(2, 5, 8)).shape, block.gate.out_features
    (torch.Size([2, 5, 8]), 16)
    """

    @checked
    def __init__(
        self,
        dim: Count,
        hidden: Count,
        out: Count | None = None,
        activation: ActivationLike = "silu",
        gated: bool = True,
        bias: bool = False,
        match_params: bool = True,
        init: Literal["lecun", "torch"] = "lecun",
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        out = dim if out is None else out
        width = matched_glu_width(dim, hidden, out) if gated and match_params else hidden
        self.activation: Activation = resolve_activation(activation)
        self.gate = nn.Linear(dim, width, bias=bias)
        self.up = nn.Linear(dim, width, bias=bias) if gated else None
        self.down = nn.Linear(width, out, bias=bias)
        if init == "lecun":
            for layer in (self.gate, self.up, self.down):
                if layer is not None:
                    nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features), generator=generator)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    @classmethod
    def named(cls, unit: UnitName, dim: int, hidden: int, out: int | None = None, **options: Any) -> GLUBlock:
        """A block by its usual name: "reglu", "geglu", "swiglu", "bilinear", "glu", or a plain activation.

        Args:
            unit: the name.
            dim: size of inputs.
            hidden: width of the plain block.
            out: size of outputs; `dim` if absent.
            options: `bias`, `match_params`, `init`, `generator`.

        Raises:
            ValueError: if the name is not known.
        """
        check_choice("unit", unit, UNITS)
        activation, gated = UNITS[unit]
        return cls(dim, hidden, out, activation, gated, **options)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out"]:
        """The outputs, (..., out)."""
        hidden = self.activation.function(self.gate(x))
        if self.up is not None:
            hidden = self.up(x) * hidden
        result: Tensor = self.down(hidden)
        return result

    def extra_repr(self) -> str:
        """The activation."""
        return f"activation={self.activation.name}, gated={self.up is not None}"


class CenteredModel(nn.Module):
    """A model less what it was at first, f − f₀, so that training starts at zero outputs.

    Early losses of a net depend on its random outputs at the start, which can look like a crossing; a centred net has
    the same tangent kernel and none of them. f₀ is a frozen submodule in evaluation mode: it moves and is saved with f.

    Args:
        model: f, whose outputs are a tensor.

    Attributes:
        model: f.
        initial: f₀.

    >>> layer = torch.nn.Linear(3, 1)
    >>> CenteredModel(layer)(torch.ones(1, 3))
    tensor([[0.]], grad_fn=<SubBackward0>)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.initial = copy.deepcopy(model).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> CenteredModel:
        """Set the mode of f; f₀ stays in evaluation mode."""
        super().train(mode)
        self.initial.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """f of the arguments less f₀ of them."""
        with torch.no_grad():
            before = self.initial(*args, **kwargs)
        now: Tensor = self.model(*args, **kwargs)
        return now - before
