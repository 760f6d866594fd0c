"""Some mistakes show in the moment, others only in the whole workflow: a small and a large model, and whom to trust.

    small branch    s = [u ; v ; u − v ; u ⊙ v] of the light encoder's whole video u and segment v, logits z_s
    large branch    frozen embedding e of the segment, logits z_l
    collaboration   a = σ(gate), P = a softmax(z_s) + (1 − a) softmax(z_l)       a is the weight of the SMALL branch

In mode "logit" the softmax of a z_s + (1 − a) z_l is taken instead. The cascade asks the small branch first and calls
the large one for the undecided only.

"Understanding-Enhanced Model Collaboration for Long-Tailed Egocentric Mistake Detection", arXiv 2606.02120: a technical
report of which only abstract and summaries were readable. The two branches, the adaptive gate and three objectives are
the report's; the joint input, the gate's form and inputs, its training on a held-out part, the modes and the cascade
are a reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, nll_loss

from equipoise.core.models.experts import two_layer_gate
from equipoise.core.signature import checked
from equipoise.core.types import (
    BinaryTarget,
    ClassScores,
    ClassTarget,
    Count,
    OpenFraction,
    Probability,
    ProperFraction,
    Range,
    Scores,
)
from equipoise.core.validate import check_finite

Mode: TypeAlias = Literal["prob", "logit"]
Heads: TypeAlias = Literal["shared", "separate"]
GateInput: TypeAlias = Literal["both", "features", "logits"]


class Collaboration(NamedTuple):
    """What two branches say together.

    Attributes:
        prob: (n, C).
        log_prob: its logarithm, computed without leaving log space.
        weight: (n,), of the small branch.
        nll: mean negative log-likelihood of the target, or None without one.
    """

    prob: Tensor
    log_prob: Tensor
    weight: Tensor
    nll: Tensor | None


@checked
def collaboration_gate_fusion(
    small_logits: ClassScores,
    large_logits: ClassScores,
    gate_logit: Scores,
    target: ClassTarget | None = None,
    *,
    mode: Mode = "prob",
) -> Collaboration:
    """Mix the decisions of two branches by σ(gate_logit), the weight of the small one.

    Args:
        small_logits: (n, C).
        large_logits: (n, C).
        gate_logit: (n,).
        target: class indices, for `nll`.
        mode: "prob" mixes probabilities, "logit" logits; for "logit" calibrate the branches first.

    >>> collaboration_gate_fusion(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]), torch.zeros(1)).prob
    tensor([[0.3096, 0.6904]])
    """
    weight = gate_logit.sigmoid()
    if mode == "prob":
        log_prob = torch.logaddexp(
            logsigmoid(gate_logit)[:, None] + small_logits.log_softmax(1),
            logsigmoid(-gate_logit)[:, None] + large_logits.log_softmax(1),
        )
    else:
        # 1 − a as σ(−g), which does not round to 0 where a rounds to 1.
        mixed = weight[:, None] * small_logits + (-gate_logit).sigmoid()[:, None] * large_logits
        log_prob = mixed.log_softmax(1)
    nll = None if target is None else nll_loss(log_prob, target)
    return Collaboration(log_prob.exp(), log_prob, weight, nll)


class CollaborationGate(nn.Module):
    """Linear - ReLU - Linear to one logit, and the mixture that it weighs; begins without a preference in its bias.

    Args:
        in_dim: width of the gate input.
        hidden: width of its hidden layer.
        mode: "prob" or "logit".

    >>> gate = CollaborationGate(5)
    >>> sorted(gate(torch.zeros(2, 5), torch.zeros(2, 2), torch.ones(2, 2)))
    ['log_prob', 'prob', 'weight']
    """

    @checked
    def __init__(self, in_dim: Count, hidden: Count = 64, mode: Mode = "prob") -> None:
        super().__init__()
        self.mode = mode
        self.net = two_layer_gate(in_dim, 1, hidden)

    def forward(self, gate_input: Tensor, small_logits: Tensor, large_logits: Tensor) -> dict[str, Tensor]:
        """`collaboration_gate_fusion` with the gate's logit: prob, log_prob and weight."""
        found = collaboration_gate_fusion(small_logits, large_logits, self.net(gate_input).squeeze(1), mode=self.mode)
        return {"prob": found.prob, "log_prob": found.log_prob, "weight": found.weight}


class Branch(NamedTuple):
    """A branch's view: features (n, D), logits (n, C), and the logits of every head, for their objectives."""

    features: Tensor
    logits: Tensor
    head_logits: Tensor | tuple[Tensor, ...]


class _BranchHeads(nn.Module):
    def __init__(self, dim: int, hidden: int, dropout: float, num_classes: int, heads: Heads) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_classes))
            for _ in range(1 if heads == "shared" else 3)
        )

    def forward(self, features: Tensor) -> Branch:
        logits = tuple(head(features) for head in self.heads)
        if len(logits) == 1:
            return Branch(features, logits[0], logits[0])
        # Averaged probabilities, as logits: heads of different objectives are calibrated to different priors.
        averaged = torch.stack([z.log_softmax(1) for z in logits]).logsumexp(0)
        return Branch(features, averaged, logits)


