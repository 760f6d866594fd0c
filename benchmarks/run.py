"""All benchmarks in one run: `python benchmarks/run.py [--quick] [--output docs/benchmarks.md]`.

Every figure is a ratio of medians measured side by side in one process; absolute times of a shared machine say little.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from _timing import Row, table

_FILES = (
    "pairwise",
    "partial",
    "multitask",
    "segmentation",
    "metrics",
    "openworld",
    "boosting",
    "evaluate",
    "recommendation",
    "knowledge",
    "conditioning",
    "distillation",
    "semisup",
    "saliency",
    "association",
    "leakage",
)


def _import_time(module: str) -> float:
    """Seconds that a fresh interpreter takes to import a module, less what it takes to start."""
    started = perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return perf_counter() - started


def import_rows(quick: bool) -> list[Row]:
    """What it costs to import the package, beside torch."""
    found = []
    for work, goal in (("equipoise", 1.15), ("equipoise.core.pairs.loss", None), ("equipoise.ranking", None)):
        pairs = [(_import_time(work), _import_time("torch")) for _ in range(3 if quick else 9)]
        ratio = median(a for a, _ in pairs) / median(b for _, b in pairs)
        found.append(Row(f"import {work}", "import torch", ratio, goal, larger_is_better=False))
    return found


def main() -> None:
    """Run everything and print, or write, the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    options = parser.parse_args()
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    parts = [
        "# Benchmarks",
        "Ratios of medians, measured side by side in one run by `python benchmarks/run.py --output docs/benchmarks.md`"
        f"{' --quick' if options.quick else ''} on {now}: {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}.",
        "## import",
        table(import_rows(options.quick)),
    ]
    for name in _FILES:
        parts += [f"## {name}", table(importlib.import_module(name).rows(options.quick))]
        print("\n\n".join(parts[-2:]), flush=True)
    if options.output is not None:
        options.output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
