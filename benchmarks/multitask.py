"""How fast the multi-task AUC loss is: `python benchmarks/multitask.py [--quick]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, ratio, table

from equipoise.ranking import multitask_auc_loss

_USERS = 50


def _beside_pairs(per_user: int, goal: float | None, note: str, repeats: int) -> Row:
    generator = torch.Generator().manual_seed(0)
    user = torch.arange(_USERS).repeat_interleave(per_user)
    target = (torch.rand(len(user), generator=generator) < 0.5).long()
    scores = torch.randn(len(user), generator=generator).requires_grad_()

    def pairs() -> None:
        scores.grad = None
        losses = []
        for s, y in zip(scores.split(per_user), target.split(per_user), strict=True):
            losses.append((1 - (s[y == 1][:, None] - s[y == 0])).square().mean() / 2)
        torch.stack(losses).mean().backward()

    def ours() -> None:
        scores.grad = None
        multitask_auc_loss(scores, target, user).backward()

    work = f"multi-task AUC, value + gradient, {_USERS} users, {per_user:,} labels each, half positive"
    return Row(work, "a loop over users, all pairs of each", ratio(pairs, ours, repeats=repeats), goal, note=note)


def rows(quick: bool = False) -> list[Row]:
    """All measurements of this file."""
    repeats = 3 if quick else 9
    return [
        _beside_pairs(2000, 100, "2,000 comparisons read as labels", repeats),
        # 2,000 pairs a user: 45 of each class.
        _beside_pairs(90, None, "2,000 comparisons read as pairs", repeats),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    print(table(rows(parser.parse_args().quick)))