class ContextBranch(nn.Module):
    """The small branch: one light encoder for the whole video and the segment, and a classifier of both.

    Args:
        encoder: to (n, dim); `nn.Identity()` for embeddings.
        dim: width of the embedding.
        joint: "concat_diff_prod" for [u ; v ; u − v ; u ⊙ v], "concat" for [u ; v].
        hidden: width of the classifier.
        dropout: in the classifier.
        num_classes: C.
        heads: "shared", or "separate" for one per objective with averaged probabilities.

    A missing whole video is a learned placeholder and a flag among the features.

    >>> ContextBranch(torch.nn.Identity(), 4)(None, torch.randn(3, 4)).logits.shape
    torch.Size([3, 2])
    """

    @checked
    def __init__(
        self,
        encoder: nn.Module,
        dim: Count,
        joint: Literal["concat", "concat_diff_prod"] = "concat_diff_prod",
        *,
        hidden: Count = 256,
        dropout: ProperFraction = 0.2,
        num_classes: Count = 2,
        heads: Heads = "shared",
    ) -> None:
        super().__init__()
        self.encoder, self.joint = encoder, joint
        self.placeholder = nn.Parameter(torch.zeros(dim))
        self.out_dim = (2 if joint == "concat" else 4) * dim + 1
        self.classifier = _BranchHeads(self.out_dim, hidden, dropout, num_classes, heads)

    def forward(self, coarse: Tensor | None, fine: Tensor) -> Branch:
        """Judge segments in their context."""
        v = self.encoder(fine)
        u = self.placeholder.expand_as(v) if coarse is None else self.encoder(coarse)
        check_finite("context embedding", u)
        check_finite("segment embedding", v)
        parts = [u, v] if self.joint == "concat" else [u, v, u - v, u * v]
        flag = v.new_full((len(v), 1), float(coarse is None))
        return self.classifier(torch.cat([*parts, flag], 1))


