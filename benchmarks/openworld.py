"""OpenAUC beside a sort and beside all pairs; losses of long lists beside a loop: `python benchmarks/openworld.py`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, medians, table

from equipoise.openworld import autkc_loss, open_auc, tkpr_loss

_BATCH, _CLASSES, _K = 256, 10_000, 5

Rows = tuple[Tensor, ...]


def _scores(known: int, unknown: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    correct = torch.rand(known, generator=generator) < 0.8
    return torch.randn(known, generator=generator) + 1, torch.randn(unknown, generator=generator), correct


def _all_pairs(known: Tensor, unknown: Tensor, correct: Tensor) -> Tensor:
    """The formula as it is written: a table of known by unknown samples."""
    return ((known[:, None] > unknown[None]) & correct[:, None]).double().mean()


def _open_auc(quick: bool) -> list[Row]:
    n = 200_000 if quick else 1_000_000
    sides = _scores(n, n)
    together = torch.cat(sides[:2])
    ours, sort = medians(lambda: open_auc(*sides), lambda: together.sort(), repeats=5 if quick else 15)
    small = _scores(5_000, 5_000)
    mine, pairs = medians(lambda: open_auc(*small), lambda: _all_pairs(*small), repeats=5 if quick else 15)
    return [
        Row(f"OpenAUC, {n:,} known and {n:,} unknown", "one sort of all scores", ours / sort, 3.0, False),
        Row("OpenAUC, 5,000 known and 5,000 unknown", "a table of all pairs", pairs / mine, 100.0),
    ]


def _with_gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Callable[[], None]:
    def work() -> None:
        logits.grad = None
        loss(logits).backward()

    return work


def _tkpr_by_sample(logits: Tensor | Rows, target: Tensor) -> Tensor:
    losses = []
    for i in range(len(target)):
        positives, negatives = logits[i][target[i] == 1], logits[i][target[i] == 0]
        pairs = positives[:, None] - negatives.topk(_K).values
        losses.append(torch.nn.functional.softplus(-pairs).sum() / (len(positives) * _K))
    return torch.stack(losses).mean()


def _autkc_by_sample(logits: Tensor | Rows, target: Tensor) -> Tensor:
    losses = []
    for i in range(len(target)):
        probabilities = logits[i].softmax(0)
        others = torch.cat([probabilities[: target[i]], probabilities[target[i] + 1 :]])
        gaps = probabilities[target[i]] - others.topk(_K + 1).values
        losses.append((1 - gaps).square().sum() / _K)
    return torch.stack(losses).mean()


def _long_lists(quick: bool) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(_BATCH, _CLASSES, generator=generator).requires_grad_()
    labels = torch.zeros(_BATCH, _CLASSES, dtype=torch.long)
    labels.scatter_(1, torch.randint(_CLASSES, (_BATCH, 8), generator=generator), 1)
    target = torch.randint(_CLASSES, (_BATCH,), generator=generator)
    found = []
    for name, ours, by_sample in (
        ("TKPR loss, 8 labels", lambda x: tkpr_loss(x, labels, k=_K), lambda x: _tkpr_by_sample(x, labels)),
        ("AUTKC loss", lambda x: autkc_loss(x, target, k=_K), lambda x: _autkc_by_sample(x, target)),
    ):
        works = (ours, by_sample, lambda x, by_sample=by_sample: by_sample(x.unbind()))
        mine, loop, unbound = medians(*(_with_gradient(w, logits) for w in works), repeats=3 if quick else 9)
        work = f"{name}, C = {_CLASSES:,}, batch {_BATCH}, value + gradient"
        found.append(Row(work, "a loop over samples", loop / mine, 5.0))
        # `logits[i]` makes a gradient table of all samples for each; a loop that knows this is faster.
        found.append(Row(work, "the same loop over unbound rows", unbound / mine))
    return found


_PEAK = """
import torch
from equipoise.openworld import autkc_loss, tkpr_loss
classes = {classes}
def peak():
    # Of this program alone; what getrusage tells includes the process that started it.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
def step(classes):
    logits = torch.randn({batch}, classes, requires_grad=True)
    {loss}.backward()
step(100)
before = peak()
step(classes)
print(peak() - before)
"""
_LOSSES = {
    "TKPR": "tkpr_loss(logits, (torch.arange(classes) < 8).long().expand({batch}, classes), k=5)",
    "AUTKC": "autkc_loss(logits, torch.zeros({batch}, dtype=torch.long), k=5)",
}


def _memory() -> list[Row]:
    """How much more memory twice the classes take; pairs of classes would take four times as much."""
    found = []
    for name, loss in _LOSSES.items():
        peaks = []
        for classes in (4 * _CLASSES, 8 * _CLASSES):
            code = _PEAK.format(classes=classes, batch=_BATCH, loss=loss.format(batch=_BATCH))
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            peaks.append(int(done.stdout))
        work = f"{name} loss, peak memory at C = {8 * _CLASSES:,}"
        found.append(Row(work, f"C = {4 * _CLASSES:,}", peaks[1] / peaks[0], 2.2, False))
    return found


def rows(quick: bool) -> list[Row]:
    """Every figure of this file."""
    return [*_open_auc(quick), *_long_lists(quick), *_memory()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(table(rows(parser.parse_args().quick)))
