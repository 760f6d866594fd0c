"""Tangent kernels beside per-sample Jacobians: `python benchmarks/conditioning.py`.

Both sides work in float64 on a gated block of width 4,096 with 64 inputs and one output. The Jacobian of all samples
takes 8 GiB there, so its time is that of 100 and of 200 samples, continued as a n + b n²; nothing is added for memory
that it would wait for. Times are of the processor. Peak memory is that of a process of its own (VmHWM), torch, model
and kernel included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import process_time

import torch

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, table

from equipoise.language import GLUBlock, empirical_ntk, two_layer_empirical_ntk

_WIDTH, _INPUTS = 4096, 64
_FEW = (100, 200)


def _net(width: int) -> GLUBlock:
    draws = torch.Generator().manual_seed(0)
    return GLUBlock(_INPUTS, width, 1, "gelu", match_params=False, generator=draws).double()


def _samples(n: int) -> torch.Tensor:
    return torch.randn(n, _INPUTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _closed(net: GLUBlock, x: torch.Tensor) -> torch.Tensor:
    assert net.up is not None
    return two_layer_empirical_ntk(x, net.gate.weight, net.down.weight, net.up.weight, "gelu")


_WORKS = {
    "structured": lambda net, x: empirical_ntk(net, x),
    "closed": _closed,
    "jacrev": lambda net, x: empirical_ntk(net, x, method="jacrev", memory_limit=1 << 31),
}


def _alone(work: str, n: int, width: int) -> dict[str, float]:
    """Seconds of the processor and peak memory in MiB of a work in this process."""
    net, x = _net(width), _samples(n)
    _WORKS[work](net, x[:4])
    started = process_time()
    _WORKS[work](net, x)
    seconds = process_time() - started
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "peak": peak / 1024}


def _measured(work: str, n: int, width: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--alone", work, str(n), str(width)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def rows(quick: bool) -> list[Row]:
    """Every figure of this file."""
    n, width, rounds = (200, 512, 1) if quick else (2000, _WIDTH, 3)
    turns = []
    for _ in range(rounds):
        turn = {work: _measured(work, n, width) for work in ("structured", "closed")}
        turns.append(turn | {f"jacrev {few}": _measured("jacrev", few, width) for few in _FEW})
    seconds = {work: median(turn[work]["seconds"] for turn in turns) for work in turns[0]}
    peaks = {work: max(turn[work]["peak"] for turn in turns) for work in turns[0]}
    one, other = (seconds[f"jacrev {few}"] / few for few in _FEW)
    slope = max(0.0, (other - one) / (_FEW[1] - _FEW[0]))
    jacobians = n * (one - slope * _FEW[0]) + slope * n**2
    name = f"tangent kernel of a gated block, width {width:,}, n = {n:,}"
    beside = f"Jacobians by `torch.func`, from {_FEW[0]} and {_FEW[1]} samples"
    return [
        *(
            Row(
                f"{name}, {words}",
                beside,
                jacobians / seconds[work],
                10.0,
                note=f"{seconds[work]:.3g} s beside {jacobians:.3g} s",
            )
            for work, words in (("structured", "`empirical_ntk`"), ("closed", "`two_layer_empirical_ntk`"))
        ),
        *(
            Row(
                f"peak memory of that, `{words}`",
                "the whole process",
                peaks[work],
                1024.0,
                larger_is_better=False,
                unit=" MiB",
                note=f"{peaks[f'jacrev {_FEW[1]}']:.0f} MiB for the Jacobians of {_FEW[1]}",
            )
            for work, words in (("structured", "empirical_ntk"), ("closed", "two_layer_empirical_ntk"))
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples, a narrower block")
    parser.add_argument("--alone", nargs=3, metavar=("WORK", "N", "WIDTH"), help="one work in this process, as JSON")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(_alone(options.alone[0], *map(int, options.alone[1:]))))
    else:
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
        print(table(rows(options.quick)))
