"""Identities are admitted from easy to hard, the late ones weigh more, and the hardest never enter.

Some identities cannot be learned: nothing in the voice tells of the face. Each identity k keeps a running loss m_k and
a weight w_k. After a warm-up in which all weigh 1, `update` is called every so many iterations:

    first         w = 0 for all, n = ⌊start_fraction · K⌋
    later         nothing if the share of w > 0 is max_fraction or more; else n = ⌊step_fraction · K⌋
    then          of the identities with w = 0 the n of smallest m_k (ties by index) are taken;
                  w ← decay · w for all, w ← 1 for those taken

so that the easy ones enter first and have decayed most, and about 1 − max_fraction never enter. A sample weighs
w̃_y = w_y K / Σ w.

    m_y ← momentum · m_y + (1 − momentum) · loss        after every batch; it begins at 2 ln K, the loss of a guess

Two things are set right. The authors' code hides admitted identities by adding 10⁶ to their running loss and taking it
away again, which in float32 rounds all of them to multiples of 1/16; here they are masked. And of an identity that is
twice in a batch it keeps one loss; here the two are averaged.

Wen et al., "Seeking the Shape of Sound: An Adaptive Framework for Learning Voice-Face Association", CVPR 2021, as in
the authors' code but for these. They update every 100 iterations from the 500th on, save the weights, and train again
from the start with the weights fixed.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.distributed import gather_rows
from equipoise.core.signature import checked
from equipoise.core.types import Fraction, NumClasses, Positive, Range, SampleIndex

OnStall: TypeAlias = Literal["raise", "keep"]
_SKIP = 1e-3


@checked
def identity_loss_ema(
    ema: Float[Tensor, " K"],
    identity: SampleIndex,
    loss: Float[Tensor, " n"],
    momentum: Annotated[float, Range(0, 1, high_open=True)] = 0.9,
) -> Float[Tensor, " K"]:
    """Running losses after a batch; those of an identity that is there twice are averaged first.

    Args:
        ema: (K,) running losses before.
        identity: (n,) in 0..K−1.
        loss: (n,) of the batch.
        momentum: share that is kept of what was before.

    Returns:
        (K,), a new tensor in the dtype of `ema`, without gradient.

    Raises:
        ValueError: if an identity is not in 0..K−1.

    >>> identity_loss_ema(torch.tensor([10.0, 10.0]), torch.tensor([0, 0]), torch.tensor([1.0, 3.0]))
    tensor([ 9.2000, 10.0000])
    """
    _check_identity(identity, len(ema))
    identity = identity.to(ema.device)
    sums = torch.zeros_like(ema, dtype=torch.float64).index_add_(0, identity, loss.detach().double().to(ema.device))
    counts = torch.bincount(identity, minlength=len(ema))
    moved = ema.double() * momentum + sums / counts.clamp_min(1) * (1 - momentum)
    return torch.where(counts > 0, moved.to(ema.dtype), ema).detach()


class IdentityReweighter(nn.Module):
    """Weights of identities by their running loss; all of it is part of `state_dict`.

    Args:
        num_identities: K.
        start_fraction: share of identities that the first update admits.
        step_fraction: share that a later one admits.
        decay: factor on the weights of those admitted before.
        max_fraction: share from which on no more are admitted.
        momentum: of the running loss.
        fallback: what `weight` adds to all weights of a batch in which they are all (nearly) 0, as 1.0 in the
            authors' code; None leaves them 0, and such a batch is skipped by the caller.
        on_stall: what to do where K is so small that a step would admit nobody: "raise", or "keep", which lets an
            update decay the weights and admit none, as the formula says.
        gather: average the losses of all processes of torch.distributed; see `core.distributed`.

    Raises:
        ValueError: if max_fraction < start_fraction, or a start or a step admits nobody.

    >>> reweighter = IdentityReweighter(4, step_fraction=0.25)
    >>> reweighter.observe(torch.tensor([0, 1, 2, 3]), torch.tensor([9.0, 1.0, 4.0, 2.0]))
    >>> reweighter.update(), reweighter.update()
    (2, 1)
    >>> reweighter.raw_weight
    tensor([0.0000, 0.9900, 1.0000, 0.9900], dtype=torch.float64)
    >>> reweighter.weight(torch.tensor([0, 2]))
    tensor([0.0000, 1.3423])
    """

    raw_weight: Tensor
    loss_ema: Tensor
    updates: Tensor

    @checked
    def __init__(
        self,
        num_identities: NumClasses,
        start_fraction: Fraction = 0.5,
        step_fraction: Fraction = 0.024,
        decay: Fraction = 0.99,
        max_fraction: Fraction = 0.9,
        momentum: Annotated[float, Range(0, 1, high_open=True)] = 0.9,
        *,
        fallback: Positive | None = None,
        on_stall: OnStall = "raise",
        gather: bool = False,
    ) -> None:
        super().__init__()
        if max_fraction < start_fraction:
            raise ValueError(f"max_fraction={max_fraction} must be at least start_fraction={start_fraction}")
        self._start, self._step = int(start_fraction * num_identities), int(step_fraction * num_identities)
        if not self._start:
            raise ValueError(
                f"start_fraction={start_fraction} of num_identities={num_identities} admits nobody; raise it to "
                f"{1 / num_identities:.3g} or more"
            )
        if not self._step and on_stall == "raise":
            raise ValueError(
                f"step_fraction={step_fraction} of num_identities={num_identities} admits nobody, so that it would "
                f"never go on; raise it to {1 / num_identities:.3g} or more, or let it be with on_stall='keep'"
            )
        self.decay, self.max_fraction, self.momentum = decay, max_fraction, momentum
        self.fallback, self.gather = fallback, gather
        self.register_buffer("raw_weight", torch.ones(num_identities, dtype=torch.float64))
        guess = 2 * math.log(num_identities)
        self.register_buffer("loss_ema", torch.full((num_identities,), guess, dtype=torch.float64))
        self.register_buffer("updates", torch.tensor(0))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        # Half precision of a model's weights must not reach a running loss.
        before = {name: getattr(self, name) for name in ("raw_weight", "loss_ema")}
        super()._apply(fn, recurse)
        for name, value in before.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self

    @checked
    def observe(self, identity: SampleIndex, loss: Float[Tensor, " n"]) -> None:
        """Take the losses (n,) of a batch: the cross-entropies of both modalities, added.

        Raises:
            ValueError: if an identity is not in 0..K−1, or a loss is not finite.
        """
        if self.gather:
            identity, loss = gather_rows(identity), gather_rows(loss.detach())
        self.loss_ema.copy_(identity_loss_ema(self.loss_ema, identity, loss, self.momentum))

    @torch.no_grad()
    def update(self) -> int:
        """Admit the next identities, those of the smallest running loss.

        Returns:
            How many were admitted.
        """
        if int(self.updates) == 0:
            self.raw_weight.zero_()
            count = self._start
        else:
            if self.active_fraction >= self.max_fraction:
                return 0
            count = self._step
        self.updates += 1
        waiting = self.raw_weight == 0
        order = self.loss_ema.masked_fill(~waiting, torch.inf).argsort(stable=True)
        taken = order[: min(count, int(waiting.sum()))]
        self.raw_weight *= self.decay
        self.raw_weight[taken] = 1
        return len(taken)

    @property
    def normalized_weight(self) -> Float[Tensor, " K"]:
        """w̃: the weights divided by their mean, float64."""
        return self.raw_weight * (len(self.raw_weight) / self.raw_weight.sum())

    @property
    def active_fraction(self) -> float:
        """The share of identities that weigh more than 0."""
        return int((self.raw_weight > 0).sum()) / len(self.raw_weight)

    @checked
    def weight(self, identity: SampleIndex) -> Float[Tensor, " n"]:
        """w̃ of the identities (n,) of a batch, float32, on their device.

        Where it sums to less than 0.001, `fallback` is added to each, or it is 0 for all and the batch should be
        skipped.

        Raises:
            ValueError: if an identity is not in 0..K−1.
        """
        _check_identity(identity, len(self.raw_weight))
        found = self.normalized_weight[identity.to(self.raw_weight.device)]
        if float(found.sum()) < _SKIP:
            found = torch.zeros_like(found) if self.fallback is None else found + self.fallback
        return found.float().to(identity.device)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"num_identities={len(self.raw_weight)}, decay={self.decay}, max_fraction={self.max_fraction}"


def _check_identity(identity: Tensor, num_identities: int) -> None:
    if (most := int(identity.max())) >= num_identities:
        raise ValueError(f"identity holds the value {most}, wanted 0 to {num_identities - 1}")
