"""Distillation losses between next-token (or class) distributions, forward KL and reverse KL being two of a plane.

    D(p‖q) = −1/(αβ) Σ_k [ p_k^α q_k^β − α/s p_k^s − β/s q_k^s ],   s = α + β,   p = softmax(z_t/τ), q = softmax(z_s/τ)

p is the teacher, q the student. α sets how strongly large differences count, β how strongly tokens count that the
student likes already. Forward KL, (1, 0), makes a small student too smooth; reverse KL, (0, 1), makes it drop all but
the main tokens; the points between trade one for the other. All limits are exact, and one formula serves the whole
plane (`core.token_divergence.families`); values and gradients are computed a few rows at a time, so that no copy of the
logits is made but their gradient (`core.token_divergence.kernel`).

The authors' code divides by α or β in the limit cases where the square belongs (fixed in their later repository): the
values here differ from it there by that factor.

Wang et al., "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via α-β-Divergence",
ICML 2025, arXiv 2505.04560, by its code and abstract.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.token_divergence.chunks import InfPolicy
from equipoise.core.token_divergence.families import AlphaBeta, DivergenceName, TokenDivergence, resolve_divergence
from equipoise.core.token_divergence.fused import LinearHead, fused_token_terms
from equipoise.core.token_divergence.kernel import token_terms
from equipoise.core.types import Count, Positive, Real
from equipoise.language.distillation.tokens import (
    Items,
    Reduction,
    TokenLabels,
    TokenLogits,
    TokenWeights,
    reduce_tokens,
    same_vocabulary,
    valid_tokens,
)


@checked
def token_divergence_loss(
    student_logits: TokenLogits,
    teacher_logits: TokenLogits,
    divergence: DivergenceName | TokenDivergence = "forward_kl",
    *,
    labels: TokenLabels | None = None,
    ignore_index: int = -100,
    temperature: Positive = 1.0,
    scale_by_T2: bool = False,
    weight: TokenWeights | None = None,
    reduction: Reduction = "mean",
    num_items_in_batch: Items = None,
    inf_policy: InfPolicy = "error",
    allow_vocab_crop: bool = False,
    chunk_rows: Count | None = None,
) -> Tensor:
    """Divergence of a student's distributions from a teacher's.

    Args:
        student_logits: (..., V), raw; position i is that of the token compared (a causal model's are shifted first).
        teacher_logits: (..., V); they get no gradient.
        divergence: a name, with its usual settings, or an object of `core.token_divergence.families`, such as
            `JensenShannon(0.1)`: "forward_kl", "reverse_kl", "jsd" (generalised, β = ½), "skew_forward_kl" and
            "skew_reverse_kl" (λ = 0.1), "tvd", "weighted_kl" (½ each), "adaptive_kl" (μ = ½).
        labels: (...) token ids; here they only say which tokens count.
        ignore_index: label of tokens that do not count.
        temperature: τ, by which both logits are divided.
        scale_by_T2: multiply by τ², so that gradients keep their scale when τ changes (Hinton's convention).
        weight: (...) non-negative weight of each token; the mean still divides by the number of tokens.
        reduction: "mean" over the tokens that count, "sum", or "none" for shape (...) with 0 at tokens that do not.
        num_items_in_batch: number of tokens in all batches of a step, which then divides the sum, so that the loss does
            not depend on how a step is cut into batches.
        inf_policy: what a logit of −∞ in one of the models only is: an "error", or an entry to leave out ("mask"). In
            both models it counts 0.
        allow_vocab_crop: compare the common first entries of vocabularies that differ in size by padding.
        chunk_rows: rows worked on at a time; what is quick and small if None.

    Returns:
        The loss in nats, float32 (float64 for such logits); zero, attached to the graph, where no token counts.

    Raises:
        ValueError: if shapes or vocabularies differ, a label is no entry of the vocabulary, or a row of logits that
            counts holds NaN, +∞, or −∞ on one side only.

    Source: Wang et al. 2025 and the papers named in `core.token_divergence.families`; the row-by-row evaluation and its
    gradients are ours.

    >>> student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    >>> token_divergence_loss(student, teacher, "reverse_kl")
    tensor(1.1504)
    """
    family = resolve_divergence(divergence)
    student, teacher = same_vocabulary(student_logits, teacher_logits, allow_crop=allow_vocab_crop)
    tokens = valid_tokens(student_logits.shape[:-1], labels, ignore_index, student.shape[1], student.device)
    terms = token_terms(
        student,
        teacher,
        family,
        index=tokens.places,
        temperature=temperature,
        inf_policy=inf_policy,
        chunk_rows=chunk_rows,
    )
    values = terms.divergence * temperature**2 if scale_by_T2 else terms.divergence
    return reduce_tokens(values, tokens, reduction, weight=weight, num_items=num_items_in_batch, attach=student_logits)


def ab_divergence(
    student_logits: TokenLogits, teacher_logits: TokenLogits, alpha: Real = 0.2, beta: Real = 0.7, **settings: object
) -> Tensor:
    """α-β-divergence of a student's distributions from a teacher's.

    Args:
        student_logits: (..., V), see `token_divergence_loss`.
        teacher_logits: (..., V).
        alpha: α, any real number; (0.2, 0.7) is the authors' choice for large vocabularies.
        beta: β; (0.8, 0.3) is their choice for a hundred classes.
        settings: as in `token_divergence_loss`.

    Returns:
        The loss.

    Raises:
        ValueError: as in `token_divergence_loss`.

    Source: Wang et al. 2025.

    >>> student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    >>> ab_divergence(student, teacher, 0.5, 0.5)
    tensor(1.0633)
    """
    return token_divergence_loss(student_logits, teacher_logits, AlphaBeta(alpha, beta), **settings)  # type: ignore[arg-type]


@checked
def fused_divergence_loss(
    student_hidden: Float[Tensor, "*batch _width"],
    student_head: LinearHead,
    teacher_hidden: Float[Tensor, "*batch _teacher_width"],
    teacher_head: LinearHead,
    divergence: DivergenceName | TokenDivergence = "forward_kl",
    *,
    labels: TokenLabels | None = None,
    ignore_index: int = -100,
    temperature: Positive = 1.0,
    scale_by_T2: bool = False,
    weight: TokenWeights | None = None,
    reduction: Reduction = "mean",
    num_items_in_batch: Items = None,
    inf_policy: InfPolicy = "error",
) -> Tensor:
    """`token_divergence_loss` of the logits of two output layers, which are never formed as a whole.

    Args:
        student_hidden: (..., H) last hidden states.
        student_head: the student's output layer, `LinearHead(weight, bias, scale, soft_cap)`; gradients flow to its
            weight and bias.
        teacher_hidden: (..., H'), another width if need be.
        teacher_head: the teacher's output layer over the same vocabulary.
        divergence: as in `token_divergence_loss`.
        labels: (...) which only say which tokens count.
        ignore_index: label of tokens that do not count.
        temperature: τ.
        scale_by_T2: multiply by τ².
        weight: (...) of each token.
        reduction: as in `token_divergence_loss`.
        num_items_in_batch: as in `token_divergence_loss`.
        inf_policy: as in `token_divergence_loss`.

    Returns:
        The loss.

    Raises:
        ValueError: as in `token_divergence_loss`.

    Source: the same formulas; the tiling is ours.

    >>> from equipoise.core.token_divergence.fused import LinearHead
    >>> fused_divergence_loss(torch.eye(3), LinearHead(torch.eye(3)), torch.ones(3, 5), LinearHead(torch.ones(3, 5)))
    tensor(0.1195)
    """
    family = resolve_divergence(divergence)
    own, other = len(student_head.weight), len(teacher_head.weight)
    if own != other:
        raise ValueError(f"the student's output layer has {own} entries, the teacher's {other}; crop one of them first")
    tokens = valid_tokens(student_hidden.shape[:-1], labels, ignore_index, own, student_hidden.device)
    terms = fused_token_terms(
        student_hidden.reshape(-1, student_hidden.shape[-1]),
        student_head,
        teacher_hidden.reshape(-1, teacher_hidden.shape[-1]),
        teacher_head,
        family,
        index=tokens.places,
        temperature=temperature,
        inf_policy=inf_policy,
    )
    values = terms.divergence * temperature**2 if scale_by_T2 else terms.divergence
    return reduce_tokens(values, tokens, reduction, weight=weight, num_items=num_items_in_batch, attach=student_hidden)


class TokenDivergenceLoss(nn.Module):
    """`token_divergence_loss` as a module.

    Args:
        divergence: as in `token_divergence_loss`.
        temperature: as in `token_divergence_loss`.
        scale_by_T2: as in `token_divergence_loss`.
        ignore_index: as in `token_divergence_loss`.
        reduction: as in `token_divergence_loss`.
        inf_policy: as in `token_divergence_loss`.
        allow_vocab_crop: as in `token_divergence_loss`.

    >>> student = torch.zeros(2, 5, requires_grad=True)
    >>> teacher = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    >>> optimizer = torch.optim.SGD([student], lr=1.0)
    >>> for _ in range(300):
    ...     optimizer.zero_grad()
    ...     TokenDivergenceLoss("jsd")(student, teacher).backward()
    ...     optimizer.step()
    >>> torch.allclose(student.softmax(1), teacher.softmax(1), atol=0.02)
    True
    """

    @checked
    def __init__(
        self,
        divergence: DivergenceName | TokenDivergence = "forward_kl",
        *,
        temperature: Positive = 1.0,
        scale_by_T2: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        inf_policy: InfPolicy = "error",
        allow_vocab_crop: bool = False,
    ) -> None:
        super().__init__()
        self.divergence = resolve_divergence(divergence)
        self.temperature = temperature
        self.scale_by_T2 = scale_by_T2
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.inf_policy = inf_policy
        self.allow_vocab_crop = allow_vocab_crop

    def forward(
        self,
        student_logits: TokenLogits,
        teacher_logits: TokenLogits,
        labels: TokenLabels | None = None,
        *,
        weight: TokenWeights | None = None,
        num_items_in_batch: Items = None,
    ) -> Tensor:
        """The loss of a batch, see `token_divergence_loss`."""
        return token_divergence_loss(
            student_logits,
            teacher_logits,
            self.divergence,
            labels=labels,
            ignore_index=self.ignore_index,
            temperature=self.temperature,
            scale_by_T2=self.scale_by_T2,
            weight=weight,
            reduction=self.reduction,
            num_items_in_batch=num_items_in_batch,
            inf_policy=self.inf_policy,
            allow_vocab_crop=self.allow_vocab_crop,
        )

    def extra_repr(self) -> str:
        """The settings."""
        return f"{self.divergence}, temperature={self.temperature:g}"


class ABDivergenceLoss(TokenDivergenceLoss):
    """`ab_divergence` as a module: (0.2, 0.7) suits large vocabularies, (0.8, 0.3) a hundred classes.

    Args:
        alpha: as in `ab_divergence`.
        beta: as in `ab_divergence`.
        settings: as in `TokenDivergenceLoss`.

    >>> ABDivergenceLoss(1, 0)(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.4621)
    """

    def __init__(self, alpha: Real = 0.2, beta: Real = 0.7, **settings: object) -> None:
        super().__init__(AlphaBeta(alpha, beta), **settings)  # type: ignore[arg-type]


@checked
@torch.no_grad()
def log_mass_ratio(
    student_logits: TokenLogits,
    teacher_logits: TokenLogits,
    divergence: DivergenceName | TokenDivergence = "forward_kl",
    lr: Positive = 1.0,
) -> Tensor:
    """How one step down a divergence moves the student's mass: log q_new − log q_old of every entry.

    The step is taken on the logits themselves, each row on its own: LogR = −η ∂D/∂z − (LSE(z − η ∂D/∂z) − LSE(z)). The
    paper compares divergences by it: β weighs the entries the student likes, α turns |p − q| into |log p − log q|.

    Args:
        student_logits: (..., V).
        teacher_logits: (..., V).
        divergence: as in `token_divergence_loss`.
        lr: η, size of the step.

    Returns:
        (..., V), float32 (float64 for such logits).

    Raises:
        ValueError: as in `token_divergence_loss`.

    Source: Wang et al. 2025, in the form of a second-hand note (reconstructed).

    >>> log_mass_ratio(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), "forward_kl", lr=1.0)
    tensor([[ 0.2046, -0.2575]])
    """
    student, teacher = same_vocabulary(student_logits, teacher_logits, allow_crop=False)
    dtype = torch.float64 if torch.float64 in (student.dtype, teacher.dtype) else torch.float32
    z = student.to(dtype)
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(
            token_terms(leaf, teacher, resolve_divergence(divergence)).divergence.sum(), leaf
        )
    step = -lr * slope
    moved = step - ((z + step).logsumexp(1) - z.logsumexp(1))[:, None]
    return moved.view(student_logits.shape)
