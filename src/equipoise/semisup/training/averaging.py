"""Exponential averages of a network over its training, as a teacher or to be evaluated.

    teacher ← m · teacher + (1 − m) · student        after every step

Tarvainen and Valpola, NeurIPS 2017. With the running statistics of batch normalisation averaged as well it is EMAN (Cai
et al., CVPR 2021), which the code of MaxMatch uses.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import MayBeEmpty, ProperFraction

Buffers: TypeAlias = Literal["ema", "copy"]
Averaged: TypeAlias = Annotated[Float[Tensor, "*shape"], MayBeEmpty()]


@checked
def ema_update(ema: Averaged, value: Averaged, momentum: ProperFraction = 0.999) -> Averaged:
    """An exponential average after one more value, m · ema + (1 − m) · value, as a new tensor.

    Args:
        ema: the average so far, of any shape.
        value: of the same shape.
        momentum: m in [0, 1).

    Raises:
        ValueError: if the shapes differ, or the momentum is out of range.

    >>> ema_update(torch.tensor([1.0]), torch.tensor([3.0]), 0.75)
    tensor([1.5000])
    """
    return momentum * ema + (1 - momentum) * value


class EMATeacher(nn.Module):
    """A copy of a network that follows it as an exponential average, in evaluation mode and without gradient.

    Keep the network in float32 or wider (as automatic mixed precision does): in half precision steps of 1 − m are lost
    in rounding.

    Args:
        network: what is copied.
        momentum: m in [0, 1).
        buffers: "ema" averages floating buffers, such as the statistics of batch normalisation, too (EMAN); "copy"
            takes them as they are. What is not floating, such as counters, is always taken as it is.

    Attributes:
        module: the average.

    Raises:
        ValueError: if a setting is out of range.

    >>> student = nn.Linear(1, 1, bias=False)
    >>> teacher = EMATeacher(student, momentum=0.5)
    >>> _ = nn.init.constant_(student.weight, 4.0), nn.init.constant_(teacher.module.weight, 2.0)
    >>> teacher.update(student)
    >>> teacher.module.weight
    Parameter containing:
    tensor([[3.]])
    """

    @checked
    def __init__(self, network: nn.Module, momentum: ProperFraction = 0.999, buffers: Buffers = "ema") -> None:
        super().__init__()
        self.momentum, self.buffers_by = momentum, buffers
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> EMATeacher:
        """Stays in evaluation mode."""
        super().train(False)
        return self

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The output of the average, without gradient."""
        with torch.no_grad():
            return self.module(*inputs, **options)

    @checked
    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow the network, after each of its steps.

        Raises:
            ValueError: if its parameters and buffers are not those of the average.
        """
        # Not of state_dict, where a shared parameter stands twice.
        for kind in ("named_parameters", "named_buffers"):
            mine, given = dict(getattr(self.module, kind)()), dict(getattr(network, kind)())
            differing = mine.keys() ^ given.keys()
            if differing:
                raise ValueError(f"network must have what the average has; {min(differing)} is only in one of them")
            for name, value in mine.items():
                new = given[name].to(value.device)
                if value.shape != new.shape:
                    shapes = f"shape {tuple(new.shape)}, the average of {tuple(value.shape)}"
                    raise ValueError(f"network has {name} of {shapes}")
                if value.is_floating_point() and (kind == "named_parameters" or self.buffers_by == "ema"):
                    value.mul_(self.momentum).add_(new.to(value), alpha=1 - self.momentum)
                else:
                    value.copy_(new)
