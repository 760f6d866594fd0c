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

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from equipoise.core.distributed import gather_rows
from equipoise.core.pairs.loss import pairwise_loss
from equipoise.core.phases import Phased
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import Count, LabelScores, MayBeEmpty, MultilabelTarget, NonNegative, Scalar, Scores, Whole
from equipoise.core.validate import warn_once
from equipoise.openworld.outliers.detectors import joint_energy
from equipoise.openworld.outliers.rare_labels import head_classes

Surrogate: TypeAlias = Literal["hinge", "squared_hinge", "square", "logistic"]
IdLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, C), targets) → scalar."""
OutlierLogits: TypeAlias = Annotated[Float[Tensor, "m labels"], MayBeEmpty()]


@checked
def energy_gap_loss(
    id_energy: Scores,
    ood_energy: Annotated[Float[Tensor, " m"], MayBeEmpty()],
    *,
    k: Count,
    margin: NonNegative = 0.0,
    surrogate: Surrogate = "hinge",
) -> Scalar:
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

    >>> energy_gap_loss(torch.tensor([3.0, 1.0, 0.5]), torch.tensor([1.0, 0.0]), k=2, margin=0.25)
    tensor(0.2500)
    """
    if not len(ood_energy):
        warn_once("the energy gap is zero: the batch holds no outliers")
        return attached_zero(id_energy, ood_energy)
    weakest = id_energy[id_energy.detach().sort(stable=True).indices[:k]]
    if surrogate != "logistic":
        return pairwise_loss(weakest, ood_energy, surrogate, margin)
    # What `pairwise_loss` takes for its margin is a rate. The shift is in float64, where it costs no digits.
    loss = pairwise_loss(weakest.double() - margin, ood_energy.double(), surrogate)
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
        gather: take known samples and outliers of all processes of torch.distributed; see `core.distributed`. Without
            it each process takes the k weakest of its own.

    Raises:
        ValueError: on a bad argument, by name; if `class_counts` and `num_head` do not go with `tail`.

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

    @checked
    def __init__(
        self,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 0.1,
        k: Count = 32,
        margin: NonNegative = 0.0,
        start_epoch: Whole | None = None,
        *,
        id_loss: IdLoss | None = None,
        surrogate: Surrogate = "hinge",
        tail: Literal["energy", "labels"] = "energy",
        class_counts: Sequence[Whole] | Int[Tensor, " classes"] | None = None,
        num_head: Whole | None = None,
        exclude_unlabelled: bool = False,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.k, self.margin, self.start_epoch = alpha, beta, k, margin, start_epoch
        self.id_loss: IdLoss = binary_cross_entropy if id_loss is None else id_loss
        self.surrogate, self.tail, self.exclude_unlabelled, self.gather = surrogate, tail, exclude_unlabelled, gather
        head = None
        if tail == "labels":
            if class_counts is None or num_head is None:
                raise ValueError('tail="labels" needs class_counts and num_head, which say what labels are rare')
            head = torch.zeros(len(class_counts), dtype=torch.bool)
            head[head_classes(torch.as_tensor(class_counts), num_head).cpu()] = True
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
        self, id_logits: LabelScores, target: MultilabelTarget, ood_logits: OutlierLogits, return_parts: bool = False
    ) -> Tensor | EnergyGapParts:
        """The loss of known samples' logits (n, C) by their labels (n, C) in {0, 1}, and outliers' logits (m, C).

        Returns:
            The scalar loss, or with `return_parts` also what it is made of. Without outliers, their two parts are zero
            and attached to the graph (warned once).
        """
        if self.gather:
            id_logits, target, ood_logits = (gather_rows(rows) for rows in (id_logits, target, ood_logits))
        return self._loss(id_logits, target, ood_logits, return_parts)

    @checked
    def _loss(
        self, id_logits: LabelScores, target: MultilabelTarget, ood_logits: OutlierLogits, return_parts: bool
    ) -> Tensor | EnergyGapParts:
        loss_id = self.id_loss(id_logits, target)
        nothing = attached_zero(ood_logits)
        if not len(ood_logits):
            warn_once("the batch holds no outliers: the loss is that of the known samples alone")
        ood_energy = joint_energy(ood_logits) if len(ood_logits) else ood_logits[:, 0]
        loss_conf = ood_energy.mean() / ood_logits.shape[1] if len(ood_logits) else nothing
        loss_gap = self._gap(id_logits, target, ood_energy) if self.gap_active else nothing
        value = loss_id + self.alpha * loss_conf + self.beta * loss_gap
        return EnergyGapParts(value, loss_id, loss_conf, loss_gap) if return_parts else value

    def _gap(self, id_logits: Tensor, target: Tensor, ood_energy: Tensor) -> Tensor:
        id_energy = joint_energy(id_logits)[self._candidates(target)]
        if not len(id_energy):
            warn_once("the energy gap is zero: no known sample of the batch can take part; use larger batches")
        if not (len(id_energy) and len(ood_energy)):
            return attached_zero(id_energy, ood_energy)
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


@checked
def binary_cross_entropy(logits: LabelScores, target: MultilabelTarget) -> Scalar:
    """The mean over all entries of a matrix of logits.

    >>> binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[0, 1]]))
    tensor(0.6931)
    """
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))
