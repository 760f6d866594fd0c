"""From segments to reported mistakes: encode, fuse, judge, gate, set the threshold on validation data, measure.

    experts         `DualStageMoE`: features and heads first, then the decision gate
    collaboration   `TwoBranchCollaboration`: branches first, then the gate on recordings they have not seen

Frozen encoders are asked once for all segments; embeddings are standardised with statistics of the training set only.
The phases, the held-out part of the gate and the default numbers are a reconstruction of arXiv 2509.12990 and
2606.02120, of which neither has code.

The steps are not those of `equipoise.training`: that loop trains one network by one loss of its scores, here parts of a
model are trained in turn, by losses with several backward passes in a step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Range, Whole
from equipoise.data import StratifiedBatchSampler
from equipoise.longtail.mistakes.branch_collaboration import TwoBranchCollaboration, tune_threshold
from equipoise.longtail.mistakes.dual_stage import DualStageLoss, DualStageMoE, Part
from equipoise.longtail.mistakes.objectives import ComplementaryObjective, class_weights
from equipoise.workflows.mistake_detector import Embedding, Method, MistakeDetector, Segments, build_model, embed

LEAST_FOR_SPLIT = 50
"""With fewer segments a held-out part for the gate is refused, with a warning."""


@dataclass(frozen=True)
class MistakeReport:
    """What a pipeline found on its test set.

    Attributes:
        metrics: the seven numbers of `mistake_detection_metrics`.
        recall_by_kind: recall among the mistakes of each kind.
        trust_by_kind: mean weight of the small branch among them; empty for "experts".
        prob: (n,) probabilities of a mistake.
        detector: scores new segments, with the threshold chosen on validation data.
    """

    metrics: dict[str, float]
    recall_by_kind: dict[int, float]
    trust_by_kind: dict[int, float]
    prob: Float[Tensor, " n"]
    detector: MistakeDetector


@checked
def detect_mistakes(
    train: Segments,
    val: Segments,
    test: Segments,
    method: Method = "experts",
    *,
    coarse_encoder: nn.Module | None = None,
    fine_encoder: nn.Module | None = None,
    large_encoder: nn.Module | None = None,
    dim: Count = 64,
    hidden: Count = 64,
    epochs: Whole = 20,
    gate_epochs: Whole = 5,
    gate_split: Annotated[float, Range(0, 1, high_open=True)] | None = None,
    joint: bool = False,
    batch_size: Count = 128,
    lr: Positive = 1e-3,
    weight_decay: NonNegative = 0.05,
    rho: NonNegative = 0.05,
    seed: Whole = 0,
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
    _check_apart(train, val, test)
    target = _targets(train)
    counts = torch.bincount(target, minlength=2)
    live = fine_encoder is not None and any(p.requires_grad for p in fine_encoder.parameters())
    live = live and method == "experts"
    encoders = {"coarse": coarse_encoder, "fine": fine_encoder, "large": large_encoder}
    kept = [name for name in encoders if not ((name == "fine" and live) or (name == "large" and method == "experts"))]
    embeddings = {name: Embedding.fit(encoders[name], train.view(name)) for name in kept}
    seen = replace(train, **{name: embedding(train.view(name)) for name, embedding in embeddings.items()})
    widths = {name: len(embedding.mean) for name, embedding in embeddings.items()}
    if live and fine_encoder is not None:
        widths["fine"] = embed(fine_encoder, train.fine[:1]).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(method, widths, dim, hidden, fine_encoder if live else None)
        if isinstance(model, DualStageMoE):
            run = _experts(model, seen, target, DualStageLoss(counts, rho=rho), joint)
        else:
            run = _collaboration(model, seen, target, counts, joint, gate_split, seed)
        for part, steps, rows, parameters in run(epochs, gate_epochs):
            _fit(part, rows, parameters, target, steps, batch_size, lr, weight_decay, seed)
    detector = MistakeDetector(method, model.eval(), embeddings, widths, dim, hidden)
    detector = replace(detector, threshold=tune_threshold(detector.probabilities(val), _targets(val)))
    return _report(detector, test)


Stage = tuple[Callable[[Tensor], None], int, Tensor, list[nn.Parameter]]


def _experts(
    model: DualStageMoE, train: Segments, target: Tensor, loss: DualStageLoss, joint: bool
) -> Callable[[int, int], Iterable[Stage]]:
    def both(rows: Tensor) -> None:
        loss.backward(model, model(train.coarse[rows], train.fine[rows]), target[rows])

    def gate(rows: Tensor) -> None:
        loss(model(train.coarse[rows], train.fine[rows]), target[rows])["gate"].backward()

    def stages(epochs: int, gate_epochs: int) -> Iterable[Stage]:
        everyone = torch.arange(len(train))
        parts: list[tuple[Part, Callable[[Tensor], None], int]] = [("both", both, epochs)]
        if not joint:
            parts = [("features", both, epochs), ("gate", gate, gate_epochs)]
        for part, step, steps in parts:
            model.train_only(part).train(part != "gate")
            yield step, steps, everyone, [value for value in model.parameters() if value.requires_grad]

    return stages


def _collaboration(
    model: TwoBranchCollaboration,
    train: Segments,
    target: Tensor,
    counts: Tensor,
    joint: bool,
    gate_split: float | None,
    seed: int,
) -> Callable[[int, int], Iterable[Stage]]:
    weight = class_weights(counts)
    objective = ComplementaryObjective(counts)
    if gate_split and len(train) < LEAST_FOR_SPLIT and not joint:
        warnings.warn(
            f"{len(train)} segments are too few to hold out gate_split={gate_split}; training jointly",
            UserWarning,
            stacklevel=3,
        )
        joint = True
    share = (0.2 if len(train) > 500 else 0.0) if gate_split is None else gate_split
    branch_rows, gate_rows = _held_out(train, target, 0.0 if joint else share, seed)

    def forward(rows: Tensor) -> dict[str, Any]:
        return model(train.coarse[rows], train.fine[rows], train.view("large")[rows])

    def branches(rows: Tensor, with_gate: bool = False) -> None:
        out, y = forward(rows), target[rows]
        total = objective(out["small"].head_logits, y) + objective(out["large"].head_logits, y)
        if with_gate:
            total = total + nll_loss(out["log_prob"], y, weight.to(out["log_prob"]))
        total.backward()

    def gate(rows: Tensor) -> None:
        out = forward(rows)
        nll_loss(out["log_prob"], target[rows], weight.to(out["log_prob"])).backward()

    def stages(epochs: int, gate_epochs: int) -> Iterable[Stage]:
        model.train()
        if joint:
            yield lambda rows: branches(rows, True), epochs, branch_rows, list(model.parameters())
            return
        yield branches, epochs, branch_rows, [*model.small_branch.parameters(), *model.large_branch.parameters()]
        # Without dropout, so that the gate judges the branches as they will answer.
        model.eval()
        yield gate, gate_epochs, gate_rows, list(model.gate.parameters())

    return stages


def _held_out(train: Segments, target: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows for the branches and for the gate; whole recordings, or all rows for both."""
    everyone = torch.arange(len(train))
    if not share:
        return everyone, everyone
    group = everyone if train.recording is None else train.recording
    names = group.unique()
    order = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))]
    away = torch.isin(group, order[: max(int(share * len(names)), 1)])
    if any(target[side].unique().numel() < 2 for side in (away, ~away)):
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


def _report(detector: MistakeDetector, test: Segments) -> MistakeReport:
    # Metrics load torchmetrics, which the room does not need otherwise.
    from equipoise.longtail.mistakes.metrics import mistake_detection_metrics

    prob, trust = detector.judge(test)
    target = _targets(test)
    found = mistake_detection_metrics(prob, target, detector.threshold)
    recall, trusted = {}, {}
    if test.kind is not None:
        for kind in test.kind[target == 1].unique().tolist():
            of_kind = (test.kind == kind) & (target == 1)
            recall[kind] = float((prob[of_kind] >= detector.threshold).double().mean())
            if trust is not None:
                trusted[kind] = float(trust[of_kind].mean())
    return MistakeReport({name: float(value) for name, value in found.items()}, recall, trusted, prob, detector)


def _targets(part: Segments) -> Tensor:
    if part.target is None:
        raise ValueError("target is missing; training, validation and test segments must be marked")
    return part.target.long()


def _check_apart(train: Segments, val: Segments, test: Segments) -> None:
    sides = [part.recording for part in (train, val, test)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        a, b = sides[first], sides[second]
        if a is not None and b is not None and bool(torch.isin(a, b).any()):
            raise ValueError("a recording is on two sides; split by recording, or its workflow is known beforehand")
