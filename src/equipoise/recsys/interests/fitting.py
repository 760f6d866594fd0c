r"""Training click models jointly, or with a selector that is judged on rows which its predictor was not fitted to.

    joint     all parameters descend the log loss of the whole batch
    meta      J = L(θ − α ∇_θ L(θ, φ; in), φ; out) + μ L(θ, φ; in)       all parameters descend J
    bilevel   φ descends L(θ − α ∇_θ L(θ, φ; in), φ; out), and θ takes the step θ − α ∇_θ L(θ, φ; in)

θ is the predictor, φ the selector and the vectors of items; "in" and "out" are halves of the training batch, cut at
random between users. Validation rows give no gradient. One row counts half as often in L(·; out) as it does jointly, so
that a fair control of "meta" is `inner_lr=0`, which sees the same rows.

Cao et al., "Meta-Wrapper", TPAMI 2022, reconstructed from its abstract: the paper's optimisation could not be read.
"Bilevel" reads its plain step on θ as one of length α.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from equipoise.core.signature import checked
from equipoise.core.solvers.bilevel import MetaWrapper, selected_parameters
from equipoise.core.types import Count, NonNegative, Positive, Scalar, Whole
from equipoise.data.interactions.clicks import Clicks

Method: TypeAlias = Literal["joint", "meta", "bilevel"]
_SELECTOR = "selector."


@dataclass(frozen=True)
class ClickFit:
    """How a training went.

    Attributes:
        model: the trained model, in evaluation mode.
        epochs: how many were run.
        best_epoch: from 1, the one of the least validation log loss; None without validation rows.
        train_loss: mean loss of the steps of each epoch: of the outer halves, but for "joint".
        validation_loss: log loss after each epoch; empty without validation rows.
    """

    model: nn.Module
    epochs: int
    best_epoch: int | None
    train_loss: list[float]
    validation_loss: list[float]


@checked
def fit_click_model(
    model: nn.Module,
    clicks: Clicks,
    *,
    method: Method = "meta",
    validation: Clicks | None = None,
    patience: Count | None = None,
    epochs: Count = 25,
    batch_size: Count = 256,
    lr: Positive = 1e-3,
    weight_decay: NonNegative = 0.0,
    inner_lr: NonNegative = 0.5,
    inner_steps: Count = 1,
    inner_params: Sequence[str] = ("predictor",),
    mu: NonNegative = 0.0,
    first_order: bool = False,
    seed: Whole = 0,
) -> ClickFit:
    """Train a click model, in place.

    Args:
        model: `DIN`, or any module that gives logits of `Clicks.inputs()`.
        clicks: impressions to learn from.
        method: "joint", "meta" or "bilevel", see the module.
        validation: impressions to look at after every epoch.
        patience: epochs without a lower validation log loss before stopping; the weights of the best epoch are kept.
            None runs all epochs and keeps the last weights.
        epochs: at most.
        batch_size: impressions of a step; the halves of "meta" and "bilevel" have half as many.
        lr: of AdamW.
        weight_decay: of AdamW.
        inner_lr: α.
        inner_steps: inner steps before the outer loss.
        inner_params: submodules and parameters that the inner steps move.
        mu: μ, of "meta".
        first_order: take the inner gradients as constants: less time, another gradient.
        seed: of batches, halves and dropout. Batches do not depend on the method.

    The settings from `inner_lr` on are of "meta" and "bilevel". Batches of one user cannot be cut, and train jointly.

    Returns:
        The model and its course. The caller's random state is as before.

    Raises:
        ValueError: on a setting out of range, `patience` without validation rows, inner parameters that hold the
            selector in "bilevel" or have sparse gradients, or as `MetaWrapper`.
        FloatingPointError: if the objective is not finite.

    >>> from equipoise.data import click_world
    >>> from equipoise.recsys import DIN
    >>> world = click_world(200)
    >>> fit_click_model(DIN(item_features=world.item_features), world.clicks, epochs=2).epochs
    2
    """
    if patience is not None and validation is None:
        raise ValueError(f"patience={patience} needs validation rows to stop by")
    wrapper = None
    if method != "joint":
        wrapper = MetaWrapper(model, inner_params, inner_lr, inner_steps, mu, first_order, method)
        _check_inner(model, inner_params, method)
    device = next(model.parameters()).device
    clicks = clicks.to(device)
    optimizers = _optimizers(model, wrapper if method == "bilevel" else None, lr, weight_decay)
    generator, halving = (torch.Generator().manual_seed(number) for number in (seed, seed + 1))
    course, checks = [], []
    best, kept = 0, None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            model.train()
            losses = []
            for index in torch.randperm(len(clicks), generator=generator).split(batch_size):
                batch = clicks.rows(index.to(device))
                for optimizer in optimizers:
                    optimizer.zero_grad()
                losses.append(_backward(model, batch, wrapper, halving))
                for optimizer in optimizers:
                    optimizer.step()
            course.append(float(torch.stack(losses).mean()))
            if validation is None:
                continue
            checks.append(float(click_log_loss(model, validation)))
            best = min(range(epoch + 1), key=checks.__getitem__)
            if patience is not None:
                if best == epoch:
                    kept = copy.deepcopy(model.state_dict())
                elif epoch - best >= patience:
                    break
    if kept is not None:
        model.load_state_dict(kept)
    return ClickFit(model.eval(), len(course), best + 1 if checks else None, course, checks)


@checked
def click_logits(model: nn.Module, clicks: Clicks, *, batch_size: Count = 4096) -> Float[Tensor, " n"]:
    """Logits of all impressions, in evaluation mode and without gradients; `.sigmoid()` makes them probabilities.

    Args:
        model: as in `fit_click_model`; left in the mode that it was in.
        clicks: impressions.
        batch_size: impressions at a time; it does not change the result but for rounding.

    Raises:
        ValueError: on another kind of argument, or indices that the model has not.

    >>> from equipoise.data import click_world
    >>> from equipoise.recsys import DIN
    >>> world = click_world(50)
    >>> click_logits(DIN(item_features=world.item_features), world.clicks).shape
    torch.Size([50])
    """
    modes = {part: part.training for part in model.modules()}
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            parts = torch.arange(len(clicks)).split(batch_size)
            rows = (clicks.rows(index.to(clicks.item.device)).to(device) for index in parts)
            return torch.cat([model(**batch.inputs()) for batch in rows])
    finally:
        for part, mode in modes.items():
            part.training = mode


@checked
def click_log_loss(model: nn.Module, clicks: Clicks) -> Scalar:
    """Mean log loss of all impressions, in natural units; as `click_logits`."""
    logits = click_logits(model, clicks)
    return binary_cross_entropy_with_logits(logits, clicks.label.to(logits))


def split_batch(user: Tensor | None, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Two halves of a batch at random, the rows of a user in one of them; None where there is but one user or row.

    Args:
        user: (rows,) of each row; None where every row is on its own.
        rows: of the batch.
        generator: of the order.

    >>> first, last = split_batch(torch.tensor([5, 5, 9, 9]), 4, torch.Generator().manual_seed(0))
    >>> sorted([first.tolist(), last.tolist()])
    [[0, 1], [2, 3]]
    """
    group = torch.arange(rows) if user is None else user.unique(return_inverse=True)[1].cpu()
    people = int(group.max()) + 1 if rows else 0
    if people < 2:
        return None
    order = torch.randperm(people, generator=generator)
    reached = torch.bincount(group, minlength=people)[order].cumsum(0)
    # Where half of the rows is passed, nearer before or after.
    taken = int((2 * reached[:-1] - rows).abs().argmin()) + 1
    first = torch.zeros(people, dtype=torch.bool).index_fill(0, order[:taken], True)[group]
    return first.nonzero().squeeze(1), (~first).nonzero().squeeze(1)


