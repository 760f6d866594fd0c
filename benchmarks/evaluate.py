"""`equipoise evaluate` on a file of fifty million scores: `python benchmarks/evaluate.py [--quick]`.

Each side is a fresh process, timed from its start to its end, so that imports count as a user pays for them. Ours gives
four metrics with certified bounds, bootstrap intervals, thresholds and a report; theirs loads the file and gives AUROC.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, table

_GROUP = 1 << 20
# Prints the peak memory in MiB: of a bare interpreter, or after the work. Read from Linux's own count, since
# `resource.getrusage` gives a child the peak of the process that started it.
_PEAK = "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024)"
_OURS = """
import sys
from equipoise.cli.main import main
main(["evaluate", sys.argv[1], "--target", "y", "--score", "s", "--stream", "--min-tpr", "0.1", "--output", sys.argv[2],
      "--overwrite"])
"""
_THEIRS = """
import sys
import pandas as pd
from sklearn.metrics import roc_auc_score
frame = pd.read_parquet(sys.argv[1], columns=["y", "s"])
print(float(roc_auc_score(frame["y"], frame["s"])))
"""


def _write(path: Path, rows: int, kind: str) -> None:
    """Scores with one positive in a hundred: logits of unit normals one apart, or probabilities of two beta laws."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("y", pa.int8()), ("s", pa.float64())])) as file:
        for start in range(0, rows, _GROUP):
            size = min(_GROUP, rows - start)
            y = generator.random(size) < 0.01
            if kind == "normal":
                s = generator.normal(size=size) + y
            else:
                s = np.where(y, generator.beta(4, 2, size), generator.beta(2, 4, size))
            file.write_table(pa.table({"y": y.astype(np.int8), "s": s}))


def _run(work: str, *arguments: object) -> tuple[float, float, list[str]]:
    """Seconds, peak MiB and the printed lines of a fresh process."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", work + _PEAK, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    *lines, peak = done.stdout.splitlines()
    return seconds, float(peak), lines


def rows(quick: bool) -> list[Row]:
    """Every figure of this file."""
    size, rounds = (5_000_000, 1) if quick else (50_000_000, 3)
    found = []
    bare = _run("")[1]
    for kind in ("normal",) if quick else ("normal", "beta"):
        with tempfile.TemporaryDirectory() as folder:
            path, output = Path(folder) / "scores.parquet", Path(folder) / "out"
            _write(path, size, kind)
            turns = [(_run(_OURS, path, output), _run(_THEIRS, path)) for _ in range(rounds if kind == "normal" else 1)]
            bounds = json.loads((output / "metrics.json").read_text())["certified"]["s"]
        exact = float(turns[0][1][2][0])
        if not bounds["AUROC"]["lower"] <= exact <= bounds["AUROC"]["upper"]:
            raise RuntimeError(f"AUROC is {exact}, but was said to lie in {bounds['AUROC']}")
        ours, theirs = (median(turn[side][0] for turn in turns) for side in (0, 1))
        peaks = [max(turn[side][1] for turn in turns) - bare for side in (0, 1)]
        work = f"evaluate, {size:,} scores ({kind})"
        found += [
            # The goal is one for fifty million scores: on few of them, both sides mostly import.
            Row(
                work,
                "pandas + roc_auc_score",
                theirs / ours,
                None if quick else 5,
                note=f"{ours:.3g} s beside {theirs:.3g} s",
            ),
            Row(f"{work}: memory", "a bare interpreter", peaks[0], 1024, False, " MiB", f"theirs {peaks[1]:.0f} MiB"),
        ]
        found += [
            Row(f"{work}: width of {name}", "the exact value", b["upper"] - b["lower"], 1e-4, False, "")
            for name, b in bounds.items()
        ]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="five million scores, one round")
    print(table(rows(parser.parse_args().quick)))