class DetailBranch(nn.Module):
    """The large branch: a classifier on frozen embeddings of the segment.

    Args:
        dim: width of the embedding.
        hidden: width of the classifier.
        dropout: in the classifier.
        num_classes: C.
        heads: as in `ContextBranch`.

    >>> DetailBranch(6)(torch.randn(3, 6)).logits.shape
    torch.Size([3, 2])
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        hidden: Count = 256,
        dropout: ProperFraction = 0.2,
        num_classes: Count = 2,
        heads: Heads = "shared",
    ) -> None:
        super().__init__()
        self.norm, self.out_dim = nn.LayerNorm(dim), dim
        self.classifier = _BranchHeads(dim, hidden, dropout, num_classes, heads)

    def forward(self, embedding: Tensor) -> Branch:
        """Judge segments by themselves.

        Raises:
            ValueError: on NaN or infinity, with the index of the first.
        """
        check_finite("embedding", embedding)
        return self.classifier(self.norm(embedding))


class TwoBranchCollaboration(nn.Module):
    """A small branch with context, a large one with detail, and the gate between them.

    Args:
        small_branch: (coarse, fine) → `Branch`.
        large_branch: embedding → `Branch`.
        gate: a `CollaborationGate` as wide as what `gate_input` gives; see `gate_width`.
        gate_input: "both" features and logits, "features" or "logits".
        detach: branches are not trained to please the gate.

    >>> small, large = ContextBranch(torch.nn.Identity(), 4), DetailBranch(6)
    >>> gate = CollaborationGate(TwoBranchCollaboration.gate_width(small, large))
    >>> model = TwoBranchCollaboration(small, large, gate)
    >>> model(torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 6))["prob"].shape
    torch.Size([3, 2])
    """

    @checked
    def __init__(
        self,
        small_branch: nn.Module,
        large_branch: nn.Module,
        gate: CollaborationGate,
        *,
        gate_input: GateInput = "both",
        detach: bool = True,
    ) -> None:
        super().__init__()
        self.small_branch, self.large_branch, self.gate = small_branch, large_branch, gate
        self.gate_input, self.detach = gate_input, detach

    @staticmethod
    @checked
    def gate_width(
        small_branch: ContextBranch, large_branch: DetailBranch, gate_input: GateInput = "both", num_classes: Count = 2
    ) -> int:
        """Width of the gate's input."""
        features = small_branch.out_dim + large_branch.out_dim
        return {"both": features + 2 * num_classes, "features": features, "logits": 2 * num_classes}[gate_input]

    def forward(self, coarse: Tensor | None, fine: Tensor, embedding: Tensor | None) -> dict[str, Tensor | Branch]:
        """Judge a batch; without `embedding` the small branch decides alone (weight 1).

        Returns:
            prob, log_prob (n, C), weight (n,) of the small branch, and the branches "small" and "large".
        """
        return self._joined(self.small_branch(coarse, fine), embedding)

    def _joined(self, small: Branch, embedding: Tensor | None) -> dict[str, Tensor | Branch]:
        if embedding is None:
            log_prob = small.logits.log_softmax(1)
            return {
                "prob": log_prob.exp(),
                "log_prob": log_prob,
                "weight": log_prob.new_ones(len(log_prob)),
                "small": small,
            }
        large = self.large_branch(embedding)
        features, logits = [small.features, large.features], [small.logits, large.logits]
        seen = {"both": features + logits, "features": features, "logits": logits}[self.gate_input]
        gate_input = torch.cat([part.detach() if self.detach else part for part in seen], 1)
        return {**self.gate(gate_input, small.logits, large.logits), "small": small, "large": large}

    @torch.no_grad()
    @checked
    def predict(
        self, coarse: Tensor | None, fine: Tensor, embedding: Tensor | None, threshold: OpenFraction = 0.5
    ) -> Bool[Tensor, " n"]:
        """Whether P(class 1) reaches the threshold."""
        return self(coarse, fine, embedding)["prob"][:, 1] >= threshold

    @torch.no_grad()
    @checked
    def cascade_predict(
        self,
        coarse: Tensor | None,
        fine: Tensor,
        embed: Callable[[Tensor], Tensor] | Tensor,
        conf: Probability,
        *,
        threshold: OpenFraction = 0.5,
        batch_size: Count = 256,
    ) -> dict[str, Tensor]:
        """Ask the small branch first, and the large one only where its highest probability is below `conf`.

        Args:
            coarse: of all segments.
            fine: of all segments.
            embed: indices (m,) → large embeddings (m, D), called on the undecided in batches; or all embeddings.
            conf: in [0, 1]; at 1 every segment is sent on, so the answer is that of full collaboration.
            threshold: in (0, 1).
            batch_size: of the calls.

        Returns:
            prob (n, C), predicted (n,), called (n,), weight (n,), and share_called, a scalar.
        """
        small = self.small_branch(coarse, fine)
        prob = small.logits.softmax(1)
        weight = prob.new_ones(len(prob))
        called = prob.amax(1) < conf if conf < 1 else torch.ones_like(weight, dtype=torch.bool)
        undecided = called.nonzero().flatten()
        # An empty tensor splits into one empty part, for which the large model must not be woken.
        for index in undecided.split(batch_size) if len(undecided) else ():
            embedding = embed[index] if isinstance(embed, Tensor) else embed(index)
            part = Branch(small.features[index], small.logits[index], small.logits[index])
            found = self._joined(part, embedding)
            prob[index], weight[index] = found["prob"], found["weight"]
        return {
            "prob": prob,
            "predicted": prob[:, 1] >= threshold,
            "called": called,
            "weight": weight,
            "share_called": called.double().mean(),
        }


@checked
def tune_threshold(
    prob: Annotated[Float[Tensor, " n"], Range(0, 1)],
    target: BinaryTarget,
    metric: Literal["macro_f1", "f1_mistake"] = "macro_f1",
    *,
    low: OpenFraction = 0.05,
    high: OpenFraction = 0.95,
) -> float:
    """The threshold in [low, high] with the best score on validation data; never use test data for it.

    Args:
        prob: (n,) probabilities of a mistake.
        target: (n,) in {0, 1}.
        metric: "macro_f1", or "f1_mistake".
        low: least threshold, above 0.
        high: largest, below 1.

    Returns:
        The middle of the interval of thresholds that gives the best score; of several, the one closest to 0.5.

    Raises:
        ValueError: if `low` is not below `high`.

    >>> round(tune_threshold(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0, 0, 0, 1])), 2)
    0.35
    """
    if not low < high:
        raise ValueError(f"low={low} must be below high={high}")
    values, order = prob.detach().double().sort()
    truth = target[order].double()
    inside = values[(values >= low) & (values < high)].unique()
    # Calls are the same between two neighbouring probabilities: prob >= t for t in (previous, next].
    edges = torch.cat([values.new_tensor([low]), inside, values.new_tensor([high])])
    middles = (edges[:-1] + edges[1:]) / 2
    below = torch.searchsorted(values, middles)
    missed = torch.cat([truth.new_zeros(1), truth.cumsum(0)])[below]
    positives, called = truth.sum(), len(values) - below.double()
    hit = positives - missed
    score = 2 * hit / (called + positives).clamp(min=1)
    if metric == "macro_f1":
        negatives = len(values) - positives
        score = (score + 2 * (below - missed) / (below + negatives).clamp(min=1)) / 2
    best = (score >= score.max() - 1e-12).nonzero().flatten()
    return float(middles[best[(middles[best] - 0.5).abs().argmin()]])