def _loss(model: Callable[..., Tensor], batch: Clicks) -> Tensor:
    logits = model(**batch.inputs())
    return binary_cross_entropy_with_logits(logits, batch.label.to(logits))


def _backward(model: nn.Module, batch: Clicks, wrapper: MetaWrapper | None, generator: torch.Generator) -> Tensor:
    halves = None if wrapper is None else split_batch(batch.user, len(batch), generator)
    if wrapper is None or halves is None:
        loss = _loss(model, batch)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()}; lower lr")
        loss.backward()
        return loss.detach()
    first, last = (batch.rows(half.to(batch.item.device)) for half in halves)
    return wrapper.step(first, last, _loss)


def _check_inner(model: nn.Module, inner_params: Sequence[str], method: Method) -> None:
    names = selected_parameters(model, inner_params)
    if method == "bilevel" and any(name.startswith(_SELECTOR) for name in names):
        raise ValueError("inner_params holds the selector, which 'bilevel' judges by rows that it is not fitted to")
    sparse = names & _sparse(model)
    if sparse:
        raise ValueError(f"inner_params holds {min(sparse)!r}, whose sparse gradients cannot be unrolled")


def _sparse(model: nn.Module) -> set[str]:
    tables = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)]
    return {f"{name}.weight".removeprefix(".") for name, part in tables if part.sparse}


def _optimizers(
    model: nn.Module, bilevel: MetaWrapper | None, lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW, SparseAdam for what has sparse gradients, and plain steps for the inner parameters of "bilevel"."""
    inner = bilevel.inner_names if bilevel else frozenset()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sparse = _sparse(model)
    dense = [p for name, p in trained.items() if name not in inner and name not in sparse]
    found: list[torch.optim.Optimizer] = []
    if dense:
        found.append(torch.optim.AdamW(dense, lr, weight_decay=weight_decay))
    if sparse & set(trained):
        found.append(torch.optim.SparseAdam([trained[name] for name in sparse if name in trained], lr))
    if bilevel:
        found.append(torch.optim.SGD([trained[name] for name in inner], bilevel.inner_lr))
    return found
