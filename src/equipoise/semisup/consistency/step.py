"""A step on labelled samples and on views of unlabelled ones, in one pass or in two.

One pass puts all strong views through the network with gradient, though only the worst of each sample has any. Two
passes find the worst view without gradient first, and put only that of the confident samples through with gradient:
about K + 3 forward passes of a sample in place of 3 K, and the activations of one view in place of K.

The second pass of a network that draws random numbers (dropout) starts from the random state of the first, and every
view of the first from the same one: the chosen view is the worst under the very masks that it is trained under. Of a
deterministic network without batch statistics both ways have the same gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, NonNegative, Scalar
from equipoise.semisup.consistency.loss import WorstCaseConsistencyLoss

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class StepLoss(NamedTuple):
    """What `consistency_step` gives.

    Attributes:
        loss: supervised + weight · consistency, to call backward on.
        supervised: cross-entropy of the labelled samples, detached.
        consistency: loss of the unlabelled samples, detached.
        statistics: as of `ConsistencyTerms.statistics`.
    """

    loss: Tensor
    supervised: Tensor
    consistency: Tensor
    statistics: dict[str, float]


@checked
def consistency_step(
    network: nn.Module,
    labelled: Tensor,
    target: ClassTarget,
    weak: Tensor,
    strong: Tensor,
    criterion: WorstCaseConsistencyLoss,
    *,
    weight: NonNegative = 1.0,
    teacher: nn.Module | None = None,
    two_pass: bool = False,
) -> StepLoss:
    """The loss of a step of MaxMatch, and with other criteria of FixMatch, UDA, Mean Teacher or average consistency.

    Args:
        network: maps (n, ...) to logits (n, C); called as it is, in training mode if you put it there.
        labelled: (n, ...) inputs with labels.
        target: (n,) their class indices.
        weak: (b, ...) weak views of the unlabelled inputs.
        strong: (K, b, ...) strong views of the same.
        criterion: the consistency loss.
        weight: λ of it, at least 0.
        teacher: predicts the weak views, such as `EMATeacher(...)`; by default the network does, without gradient.
        two_pass: whether to choose the worst views without gradient first, see the module. Batch normalisation then
            uses the statistics of other batches (of each view, and of labelled samples with chosen views), and the
            first pass leaves its running ones alone.

    Raises:
        ValueError: if shapes disagree, or `two_pass` is asked of a mean over views.

    >>> network = nn.Linear(2, 3)
    >>> x, y, u = torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]), torch.ones(5, 2)
    >>> step = consistency_step(network, x, y, u, torch.stack([u, 2 * u]), WorstCaseConsistencyLoss(threshold=0.0))
    >>> step.loss.requires_grad, step.statistics["mask_rate"]
    (True, 1.0)
    """
    if len(labelled) != len(target) or labelled.shape[1:] != weak.shape[1:] or strong.shape[1:] != weak.shape:
        raise ValueError(
            f"labelled, target, weak and strong must have shapes (n, ...), (n,), (b, ...) and (variants, b, ...), got "
            f"{', '.join(str(tuple(each.shape)) for each in (labelled, target, weak, strong))}"
        )
    work = _in_two_passes if two_pass else _in_one_pass
    z_x, consistency, statistics = work(network, labelled, weak, strong, criterion, teacher)
    supervised = supervised_loss(z_x, target)
    return StepLoss(supervised + weight * consistency, supervised.detach(), consistency.detach(), statistics)


@checked
def supervised_loss(logits: ClassScores, target: ClassTarget) -> Scalar:
    """Cross-entropy of labelled samples, in float32 of half precision.

    Args:
        logits: (n, C).
        target: (n,) class indices.

    >>> supervised_loss(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor(1.3863)
    """
    return cross_entropy(logits, target)


_Parts = tuple[Tensor, Tensor, dict[str, float]]


def _in_one_pass(
    network: nn.Module,
    labelled: Tensor,
    weak: Tensor,
    strong: Tensor,
    criterion: WorstCaseConsistencyLoss,
    teacher: nn.Module | None,
) -> _Parts:
    own = [] if teacher is not None else [weak]
    parts = [labelled, *own, strong.flatten(0, 1)]
    z_x, *z_w, z_s = network(torch.cat(parts)).split([len(part) for part in parts])
    if teacher is not None:
        with torch.no_grad():
            z_w = [teacher(weak)]
    terms = criterion.terms(z_w[0].detach(), z_s.unflatten(0, strong.shape[:2]))
    return z_x, terms.loss, terms.statistics()


def _in_two_passes(
    network: nn.Module,
    labelled: Tensor,
    weak: Tensor,
    strong: Tensor,
    criterion: WorstCaseConsistencyLoss,
    teacher: nn.Module | None,
) -> _Parts:
    if criterion.aggregate != "max":
        raise ValueError("two_pass needs a criterion with aggregate='max': a mean has a gradient through every view")
    random = _RandomState(labelled.device)
    with torch.no_grad(), _running_statistics_kept(network):
        z_w = (network if teacher is None else teacher)(weak)
        if z_w.ndim != 2:
            raise ValueError(f"two_pass chooses whole samples and needs logits (n, classes), got {tuple(z_w.shape)}")
        confident = criterion.confident(z_w)
        if not confident.any():
            chosen_from = None
        else:
            # With batch statistics a sample's logits depend on the others, and one sample has none.
            everything = torch.arange(len(weak), device=weak.device)
            rows = everything if _uses_batch(network) else everything[confident]
            start = random.get()
            z_s = torch.stack([_from(random, start, network, view[rows]) for view in strong])
            drew = not random.is_at(start)
            chosen_from = criterion.terms(z_w[rows], z_s, confident[rows])
    if chosen_from is None:
        z_x = network(labelled)
        shares = {f"worst_is_{k}": torch.nan for k in range(1, len(strong) + 1)}
        return z_x, attached_zero(z_x), {"mask_rate": 0.0, "gap": torch.nan, **shares}
    chosen = strong[chosen_from.worst_index, rows]
    if drew:
        z_x = network(labelled)
        after = random.get()
        z_c = _from(random, start, network, chosen)
        random.set(after)
    else:
        z_x, z_c = network(torch.cat([labelled, chosen])).split([len(labelled), len(chosen)])
    consistency = criterion.terms(z_w[rows], z_c[None], confident[rows]).loss * (len(rows) / len(weak))
    return z_x, consistency, {**chosen_from.statistics(), "mask_rate": float(confident.double().mean())}


def _from(random: _RandomState, start: list[Tensor], network: nn.Module, inputs: Tensor) -> Tensor:
    random.set(start)
    logits: Tensor = network(inputs)
    return logits


def _uses_batch(network: nn.Module) -> bool:
    return any(isinstance(part, _BATCH_NORMS) and part.training for part in network.modules())


@contextmanager
def _running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """Normalisation by the batch at hand that leaves the running statistics as they are."""
    tracking: list[Any] = [
        part for part in network.modules() if part.training and getattr(part, "track_running_stats", False)
    ]
    for part in tracking:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part in tracking:
            part.track_running_stats = True


class _RandomState:
    """The random state that a network on a device draws from."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device if device.type == "cuda" else None

    def get(self) -> list[Tensor]:
        on_device = [] if self.cuda is None else [torch.cuda.get_rng_state(self.cuda)]
        return [torch.get_rng_state(), *on_device]

    def set(self, state: list[Tensor]) -> None:
        torch.set_rng_state(state[0])
        if self.cuda is not None:
            torch.cuda.set_rng_state(state[1], self.cuda)

    def is_at(self, state: list[Tensor]) -> bool:
        return all(a.equal(b) for a, b in zip(self.get(), state, strict=True))
