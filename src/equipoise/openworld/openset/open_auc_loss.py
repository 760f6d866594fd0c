"""Train for OpenAUC: classify the known, and rank them as more known than samples that are made up.

    L = closed-set loss + λ · 1 / (N_k N_u)  Σ_i Σ_j  1[h_i = y_i] · (1 − (s_i − s_j))²

s is an inward score, by default the largest logit (the paper's r is −s); only known samples that are classified right
take part. No unknown sample is seen in training: they are mixed from pairs of embeddings of different classes
(manifold mixup) and sent through the classifier's head. The batch is split, so that no sample meets its own mixture:
the first half gives the known side, the second half is mixed.

The paper's risk is over all pairs; the authors' code pairs the i-th known with the i-th mixture, which has the same
expectation and more variance. Both are here. The mixing weight is drawn once per batch, as published.

Wang et al., "OpenAUC: Towards AUC-Oriented Open-Set Recognition", NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from equipoise.core.pairs.loss import pairwise_loss
from equipoise.core.pairs.surrogates import SurrogateLike, resolve_surrogate
from equipoise.core.reduction import attached_zero
from equipoise.core.scores import HIGHER_IS_IN, ScoreSpec
from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex, ClassScores, ClassTarget, MayBeEmpty, NonNegative, Positive, Range, Scalar

InwardScore: TypeAlias = Callable[[Tensor], Tensor]
Pairing: TypeAlias = Literal["all", "aligned"]
FakeLogits: TypeAlias = Annotated[Float[Tensor, "m classes"], MayBeEmpty()]
FakeValid: TypeAlias = Annotated[
    Bool[Tensor, " m"] | Integer[Tensor, " m"] | Float[Tensor, " m"], Range(0), MayBeEmpty()
]


@checked
def max_logit(logits: Annotated[Float[Tensor, "n classes"], MayBeEmpty()]) -> Float[Tensor, " n"]:
    """The largest logit, higher for what is known; the gradient goes to one entry also where several tie.

    >>> max_logit(torch.tensor([[1.0, 3.0]]))
    tensor([3.])
    """
    return logits.max(dim=1).values


@checked
def open_auc_pair_loss(
    known_logits: ClassScores,
    known_target: ClassTarget,
    fake_logits: FakeLogits,
    fake_valid: FakeValid | None = None,
    *,
    pairing: Pairing = "all",
    surrogate: SurrogateLike = "square",
    score: InwardScore = max_logit,
) -> Scalar:
    """Mean surrogate over pairs of a known sample that is classified right and an open-set sample.

    Args:
        known_logits: (n, C).
        known_target: (n,) classes.
        fake_logits: (m, C) of samples that stand in for the unknown.
        fake_valid: (m,) which of them count, or their non-negative weights; all, if absent.
        pairing: "all" pairs, or "aligned", the i-th with the i-th (as the authors' code), for which m = n.
        surrogate: loss of s_i − s_j, see `core.pairs.surrogates`.
        score: logits (n, C) → (n,), higher for what is known.

    Returns:
        The mean; zero, attached to the graph, where no known sample is right or no open-set sample valid: training
        begins like that, so it is no reason to warn.

    Raises:
        ValueError: on a bad argument, by name; on aligned pairs of different numbers.

    >>> known, fake = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.0]])
    >>> open_auc_pair_loss(known, torch.tensor([0, 0]), fake)
    tensor(0.2500)
    """
    spec: ScoreSpec = getattr(score, "spec", HIGHER_IS_IN)
    known, fake = (spec.inward(score(logits)) for logits in (known_logits, fake_logits))
    hit = (known_logits.detach().argmax(1) == known_target).to(known.dtype)
    valid = torch.ones_like(fake) if fake_valid is None else fake_valid.to(fake.dtype)
    if pairing == "all":
        return pairwise_loss(known, fake, surrogate, pos_weight=hit, neg_weight=valid)
    if len(known) != len(fake):
        raise ValueError(f'pairing="aligned" needs as many fakes as known samples, got {len(known)} and {len(fake)}')
    weight = hit * valid
    total = weight.sum()
    losses = resolve_surrogate(surrogate).value(known - fake, 1.0)
    return (weight * losses).sum() / torch.where(total > 0, total, 1)


@checked
def manifold_mixup_outliers(
    embedding: Float[Tensor, "m ..."],
    target: Annotated[Integer[Tensor, " m"] | Bool[Tensor, " m"], ClassIndex(dim=None)],
    alpha: Positive = 2.0,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "m ..."], Bool[Tensor, " m"]]:
    """Mix every embedding with another one of the batch, by one weight drawn from Beta(α, α).

    Args:
        embedding: (m, ...) the layer before the classifier.
        target: (m,) classes.
        alpha: α > 0; below 1 the mixtures come close to real samples and push down their scores.
        generator: on the CPU; PyTorch's default one if absent.

    Returns:
        The mixtures, attached to the graph, and which are mixed from two different classes.

    >>> mixed, valid = manifold_mixup_outliers(torch.eye(4), torch.tensor([0, 0, 0, 0]))
    >>> bool(valid.any())
    False
    """
    # PyTorch draws no Beta from a generator; NumPy does, from a seed that the generator gives.
    seed = int(torch.randint(2**62, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    order = torch.randperm(len(target), generator=generator).to(target.device)
    return share * embedding + (1 - share) * embedding[order], target != target[order]


class OpenAUCTerms(NamedTuple):
    """The two parts of the objective.

    Attributes:
        closed: the closed-set loss.
        pairs: the mean over (known, open-set) pairs, not yet weighted by λ.
    """

    closed: Tensor
    pairs: Tensor


class OpenAUCLoss(nn.Module):
    """Closed-set loss plus the pairwise coupling with open-set samples.

    Args:
        closed_loss: (logits, target) → scalar; cross-entropy if absent.
        lam: λ ≥ 0, weight of the pairs.
        alpha: of `manifold_mixup_outliers`.
        pairing: "all" or "aligned" (as the authors' code).
        score: logits (n, C) → (n,), higher for what is known; also what to reject by at test time.
        surrogate: of `open_auc_pair_loss`; the paper's is "square".

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(64, 8, generator=g), torch.arange(64) % 4
    >>> x[range(64), y] += 3
    >>> body, head = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU()), torch.nn.Linear(16, 4)
    >>> loss = OpenAUCLoss(lam=0.1)
    >>> optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
    >>> for _ in range(40):
    ...     embedding = body(x)
    ...     value = loss(head(embedding), y, embedding=embedding, head=head, generator=g)
    ...     optimizer.zero_grad()
    ...     value.backward()
    ...     optimizer.step()
    >>> value.item() < 1
    True
    """

    @checked
    def __init__(
        self,
        closed_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        lam: NonNegative = 0.1,
        alpha: Positive = 2.0,
        pairing: Pairing = "all",
        score: InwardScore = max_logit,
        surrogate: SurrogateLike = "square",
    ) -> None:
        super().__init__()
        resolve_surrogate(surrogate)
        self.closed_loss = nn.CrossEntropyLoss() if closed_loss is None else closed_loss
        self.lam, self.alpha, self.pairing, self.score = lam, alpha, pairing, score
        self.surrogate = surrogate

    def forward(
        self,
        logits: ClassScores,
        target: ClassTarget,
        embedding: Tensor | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        fake_logits: FakeLogits | None = None,
        fake_valid: FakeValid | None = None,
        generator: torch.Generator | None = None,
    ) -> Scalar:
        """The objective; arguments as `terms`."""
        closed, pairs = self.terms(logits, target, embedding, head, fake_logits, fake_valid, generator)
        return closed + self.lam * pairs

    @checked
    def terms(
        self,
        logits: ClassScores,
        target: ClassTarget,
        embedding: Tensor | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        fake_logits: FakeLogits | None = None,
        fake_valid: FakeValid | None = None,
        generator: torch.Generator | None = None,
    ) -> OpenAUCTerms:
        """Both parts, unweighted.

        Args:
            logits: (n, C) of known samples.
            target: (n,) their classes.
            embedding: (n, ...) what the head made the logits of, to mix open-set samples from.
            head: embeddings to logits.
            fake_logits: (m, C) of open-set samples from elsewhere, real or generated, in place of mixing; all known
                samples of the batch are paired with them.
            fake_valid: (m,) of `open_auc_pair_loss`, with `fake_logits` only.
            generator: of `manifold_mixup_outliers`.

        Returns:
            Closed-set loss and pair term. An odd batch leaves one sample out of the pairs; fewer than four samples
            have no mixtures, and the pair term is zero.

        Raises:
            ValueError: unless open-set samples come from one place: an embedding with its head, or `fake_logits`.
        """
        if (embedding is None) != (head is None):
            raise ValueError(
                f"{'head' if head is None else 'embedding'} is missing: mixing open-set samples needs both"
            )
        if (embedding is None) == (fake_logits is None):
            raise ValueError(
                "open-set samples come from `embedding` and `head`, or from `fake_logits`: give one of them"
            )
        if fake_valid is not None and fake_logits is None:
            raise ValueError("fake_valid belongs to `fake_logits`; mixtures know which of them are valid")
        closed = self.closed_loss(logits, target)
        if fake_logits is not None:
            return OpenAUCTerms(closed, self._pairs(logits, target, fake_logits, fake_valid))
        half = len(target) // 2
        if half < 2 or embedding is None or head is None:
            return OpenAUCTerms(closed, attached_zero(logits))
        second = slice(half, 2 * half)
        mixed, valid = manifold_mixup_outliers(embedding[second], target[second], self.alpha, generator)
        # The head is as precise as what it was given.
        fake_logits = head(mixed.to(embedding.dtype))
        return OpenAUCTerms(closed, self._pairs(logits[:half], target[:half], fake_logits, valid))

    def _pairs(self, logits: Tensor, target: Tensor, fake_logits: Tensor, fake_valid: Tensor | None) -> Tensor:
        return open_auc_pair_loss(
            logits,
            target,
            fake_logits,
            fake_valid,
            pairing=self.pairing,
            surrogate=self.surrogate,
            score=self.score,
        )

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        surrogate = resolve_surrogate(self.surrogate).name
        return f"lam={self.lam}, alpha={self.alpha}, pairing={self.pairing!r}, surrogate={surrogate!r}"
