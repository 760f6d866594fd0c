"""From segments to reported mistakes: encode, fuse, judge, gate, set the threshold on validation data, measure.

    experts         `DualStageMoE`: features and heads first, then the decision gate
    collaboration   `TwoBranchCollaboration`: branches first, then the gate on recordings they have not seen

Frozen encoders are asked once for all segments; embeddings are standardised with statistics of the training set only.
The phases, the held-out part of the gate and the default numbers are a reconstruction of arXiv 2509.12990 and
2606.02120, of which neither has code.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from equipoise.core.validate import check_choice, check_finite, check_fraction
from equipoise.data import StratifiedBatchSampler
from equipoise.longtail.mistakes.branch_collaboration import (
    CollaborationGate,
    ContextBranch,
    DetailBranch,
    TwoBranchCollaboration,
    tune_threshold,
)
from equipoise.longtail.mistakes.dual_stage import DualStageLoss, DualStageMoE, Part
from equipoise.longtail.mistakes.objectives import ComplementaryObjective, class_weights

METHODS = ("experts", "collaboration")
LEAST_FOR_SPLIT = 50
"""With fewer segments a held-out part for the gate is refused, with a warning."""


@dataclass(frozen=True)
class Segments:
    """Marked segments of recordings, as raw input of encoders or as embeddings.

    Attributes:
        coarse: (n, ...), the whole recording of each segment.
        fine: (n, ...), the segment.
        target: (n,), 1 for a mistake.
        large: (n, ...), the segment as the large encoder sees it; `fine` if absent.
        recording: (n,), for a split that keeps recordings together.
        kind: (n,), any labels by which mistakes are reported apart.
    """

    coarse: Tensor
    fine: Tensor
    target: Int[Tensor, " n"]
    large: Tensor | None = None
    recording: Int[Tensor, " n"] | None = None
    kind: Int[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        for name in ("coarse", "fine", "large", "recording", "kind"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.target):
                raise ValueError(f"{name} has {len(value)} rows for {len(self.target)} targets")

    def rows(self, index: Tensor) -> Segments:
        """Some of the segments."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        kept: dict[str, Any] = {name: None if value is None else value[index] for name, value in values.items()}
        return Segments(**kept)


@dataclass(frozen=True)
class MistakeReport:
    """What a pipeline found on its test set.

    Attributes:
        metrics: the seven numbers of `mistake_detection_metrics`.
        recall_by_kind: recall among the mistakes of each kind.
        trust_by_kind: mean weight of the small branch among them; empty for "experts".
        threshold: chosen on validation data.
        prob: (n,) probabilities of a mistake.
        model: the trained model, on standardised embeddings.
    """

    metrics: dict[str, float]
    recall_by_kind: dict[int, float]
    trust_by_kind: dict[int, float]
    threshold: float
    prob: Float[Tensor, " n"]
    model: nn.Module


