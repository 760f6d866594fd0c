"""AUC for shifted or corrupted test data: the worst distribution in a Wasserstein ball around the training data.

    g = mean₊ (f − a)² + mean₋ (f − b)² + 2 α (m + mean₋ f − mean₊ f) − k α²            α ≥ 0, f in [0, 1]

    min over network, a, b, λ ≥ 0    max over α    λ ε + E_z max over x' { g(x', y) − λ ‖x' − x‖² }

By duality the ball costs a penalty λ on the transport, squared Euclidean distance with labels kept; the worst case is
found sample by sample by gradient ascent on the inputs, and λ follows the cost: above the budget ε it rises. One ball
for all ("free", DRAUC-Df) lets the adversary spend its budget on the rare class, whose samples weigh more; a ball per
class ("aware", DRAUC-Da) with p ε₊ + (1 − p) ε₋ = ε does not.

α ascends in one of three ways. The derivative of g in it is 2 (m + mean₋ f − mean₊ f) − 2 k α, with the means of the
batch. The authors' code, as LibAUC's PESG, ascends along

    2 (m + b − a) − 2 α

where a and b stand for those means, which they follow, and k does not appear: it does not hang on a single batch, is
behind while a and b are, and for k ≠ 1 does not end at the maximum of g. Or α is set to that maximum in closed form.

The exchange of max and min makes this an upper bound of the robust risk (the paper). The authors' code measures the
budget, the penalty and the cost of the dual step in three different units, and the norm of a whole batch at once; here
all are the mean squared distance per sample.

Wang et al., "DRAUC: An Instance-wise Distributionally Robust AUC Optimization Framework", NeurIPS 2023, arXiv
2311.03055.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.sides import as_probabilities, binary_sides
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.solvers.perturbation import Model, evaluation_mode
from equipoise.core.solvers.saddle import Box, SaddleLoss
from equipoise.core.types import BinaryTarget, Count, NonNegative, Positive, Range, Scalar, Scores, Whole
from equipoise.data.images.corruptions import SEVERITIES, Kind, Severity, corrupted_sets
from equipoise.ranking.metrics.binary_areas import auroc
from equipoise.ranking.robust.adversarial_auc import column_of
from equipoise.ranking.robust.minmax_auc import Number, UnitScores, class_weights


@checked
def margin_auc_terms(
    scores: UnitScores,
    target: BinaryTarget,
    a: Number,
    b: Number,
    alpha: Number,
    *,
    margin: NonNegative = 1.0,
    k: Positive = 1.0,
) -> Scores:
    """One term per sample, whose mean is `drauc_loss`; the objective of the ascent on the inputs.

    >>> margin_auc_terms(torch.tensor([0.75, 0.25]), torch.tensor([1, 0]), 0.75, 0.25, 0.5)
    tensor([-0.7500,  1.2500])
    """
    positive = target == 1
    square = torch.where(positive, scores - a, scores - b).square()
    pull = 2 * alpha * torch.where(positive, -scores, scores)
    return class_weights(scores, positive) * (square + pull) + 2 * alpha * margin - k * alpha * alpha


@checked
def drauc_loss(
    scores: UnitScores,
    target: BinaryTarget,
    a: Number,
    b: Number,
    alpha: Number,
    *,
    margin: NonNegative = 1.0,
    k: Positive = 1.0,
) -> Scalar:
    """The margin form of the min-max AUC loss: minimised over scores, a and b, maximised over α ≥ 0.

    Args:
        scores: (n,) in [0, 1].
        target: (n,) in {0, 1}.
        a: where the positives should be.
        b: where the negatives should be.
        alpha: the dual variable.
        margin: m ≥ 0, by how much the mean of the positives should be ahead.
        k: concavity in α; with 1 the maximum over α is the squared hinge of the gap of the means.

    Returns:
        The loss; zero, still attached to the graph, when one class is absent (warned once). Means divide by the number
        of samples of a class (the authors' code leaves out residuals that are exactly zero).

    >>> drauc_loss(torch.tensor([0.75, 0.25]), torch.tensor([1, 0]), 0.75, 0.25, 0.5)
    tensor(0.2500)
    """
    if not binary_sides(scores, target, objective="the robust AUC loss").rankable:
        return attached_zero(scores)
    return margin_auc_terms(scores, target, a, b, alpha, margin=margin, k=k).mean()


class DRAUCLoss(SaddleLoss):
    """`drauc_loss` as a module that owns a, b and α.

    Args:
        margin: as in `drauc_loss`.
        k: as in `drauc_loss`.
        alpha_rule: "gradient" ascends in α with the optimizer, along the derivative of the loss; "pesg" too, along the
            code's 2 (m + b − a) − 2 α, which goes to the maximum only for k = 1, and once a and b are the classes'
            means; "closed_form" sets α = max(0, m + mean₋ f − mean₊ f)/k of the batch in training mode.
        from_logits: apply the sigmoid.
        gather: take the samples of all processes of torch.distributed, so that a, b and α move alike on all; see
            `core.distributed`.

    >>> from equipoise.core.solvers.saddle import descent_ascent
    >>> from equipoise.ranking import WassersteinPerturbation
    >>> generator = torch.Generator().manual_seed(0)
    >>> x, y = torch.rand(200, 2, generator=generator), torch.arange(200) < 20
    >>> x = (x + 0.3 * y[:, None]).clamp(0, 1)
    >>> model, loss, ball = torch.nn.Linear(2, 1), DRAUCLoss(), WassersteinPerturbation(eps=0.05, steps=3, lr=0.1)
    >>> optimizer = descent_ascent(torch.optim.SGD, model, loss, lr=0.5, dual_lr=0.1)
    >>> for _ in range(40):
    ...     delta = ball(model, x, y, loss.terms, generator)
    ...     optimizer.zero_grad()
    ...     value = loss(model(x + delta).squeeze(1), y)
    ...     value.backward()
    ...     optimizer.step()
    >>> bool(loss.a > loss.b), float(ball.lambda_pos) != 1.0
    (True, True)
    """

    @checked
    def __init__(
        self,
        margin: NonNegative = 1.0,
        k: Positive = 1.0,
        alpha_rule: Literal["gradient", "pesg", "closed_form"] = "gradient",
        from_logits: bool = True,
        *,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.gather = gather
        self.margin, self.k, self.alpha_rule, self.from_logits = margin, k, alpha_rule, from_logits
        self.a, self.b = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))
        self.alpha = nn.Parameter(torch.tensor(0.0), requires_grad=alpha_rule != "closed_form")

    def min_parameters(self) -> tuple[nn.Parameter, ...]:
        """a and b."""
        return (self.a, self.b)

    def max_parameters(self) -> tuple[nn.Parameter, ...]:
        """α."""
        return (self.alpha,)

    def bounds(self) -> Mapping[nn.Parameter, Box]:
        """a and b in [0, 1], α ≥ 0."""
        return {self.a: (0.0, 1.0), self.b: (0.0, 1.0), self.alpha: (0.0, torch.inf)}

    @torch.no_grad()
    @checked
    def initialize(self, scores: Scores, target: BinaryTarget) -> None:
        """Set a, b and α to the saddle point for these scores.

        Raises:
            ValueError: if one class is absent.
        """
        probability = as_probabilities(scores, self.from_logits)
        pos, neg = probability[target == 1], probability[target == 0]
        if not (len(pos) and len(neg)):
            raise ValueError(f"there are {len(pos)} positives and {len(neg)} negatives; the saddle point needs both")
        self.a.copy_(pos.mean())
        self.b.copy_(neg.mean())
        self.alpha.copy_((self.margin + self.b - self.a).clamp_min(0) / self.k)

    @checked
    def terms(self, scores: Scores, target: BinaryTarget) -> Scores:
        """One term per sample, for an ascent on the inputs, at the present a, b and α."""
        probability = as_probabilities(scores, self.from_logits)
        return margin_auc_terms(probability, target, self.a, self.b, self.alpha, margin=self.margin, k=self.k)

    def forward(self, scores: Scores, target: BinaryTarget) -> Scalar:
        """The loss of scores (n,) by targets (n,)."""
        if self.gather:
            scores, target, _ = gather_batch(scores, target)
        return self._loss(scores, target)

    @checked
    def _loss(self, scores: Scores, target: BinaryTarget) -> Scalar:
        probability = as_probabilities(scores, self.from_logits)
        both = 0 < int((target == 1).sum()) < len(target)
        if self.alpha_rule == "closed_form" and self.training and both:
            with torch.no_grad():
                gap = probability[target == 0].mean() - probability[target == 1].mean()
                self.alpha.copy_((self.margin + gap).clamp_min(0) / self.k)
        alpha = self.alpha.detach() if self.alpha_rule == "pesg" else self.alpha
        loss: Tensor = drauc_loss(probability, target, self.a, self.b, alpha, margin=self.margin, k=self.k)
        if self.alpha_rule == "pesg" and both:
            slope = 2 * (self.margin + self.b - self.a - self.alpha).detach()
            # Nothing but the gradient of α.
            loss = loss + (slope * (self.alpha - alpha)).to(loss.dtype)
        return loss

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"margin={self.margin}, k={self.k}, alpha_rule={self.alpha_rule}"


class CorruptionReport(NamedTuple):
    """AUROC of corrupted copies of the same images.

    Attributes:
        clean: of the images as they are.
        by_kind: {kind: {severity: AUROC}}.
        mean: over kinds and severities, each counted once.
    """

    clean: Tensor
    by_kind: dict[str, dict[int, Tensor]]
    mean: Tensor


@checked
def corrupted_auroc(
    model: Model,
    images: Annotated[Float[Tensor, "n *channels height width"], Range(0, 1)],
    target: BinaryTarget,
    *,
    kinds: Sequence[Kind] | None = None,
    severities: Sequence[Severity] = SEVERITIES,
    seed: Whole = 0,
    batch_size: Count = 512,
) -> CorruptionReport:
    """AUROC of the images as they are and under every corruption of `data.images.corruptions`.

    Args:
        model: images → scores (n,) or (n, 1); evaluated without its training behaviour.
        images: in [0, 1].
        target: (n,) in {0, 1}.
        kinds: of `data.CORRUPTIONS`; all if absent.
        severities: from 1 to 5.
        seed: of the corruptions, which are the same for the same seed whichever are asked for.
        batch_size: images scored at once.

    Raises:
        ValueError: if there is no kind or severity.

    >>> images, target = torch.rand(40, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    >>> images[target == 1, :4] = 1.0
    >>> report = corrupted_auroc(lambda x: x[:, :4].mean((1, 2)), images, target, kinds=["contrast", "brightness"])
    >>> report.clean.item(), sorted(report.by_kind), sorted(report.by_kind["contrast"])
    (1.0, ['brightness', 'contrast'], [1, 2, 3, 4, 5])
    """
    by_kind: dict[str, dict[int, Tensor]] = {}

    def judge(pictures: Tensor) -> Tensor:
        return auroc(torch.cat([column_of(model(part)) for part in pictures.split(batch_size)]), target)

    with evaluation_mode(model), torch.no_grad():
        clean = judge(images)
        for kind, severity, pictures in corrupted_sets(images, kinds=kinds, severities=severities, seed=seed):
            by_kind.setdefault(kind, {})[severity] = judge(pictures)
    values = [value for found in by_kind.values() for value in found.values()]
    if not values:
        raise ValueError(
            "there is no corruption to judge by; name at least one kind and one severity, or leave both out"
        )
    return CorruptionReport(clean, by_kind, torch.stack(values).mean())
