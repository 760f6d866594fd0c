"""The exact leakage check beside a bare product of the same blocks, and one tree beside DBSCAN run by run.

`python benchmarks/leakage.py [--quick] [--whole]`. The memory is the peak of a process that holds both sides, 100,000
rows of 512 each, and checks 8,192 candidates; with `--whole`, all of them, which takes minutes. The bare product
multiplies unit rows that are at hand and forgets what it finds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import DBSCAN
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, medians, ratio, table

from equipoise.core.single_linkage import cosine_distances, single_linkage
from equipoise.generative import greedy_separation, leakage_check

_BLOCK = (4096, 8192)
_PEAK = """
import resource, torch
from equipoise.generative import leakage_check
generator = torch.Generator().manual_seed(0)
candidates, reference = torch.randn(2, 100_000, 512, generator=generator)
found = leakage_check(candidates[:{rows}], reference)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def _unit(n: int, d: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def _product(rows: Tensor, others: Tensor) -> None:
    room = torch.empty(_BLOCK)
    for left in rows.split(_BLOCK[0]):
        for right in others.split(_BLOCK[1]):
            torch.mm(left, right.T, out=room[: len(left), : len(right)])


def _leakage(quick: bool, whole: bool) -> list[Row]:
    n, m = (4096, 16384) if quick else (8192, 32768)
    rows, others = _unit(n, 512, 0), _unit(m, 512, 1)
    bare, ours = medians(lambda: _product(rows, others), lambda: leakage_check(rows, others), repeats=5, seconds=40)
    work = f"leakage_check, {n:,} × {m:,} × 512"
    found = [Row(work, "speed of the bare product of the blocks", bare / ours, 0.5, note=f"{ours:.3g} s")]
    checked = 100_000 if whole else 8192
    started = time.perf_counter()
    command = [sys.executable, "-c", _PEAK.format(rows=checked)]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    note = f"the inputs are .38 GiB; {time.perf_counter() - started:.0f} s"
    work = f"leakage_check, {checked:,} of 100,000 × 100,000 × 512: peak of the process"
    found.append(Row(work, "", peak, 2, larger_is_better=False, unit=" GiB", note=note))
    apart = ratio(lambda: greedy_separation(rows, 0.5), lambda: _product(rows, rows), repeats=3, seconds=20)
    found.append(Row(f"greedy_separation, {n:,} × 512, all kept", "all products", apart, larger_is_better=False))
    return found


def _clusters(quick: bool) -> list[Row]:
    generator = np.random.default_rng(0)
    unit = generator.normal(size=(1, 512)) + 1.2 * generator.normal(size=(100, 512))
    unit[:30] = generator.normal(size=(30, 512))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    thresholds = np.arange(0.3, 0.5, 0.02)

    def peer() -> list[list[int]]:
        runs = [DBSCAN(eps=1 - each, min_samples=2, metric="cosine").fit(unit) for each in thresholds]
        return [run.labels_.tolist() for run in runs]

    def ours() -> list[list[int]]:
        tree = single_linkage(cosine_distances(unit))
        return [tree.labels(1 - each, least=2).tolist() for each in thresholds]

    if peer() != ours():
        raise RuntimeError("the tree and DBSCAN give different labels")
    theirs, mine = medians(peer, ours, repeats=3 if quick else 9)
    note = f"equal labels; {1e3 * mine:.2g} ms beside {1e3 * theirs:.2g} ms"
    return [Row("labels at ten thresholds, n = 100, d = 512", "ten runs of DBSCAN", theirs / mine, 5, note=note)]


def rows(quick: bool, whole: bool = False) -> list[Row]:
    """All rows."""
    return _clusters(quick) + _leakage(quick, whole)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
    parser.add_argument("--whole", action="store_true", help="check all 100,000 candidates for the peak of memory")
    options = parser.parse_args()
    print(table(rows(options.quick, options.whole)))
