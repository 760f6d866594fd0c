"""Keep rare labels apart from unknown inputs: train with outliers, and lift the weakest known samples above them.

A multi-label classifier rejects what has little joint energy, E(z) = Σ_c log(1 + exp z_c). Samples that hold only rare
labels have little too, and go with the unknown. With outliers z' in training,

    L = L_id + α · L_conf + β · L_gap
    L_conf = mean over outliers and classes of log(1 + exp z'_c)  =  mean_j E(z'_j) / C
    L_gap  = 1 / (m k)  Σ_{j = 1..m}  Σ_{i in the k known samples of least energy}  max(0, E(z'_j) − E(z_i) + M)

L_conf lowers every logit of an outlier. L_gap ranks the weakest known samples above all outliers; which samples these
are is looked up without gradient. It is a sum over pairs, and costs a sort: see `core.pairs.loss`.

Li et al., "Unknown-aware Multi-label Learning by Energy Distribution Gap Expansion", AAAI 2025 (EDGE). The formulas
follow the authors' code, with softplus in place of −log(1 − sigmoid), which overflows from a logit of 17 on. Ours are
the surrogates other than the hinge, the selection by labels, and the default of `start_epoch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Literal, NamedTuple, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from equipoise.core.distributed import gather_rows
from equipoise.core.pairs.loss import pairwise_loss
from equipoise.core.phases import Phased
from equipoise.core.validate import (
    check_choice,
    check_finite,
    check_multilabel,
    check_nonempty,
    check_nonnegative,
    warn_once,
)
from equipoise.openworld.outliers.detectors import joint_energy
from equipoise.openworld.outliers.rare_labels import head_classes

__all__ = ["EDGELoss", "EnergyGapParts", "OutlierExposureLoader", "energy_gap_loss", "joint_energy"]

SURROGATES = ("hinge", "squared_hinge", "square", "logistic")
TAILS = ("energy", "labels")

IdLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, C), targets (n, C)) → scalar."""
Labels = Int[Tensor, "n classes"] | Bool[Tensor, "n classes"]


def energy_gap_loss(
    id_energy: Float[Tensor, " n"],
    ood_energy: Float[Tensor, " m"],
    *,
    k: int,
    margin: float = 0.0,
    surrogate: str = "hinge",
) -> Float[Tensor, ""]:
    """Mean surrogate over all pairs of an outlier and one of the k known samples of least energy.

    Args:
        id_energy: (n,) energies of known samples, higher for what is known.
        ood_energy: (m,) energies of outliers.
        k: how many known samples take part; all, if there are fewer. A tie at the k-th goes to the earlier sample.
        margin: M ≥ 0, the wanted gap, in units of the energy.
        surrogate: ℓ of the gap g = E(z_i) − E(z'_j): "hinge" max(0, M − g), the paper's; "squared_hinge" its square;
            "square" (M − g)²; "logistic" log(1 + exp(M − g)).

    Returns:
        The mean, in O((m + k) log (m + k)) time and O(m + k) memory beside the selection; zero, attached to the graph,
        if there are no outliers (warned once).

    Raises:
        ValueError: if there is no known sample, an energy is not finite, k < 1, the margin is negative, or the
            surrogate unknown.

    >>> energy_gap_loss(torch.tensor([3.0, 1.0, 0.5]), torch.tensor([1.0, 0.0]), k=2, margin=0.25)
    tensor(0.2500)
    """
    check_choice("surrogate", surrogate, SURROGATES)
    _check_settings(k, margin)
    for name, values in (("id_energy", id_energy), ("ood_energy", ood_energy)):
        if values.ndim != 1:
            raise ValueError(f"{name} must have shape (n,), got {tuple(values.shape)}")
        check_finite(name, values)
    check_nonempty("id_energy", id_energy)
    if not len(ood_energy):
        warn_once("the energy gap is zero: the batch holds no outliers")
        return (id_energy.sum() + ood_energy.sum()) * 0
    weakest = id_energy.detach().sort(stable=True).indices[:k]
    # `pairwise_loss` wants a margin above 0 and takes that of the logistic surrogate for a rate: a shift of one side by
    # the difference does for all. In float64, where it costs no digits that the energies have.
    shift = (0.0 if surrogate == "logistic" else 1.0) - margin
    loss = pairwise_loss(id_energy[weakest].double() + shift, ood_energy.double(), surrogate, 1.0)
    return loss.to(torch.promote_types(id_energy.dtype, ood_energy.dtype))


class EnergyGapParts(NamedTuple):
    """The loss and what it is made of, all scalars attached to the graph.

    Attributes:
        value: loss_id + α loss_conf + β loss_gap.
        loss_id: of the known samples by their labels.
        loss_conf: mean log(1 + exp z') over outliers and classes.
        loss_gap: mean over pairs; zero while it is switched off.
    """

    value: Tensor
    loss_id: Tensor
    loss_conf: Tensor
    loss_gap: Tensor


