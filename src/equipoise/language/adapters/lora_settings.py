"""The settings of the low-rank adapters that TuckA is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, ProperFraction


@checked
@dataclass(frozen=True)
class LoRASettings:
    """The settings of `LoRALinear`.

    Attributes:
        r: rank.
        scale: the change is multiplied by scale / r.
        dropout: on the input of the change.
        rank_stabilised: multiply by scale / sqrt(r) instead.

    >>> LoRASettings(r=4).scale
    16.0
    """

    r: Count = 8
    scale: Positive = 16.0
    dropout: ProperFraction = 0.0
    rank_stabilised: bool = False


@checked
@dataclass(frozen=True)
class AdaLoRASettings:
    """The settings of `AdaLoRALinear`.

    Attributes:
        r: rank to begin with.
        scale: the change is multiplied by scale / r.
        dropout: on the input of the change.

    >>> AdaLoRASettings().r
    12
    """

    r: Count = 12
    scale: Positive = 16.0
    dropout: ProperFraction = 0.0


@checked
@dataclass(frozen=True)
class MoELoRASettings:
    """The settings of `MoELoRALinear`.

    Attributes:
        num_experts: low-rank changes of a layer.
        r: rank of each.
        scale: a change is multiplied by scale / r.
        top_k: how many experts a token has.
        dropout: on the input of the changes.
        balance: weight of the loss that evens out the load.

    Raises:
        ValueError: if a token should have more experts than there are.

    >>> MoELoRASettings(num_experts=4).top_k
    2
    """

    num_experts: Count = 4
    r: Count = 8
    scale: Positive = 16.0
    top_k: Count = 2
    dropout: ProperFraction = 0.0
    balance: NonNegative = 0.01

    def __post_init__(self) -> None:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k={self.top_k} must not be above num_experts={self.num_experts}")