@torch.no_grad()
def embed(encoder: nn.Module, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """Ask a frozen encoder, in evaluation mode and in batches.

    Raises:
        ValueError: if embeddings are not of shape (n, D), or hold NaN.

    >>> embed(torch.nn.Flatten(), torch.ones(3, 2, 2)).shape
    torch.Size([3, 4])
    """
    training = encoder.training
    encoder.eval()
    found = torch.cat([encoder(part) for part in inputs.split(batch_size)])
    encoder.train(training)
    if found.ndim != 2:
        raise ValueError(f"an encoder must give (n, D), got {tuple(found.shape)}; for raw video pass an encoder")
    check_finite("embedding", found)
    return found


def detect_mistakes(
    train: Segments,
    val: Segments,
    test: Segments,
    method: str = "experts",
    *,
    coarse_encoder: nn.Module | None = None,
    fine_encoder: nn.Module | None = None,
    large_encoder: nn.Module | None = None,
    dim: int = 64,
    hidden: int = 64,
    epochs: int = 20,
    gate_epochs: int = 5,
    gate_split: float | None = None,
    joint: bool = False,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    rho: float = 0.05,
    seed: int = 0,
) -> MistakeReport:
    """Train a detector of rare mistakes end to end, choose its threshold on `val`, report on `test`.

    Args:
        train: segments to learn from.
        val: other recordings, for the threshold.
        test: further ones.
        method: "experts" or "collaboration".
        coarse_encoder: of whole recordings, frozen; none for embeddings.
        fine_encoder: of segments; none for embeddings. With "experts" parameters that require a gradient (as `add_lora`
            leaves them) are trained; with "collaboration" it is frozen and gives the small branch its view.
        large_encoder: of segments for the large branch, frozen; none for embeddings.
        dim: width of the mixed features ("experts").
        hidden: width of heads and branches.
        epochs: of features and heads, or of branches.
        gate_epochs: of the gate alone, after them.
        gate_split: share of the training recordings held out for the gate of "collaboration"; absent, 0.2 where there
            are more than 500 segments and none otherwise. Given with fewer than 50, training is joint, with a warning.
        joint: train everything together for `epochs`.
        batch_size: with at least two samples of each class in every batch.
        lr: of AdamW, with a cosine and gradients clipped at norm 1.
        weight_decay: of AdamW.
        rho: SAM radius of the logit-adjusted head ("experts").
        seed: of initial weights and batches.

    Raises:
        ValueError: if recordings are on two sides, on an unknown method, a training set without mistakes, or NaN.

    >>> from equipoise.data.procedures import procedure_world, split_recordings
    >>> parts = split_recordings(procedure_world(60, mistake_rate=0.2))
    >>> train, val, test = (
    ...     Segments(p.context().flatten(2).mean(1), p.frames.flatten(2).mean(1), p.target, recording=p.recording)
    ...     for p in parts
    ... )
    >>> 0 <= detect_mistakes(train, val, test, epochs=1).metrics["macro_f1"] <= 1
    True
    """
    check_choice("method", method, METHODS)
    if gate_split is not None:
        check_fraction("gate_split", gate_split, one=False)
    _check_apart(train, val, test)
    counts = torch.bincount(train.target.long(), minlength=2)
    weight = class_weights(counts)
    live = method == "experts" and fine_encoder is not None and any(p.requires_grad for p in fine_encoder.parameters())
    encoders = {"coarse": coarse_encoder, "fine": None if live else fine_encoder}
    if method == "collaboration":
        encoders["large"] = large_encoder
    train, val, test = _embedded((train, val, test), encoders, keep_fine=live)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if method == "experts":
            model, run = _experts(train, fine_encoder if live else None, dim, hidden, rho, counts, joint)
        else:
            model, run = _collaboration(train, hidden, counts, weight, joint, gate_split, seed)
        for part, steps, rows, parameters in run(epochs, gate_epochs):
            _fit(part, rows, parameters, train.target, steps, batch_size, lr, weight_decay, seed)
    model.eval()
    threshold = tune_threshold(_prob(model, val)[0], val.target)
    prob, trust = _prob(model, test)
    return _report(model, test, prob, trust, threshold)


Stage = tuple[Callable[[Tensor], None], int, Tensor, list[nn.Parameter]]


def _experts(
    train: Segments, encoder: nn.Module | None, dim: int, hidden: int, rho: float, counts: Tensor, joint: bool
) -> tuple[nn.Module, Callable[[int, int], Iterable[Stage]]]:
    fine_dim = train.fine.shape[1] if encoder is None else embed(encoder, train.fine[:1]).shape[1]
    fine = nn.Identity() if encoder is None else encoder
    model = DualStageMoE(nn.Identity(), fine, dim, coarse_dim=train.coarse.shape[1], fine_dim=fine_dim, hidden=hidden)
    loss = DualStageLoss(counts, rho=rho)

    def both(rows: Tensor) -> None:
        loss.backward(model, model(train.coarse[rows], train.fine[rows]), train.target[rows])

    def gate(rows: Tensor) -> None:
        loss(model(train.coarse[rows], train.fine[rows]), train.target[rows])["gate"].backward()

    def stages(epochs: int, gate_epochs: int) -> Iterable[Stage]:
        everyone = torch.arange(len(train.target))
        parts: list[tuple[Part, Callable[[Tensor], None], int]] = [("both", both, epochs)]
        if not joint:
            parts = [("features", both, epochs), ("gate", gate, gate_epochs)]
        for part, step, steps in parts:
            model.train_only(part).train(part != "gate")
            yield step, steps, everyone, [value for value in model.parameters() if value.requires_grad]

    return model, stages


def _collaboration(
    train: Segments, hidden: int, counts: Tensor, weight: Tensor, joint: bool, gate_split: float | None, seed: int
) -> tuple[nn.Module, Callable[[int, int], Iterable[Stage]]]:
    large_view = train.fine if train.large is None else train.large
    small = ContextBranch(nn.Identity(), train.fine.shape[1], hidden=hidden)
    large = DetailBranch(large_view.shape[1], hidden=hidden)
    model = TwoBranchCollaboration(small, large, CollaborationGate(TwoBranchCollaboration.gate_width(small, large)))
    objective = ComplementaryObjective(counts)
    if gate_split and len(train.target) < LEAST_FOR_SPLIT and not joint:
        warnings.warn(
            f"{len(train.target)} segments are too few to hold out gate_split={gate_split}; training jointly",
            UserWarning,
            stacklevel=3,
        )
        joint = True
    share = (0.2 if len(train.target) > 500 else 0.0) if gate_split is None else gate_split
    branch_rows, gate_rows = _held_out(train, 0.0 if joint else share, seed)

    def forward(rows: Tensor) -> dict[str, Any]:
        return model(train.coarse[rows], train.fine[rows], large_view[rows])

    def branches(rows: Tensor, with_gate: bool = False) -> None:
        out, y = forward(rows), train.target[rows]
        total = objective(out["small"].head_logits, y) + objective(out["large"].head_logits, y)
        if with_gate:
            total = total + nll_loss(out["log_prob"], y, weight.to(out["log_prob"]))
        total.backward()

    def gate(rows: Tensor) -> None:
        out = forward(rows)
        nll_loss(out["log_prob"], train.target[rows], weight.to(out["log_prob"])).backward()

    def stages(epochs: int, gate_epochs: int) -> Iterable[Stage]:
        model.train()
        if joint:
            yield lambda rows: branches(rows, True), epochs, branch_rows, list(model.parameters())
            return
        yield branches, epochs, branch_rows, [*small.parameters(), *large.parameters()]
        # Without dropout, so that the gate judges the branches as they will answer.
        model.eval()
        yield gate, gate_epochs, gate_rows, list(model.gate.parameters())

    return model, stages


def _held_out(train: Segments, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows for the branches and for the gate; whole recordings, or all rows for both."""
    everyone = torch.arange(len(train.target))
    if not share:
        return everyone, everyone
    group = everyone if train.recording is None else train.recording
    names = group.unique()
    order = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))]
    away = torch.isin(group, order[: max(int(share * len(names)), 1)])
    if any(train.target[side].unique().numel() < 2 for side in (away, ~away)):
        warnings.warn("gate_split leaves a side without a class; the gate is trained on all", UserWarning, stacklevel=4)
        return everyone, everyone
    return everyone[~away], everyone[away]


def _fit(
    step: Callable[[Tensor], None],
    rows: Tensor,
    parameters: list[nn.Parameter],
    target: Tensor,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
) -> None:
    sampler = StratifiedBatchSampler(target[rows], batch_size, min_per_class=2, seed=seed)
    optimizer = torch.optim.AdamW(parameters, lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(epochs * len(sampler), 1))
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in sampler:
            optimizer.zero_grad()
            step(rows[torch.as_tensor(batch)])
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()


def _embedded(
    parts: tuple[Segments, ...], encoders: dict[str, nn.Module | None], keep_fine: bool
) -> tuple[Segments, ...]:
    raw = parts
    for name, encoder in encoders.items():
        if name == "fine" and keep_fine:
            continue
        # From the raw segments: where the large view is absent it is the segment itself, not its embedding.
        views = [part.fine if getattr(part, name) is None else getattr(part, name) for part in raw]
        found = [embed(encoder or nn.Identity(), view) for view in views]
        mean, scale = found[0].mean(0), found[0].std(0).clamp(min=1e-6)
        parts = tuple(replace(part, **{name: (value - mean) / scale}) for part, value in zip(parts, found, strict=True))
    return parts


@torch.no_grad()
def _prob(model: nn.Module, part: Segments) -> tuple[Tensor, Tensor | None]:
    outs = []
    for rows in torch.arange(len(part.target)).split(512):
        views = [part.coarse[rows], part.fine[rows]]
        if isinstance(model, TwoBranchCollaboration):
            views.append((part.fine if part.large is None else part.large)[rows])
        outs.append(model(*views))
    trust = torch.cat([out["weight"] for out in outs]) if "weight" in outs[0] else None
    return torch.cat([out["prob"][:, 1] for out in outs]).clamp(0, 1), trust


def _report(model: nn.Module, test: Segments, prob: Tensor, trust: Tensor | None, threshold: float) -> MistakeReport:
    # Metrics load torchmetrics, which the room does not need otherwise.
    from equipoise.longtail.mistakes.metrics import mistake_detection_metrics

    found = mistake_detection_metrics(prob, test.target, threshold)
    recall, trusted = {}, {}
    if test.kind is not None:
        for kind in test.kind[test.target == 1].unique().tolist():
            of_kind = (test.kind == kind) & (test.target == 1)
            recall[kind] = float((prob[of_kind] >= threshold).double().mean())
            if trust is not None:
                trusted[kind] = float(trust[of_kind].mean())
    metrics = {name: float(value) for name, value in found.items()}
    return MistakeReport(metrics, recall, trusted, threshold, prob, model)


def _check_apart(train: Segments, val: Segments, test: Segments) -> None:
    sides = [part.recording for part in (train, val, test)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        a, b = sides[first], sides[second]
        if a is not None and b is not None and bool(torch.isin(a, b).any()):
            raise ValueError("a recording is on two sides; split by recording, or its workflow is known beforehand")