class EDGELoss(Phased):
    """Multi-label training with outliers that keeps a gap between them and the weakest known samples.

    Send known samples and outliers through the model in one batch, so that they share batch-norm statistics. Lower
    logits on outliers lower those of known samples too, which costs a little of the labels' mean average precision.

    Args:
        alpha: weight of the outliers' logits.
        beta: weight of the gap.
        k: how many of the batch's known samples take part in the gap; a quarter of it is usual.
        margin: as in `energy_gap_loss`.
        start_epoch: τ, the epoch from which the gap counts; None is the second half of the epochs that `set_epoch` was
            told of, and from the start where it was told nothing. Before, the gap is not computed.
        id_loss: (logits, targets) → scalar; the mean binary cross-entropy over all entries if absent.
        surrogate: as in `energy_gap_loss`.
        tail: which known samples can take part: "energy", any; "labels", those that hold labels and only rare ones,
            which needs the next two.
        class_counts: positive training samples of each class.
        num_head: how many of the most frequent classes are not rare, at equal counts the first.
        exclude_unlabelled: leave samples without any label out of the gap. They are known, but have no energy to gain.
        gather: take the gap over the samples of all processes of torch.distributed (see `core.distributed`); without
            it each process takes its own k weakest.

    Raises:
        ValueError: if a weight or the margin is negative, k < 1, a name is unknown, or `class_counts` and `num_head` do
            not go with `tail`.

    >>> generator = torch.Generator().manual_seed(0)
    >>> target = (torch.rand(64, 5, generator=generator) < 0.3).long()
    >>> x = torch.cat([target + 0.3 * torch.randn(64, 5, generator=generator), torch.full((64, 5), 0.5)])
    >>> model, loss = torch.nn.Linear(5, 5), EDGELoss(k=16)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> for epoch in range(20):
    ...     loss.set_epoch(epoch, 20)
    ...     logits = model(x)
    ...     optimizer.zero_grad()
    ...     loss(logits[:64], target, logits[64:]).backward()
    ...     optimizer.step()
    >>> loss(logits[:64], target, logits[64:]).item() < 1.2
    True
    """

    head: Tensor | None

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.1,
        k: int = 32,
        margin: float = 0.0,
        start_epoch: int | None = None,
        *,
        id_loss: IdLoss | None = None,
        surrogate: str = "hinge",
        tail: str = "energy",
        class_counts: Int[Tensor, " classes"] | None = None,
        num_head: int | None = None,
        exclude_unlabelled: bool = False,
        gather: bool = False,
    ) -> None:
        super().__init__()
        check_nonnegative("alpha", alpha)
        check_nonnegative("beta", beta)
        _check_settings(k, margin)
        check_choice("surrogate", surrogate, SURROGATES)
        check_choice("tail", tail, TAILS)
        if start_epoch is not None:
            check_nonnegative("start_epoch", start_epoch)
        self.alpha, self.beta, self.k, self.margin, self.start_epoch = alpha, beta, k, margin, start_epoch
        self.id_loss: IdLoss = binary_cross_entropy if id_loss is None else id_loss
        self.surrogate, self.tail, self.exclude_unlabelled, self.gather = surrogate, tail, exclude_unlabelled, gather
        head = None
        if tail == "labels":
            if class_counts is None or num_head is None:
                raise ValueError('tail="labels" needs class_counts and num_head, which say what labels are rare')
            head = torch.zeros(len(class_counts), dtype=torch.bool)
            head[head_classes(class_counts, num_head).cpu()] = True
        elif class_counts is not None or num_head is not None:
            raise ValueError('class_counts and num_head are for tail="labels"; leave them out')
        # Known from the arguments, and so not in the state dict.
        self.register_buffer("head", head, persistent=False)

    @property
    def gap_active(self) -> bool:
        """Whether the gap counts in this epoch."""
        if not self.beta:
            return False
        return 2 * self.epoch >= self.total_epochs if self.start_epoch is None else self.epoch >= self.start_epoch

    @overload
    def forward(
        self, id_logits: Tensor, target: Tensor, ood_logits: Tensor, return_parts: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def forward(
        self, id_logits: Tensor, target: Tensor, ood_logits: Tensor, return_parts: Literal[True]
    ) -> EnergyGapParts: ...

    def forward(
        self,
        id_logits: Float[Tensor, "n classes"],
        target: Labels,
        ood_logits: Float[Tensor, "m classes"],
        return_parts: bool = False,
    ) -> Tensor | EnergyGapParts:
        """The loss of known samples' logits (n, C) by their labels (n, C) in {0, 1}, and outliers' logits (m, C).

        Returns:
            The scalar loss, or with `return_parts` also what it is made of. Without outliers, their two parts are zero
            and attached to the graph (warned once).

        Raises:
            ValueError: if shapes differ, there is no known sample, a logit is not finite or a label not in {0, 1}.
        """
        check_batches(id_logits, target, ood_logits)
        wide = torch.promote_types(torch.promote_types(id_logits.dtype, ood_logits.dtype), torch.float32)
        known, outliers = id_logits.to(wide), ood_logits.to(wide)
        loss_id = self.id_loss(known, target)
        ood_energy = joint_energy(outliers)
        nothing = ood_logits.sum() * 0
        if not len(outliers):
            warn_once("the batch holds no outliers: the loss is that of the known samples alone")
        loss_conf = ood_energy.mean() / outliers.shape[1] if len(outliers) else nothing
        loss_gap = self._gap(known, target, ood_energy) if self.gap_active else nothing
        value = loss_id + self.alpha * loss_conf + self.beta * loss_gap
        parts = EnergyGapParts(*(part.to(id_logits.dtype) for part in (value, loss_id, loss_conf, loss_gap)))
        return parts if return_parts else parts.value

    def _gap(self, known: Tensor, target: Tensor, ood_energy: Tensor) -> Tensor:
        id_energy = joint_energy(known)[self._candidates(target)]
        if self.gather:
            id_energy, ood_energy = gather_rows(id_energy), gather_rows(ood_energy)
        if not len(id_energy):
            warn_once("the energy gap is zero: no known sample of the batch can take part; use larger batches")
        if not (len(id_energy) and len(ood_energy)):
            return (id_energy.sum() + ood_energy.sum()) * 0
        return energy_gap_loss(id_energy, ood_energy, k=self.k, margin=self.margin, surrogate=self.surrogate)

    def _candidates(self, target: Tensor) -> Tensor:
        """Which known samples can take part, (n,)."""
        labels = target != 0
        chosen = torch.ones_like(labels[:, 0])
        if self.head is not None:
            if len(self.head) != labels.shape[1]:
                raise ValueError(f"class_counts are of {len(self.head)} classes, the logits of {labels.shape[1]}")
            chosen = ~labels[:, self.head].any(1)
        if self.exclude_unlabelled or self.head is not None:
            chosen = chosen & labels.any(1)
        return chosen

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return (
            f"alpha={self.alpha}, beta={self.beta}, k={self.k}, margin={self.margin}, start_epoch={self.start_epoch}, "
            f"surrogate={self.surrogate}, tail={self.tail}"
        )


class OutlierExposureLoader:
    """Batches of known samples, each with a batch of outliers; the outliers begin anew as often as needed.

    An epoch is one of the known samples, however many outliers there are. Every epoch begins with the outliers' first
    batch, so let their loader shuffle, and drop incomplete batches.

    Args:
        id_loader: gives batches of known samples, anew each time that it is iterated.
        ood_loader: gives batches of outliers, anew each time that it is iterated.

    >>> [pair for pair in OutlierExposureLoader(["a", "b", "c"], [1, 2])]
    [('a', 1), ('b', 2), ('c', 1)]
    """

    def __init__(self, id_loader: Iterable[Any], ood_loader: Iterable[Any]) -> None:
        self.id_loader, self.ood_loader = id_loader, ood_loader

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Pairs (batch of known samples, batch of outliers).

        Raises:
            ValueError: if the outlier loader gives no batch (a second time: if it is an iterator that is spent).
        """
        outliers = iter(self.ood_loader)
        for batch in self.id_loader:
            try:
                exposed = next(outliers)
            except StopIteration:
                outliers = iter(self.ood_loader)
                try:
                    exposed = next(outliers)
                except StopIteration:
                    raise ValueError("ood_loader gives no batch; pass one that can be iterated anew") from None
            yield batch, exposed

    def __len__(self) -> int:
        """Batches of an epoch.

        Raises:
            TypeError: if the loader of known samples has no length.
        """
        if not isinstance(self.id_loader, Sized):
            raise TypeError("id_loader has no length")
        return len(self.id_loader)


def binary_cross_entropy(logits: Float[Tensor, "n classes"], target: Labels) -> Float[Tensor, ""]:
    """The mean over all entries of a matrix of logits.

    >>> binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[0, 1]]))
    tensor(0.6931)
    """
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


def check_batches(id_logits: Tensor, target: Tensor, ood_logits: Tensor) -> None:
    """Raise `ValueError` unless logits and labels are (n, C), n >= 1, and outliers' logits (m, C)."""
    check_multilabel(id_logits, target)
    check_outliers(id_logits, ood_logits)


def check_outliers(id_logits: Tensor, ood_logits: Tensor) -> None:
    """Raise `ValueError` unless the outliers' logits are (m, C), finite, with the known samples' C."""
    if ood_logits.ndim != 2 or ood_logits.shape[1] != id_logits.shape[1]:
        raise ValueError(f"ood_logits must have shape (m, {id_logits.shape[1]}), got {tuple(ood_logits.shape)}")
    check_finite("ood_logits", ood_logits)


def _check_settings(k: int, margin: float) -> None:
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    check_nonnegative("margin", margin)
