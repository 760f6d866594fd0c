"""How fast the all-pairs kernel is: `python benchmarks/pairwise.py [--quick]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, medians, ratio, table

from equipoise.core.pairs.loss import columnwise_pairwise_loss, pairwise_loss, split_classes
from equipoise.core.pairs.surrogates import SURROGATES


def _problem(n: int, rate: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(n, generator=generator) < rate
    return torch.randn(n, generator=generator) + target, target


def _sides(n: int, rate: float) -> tuple[Tensor, Tensor]:
    scores, target = _problem(n, rate)
    return scores[target].requires_grad_(), scores[~target].requires_grad_()


def _value_and_gradient(pos: Tensor, neg: Tensor, surrogate: str) -> Callable[[], None]:
    def work() -> None:
        pos.grad = neg.grad = None
        pairwise_loss(pos, neg, surrogate).backward()

    return work


def _dense(pos: Tensor, neg: Tensor, surrogate: str) -> Callable[[], None]:
    def work() -> None:
        pos.grad = neg.grad = None
        SURROGATES[surrogate].value(pos[:, None] - neg, 1.0).mean().backward()

    return work


def _beside_libauc(quick: bool) -> Row:
    work, beside = "squared hinge, value + gradient, n = 20,000, 5 % positive, from scores and targets", "libauc"
    try:
        from libauc.losses.auc import PairwiseAUCLoss
    except ImportError:
        return Row(work, beside, None, 400, note="libauc not installed")
    scores, target = _problem(20_000, 0.05)
    scores.requires_grad_()
    labels = target.long()
    loss = PairwiseAUCLoss("squared_hinge", 1.0)

    def peer() -> None:
        scores.grad = None
        loss(scores, labels).backward()

    def ours() -> None:
        scores.grad = None
        pairwise_loss(*split_classes(scores, labels == 1)).backward()

    return Row(work, beside, ratio(peer, ours, repeats=5 if quick else 21), 400, note="both select by target")


def _beside_dense(quick: bool) -> list[Row]:
    rows = []
    for surrogate in SURROGATES:
        pos, neg = _sides(20_000, 0.05)
        measured = ratio(
            _dense(pos, neg, surrogate), _value_and_gradient(pos, neg, surrogate), repeats=3 if quick else 9
        )
        rows.append(Row(f"{surrogate}, value + gradient, n = 20,000, 5 % positive", "dense PyTorch", measured))
    return rows


def _beside_sort(quick: bool) -> list[Row]:
    rows = []
    n = 100_000 if quick else 1_000_000
    for rate, goal in ((0.05, 2.0), (0.5, 2.5)):
        pos, neg = _sides(n, rate)
        scores = torch.cat([pos, neg]).detach()
        measured = ratio(_value_and_gradient(pos, neg, "squared_hinge"), lambda s=scores: s.sort(), repeats=9)
        work = f"squared hinge, value + gradient, n = {n:,}, {rate:.0%} positive"
        rows.append(Row(work, "one torch.sort of n floats", measured, goal, larger_is_better=False))
    return rows


def _beside_sum(quick: bool) -> list[Row]:
    n = 1_000_000
    pos, neg = _sides(n, 0.05)
    scores = torch.cat([pos, neg]).detach()
    plain = pos.detach(), neg.detach()
    value, both, three = medians(
        lambda: pairwise_loss(*plain, "square"),
        _value_and_gradient(pos, neg, "square"),
        lambda: (scores.sum(), scores.sum(), scores.sum()),
        repeats=30 if quick else 150,
    )
    work, beside = f"square, n = {n:,}", "three sums of n floats"
    return [
        Row(f"{work}, value", beside, value / three, 5, larger_is_better=False),
        Row(f"{work}, value + gradient", beside, both / three, 5, larger_is_better=False, note=_SQUARE_BOUND),
    ]


_SQUARE_BOUND = "bound by memory: it checks, shifts and reduces the scores, and writes as many gradients"


def _columns(quick: bool) -> list[Row]:
    n, classes = 4000, 10
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (n,), generator=generator)
    scores = (torch.randn(n, classes, generator=generator) + one_hot(target, classes)).requires_grad_()
    role = one_hot(target, classes).float()
    weight = (1 - role) / role.sum(0)[target][:, None]

    def dense(surrogate: str) -> None:
        scores.grad = None
        losses = []
        for k in range(classes):
            mine = target == k
            grid = SURROGATES[surrogate].value(scores[mine, k, None] - scores[~mine, k], 1.0)
            losses.append((grid * weight[~mine, k]).sum() / (mine.sum() * weight[~mine, k].sum()))
        torch.stack(losses).mean().backward()

    def ours(surrogate: str) -> None:
        scores.grad = None
        columnwise_pairwise_loss(scores, role, weight, surrogate).mean().backward()

    rows = []
    for surrogate in SURROGATES:
        measured = ratio(lambda s=surrogate: dense(s), lambda s=surrogate: ours(s), repeats=3 if quick else 9)
        goal = 8.0 if surrogate in ("square", "exponential", "squared_hinge") else None
        work = f"{surrogate}, one against one, n = {n:,}, C = {classes}, value + gradient"
        rows.append(Row(work, "dense PyTorch, class by class", measured, goal))
    return rows


_PEAK = "--peak"


def _memory(quick: bool) -> Row:
    """Peak resident memory of the pass, in a process of its own that has done nothing before."""
    n = 1_000_000
    out = subprocess.run([sys.executable, __file__, _PEAK, str(n)], capture_output=True, text=True, check=True)
    work = f"squared hinge, value + gradient, n = {n:,}: extra memory at its peak"
    return Row(work, "the scores", float(out.stdout), 100, larger_is_better=False, unit=" B/sample")


def _peak_bytes(n: int) -> float:
    work = _value_and_gradient(*_sides(n, 0.05), "squared_hinge")
    _value_and_gradient(*_sides(1000, 0.05), "squared_hinge")()  # the libraries' own first-call memory
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _high_water()
    work()
    return (_high_water() - before) / n


def _high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def rows(quick: bool) -> list[Row]:
    """Every figure of this file."""
    found = [_beside_libauc(quick), *_beside_sort(quick), *_beside_sum(quick)]
    if sys.platform == "linux":
        found.append(_memory(quick))
    return [*found, *_columns(quick), *_beside_dense(quick)]


if __name__ == "__main__":
    if _PEAK in sys.argv:
        print(_peak_bytes(int(sys.argv[-1])))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
        print(table(rows(parser.parse_args().quick)))
