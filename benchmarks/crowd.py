"""Rankings of a million comparisons: `python benchmarks/crowd.py [--quick]`.

A million answers of 1,000 people about 500 items are written as Parquet, counted a part at a time, and ranked; then
the whole path of split linearized Bregman iterations is run on them. Each work has a process of its own, so that its
peak of memory is its own, on `--threads` threads.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, table

_ITEMS, _PEOPLE, _ROWS = 500, 1000, 1_000_000
_WORKS = {
    "count": ("counted from Parquet", 60.0),
    "hodge": ("HodgeRank of the counts", 10.0),
    "bradley_terry": ("Bradley–Terry of the counts", 10.0),
    "path": ("whole path of split LBI, 50 times", 300.0),
}
_MEMORY = 4.0


def write(path: Path, rows: int) -> None:
    """Answers of people of whom a fifth have scores of their own, with ties."""
    import pandas as pd

    from equipoise.data import simulate_partial_rankings

    each = rows // _PEOPLE
    said = simulate_partial_rankings(_PEOPLE, _ITEMS, comparisons_per_user=(each, each), spread=2.0, seed=0).comparisons
    names = ("annotator", "left", "right", "label")
    frame = pd.DataFrame({name: getattr(said, name).numpy().astype(np.int32) for name in names})
    frame.sample(frac=1, random_state=0).to_parquet(path, index=False)


def work(name: str, path: Path) -> None:
    """One work, which prints its seconds and its peak of memory in GiB."""
    from equipoise.crowd import ConsensusRanker, split_lbi_path
    from equipoise.data import ComparisonTally, read_comparisons

    columns = {"left": "left", "right": "right", "label": "label"}
    if name == "path":
        said = read_comparisons(path).comparisons
        started = perf_counter()
        found = split_lbi_path(said)
        note = f"{int(found.support[-1].sum())} of {found.num_users} people leave"
    else:
        started = perf_counter()
        counts = ComparisonTally.of(path, **columns).counts().counts
        note = f"{len(counts):,} pairs"
        if name != "count":
            started = perf_counter()
            found = ConsensusRanker(name, ridge=0.0 if name == "hodge" else 0.01).fit(counts)
            note = f"{counts.num_items} items"
    seconds = perf_counter() - started
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, note, sep="|")


def rows(quick: bool, threads: int = 1) -> list[Row]:
    """Every figure of this file."""
    size = _ROWS // 20 if quick else _ROWS
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.parquet"
        write(path, size)
        for name, (words, goal) in _WORKS.items():
            command = [sys.executable, __file__, "--work", name, "--file", str(path), "--threads", str(threads)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds, memory, note = said.strip().splitlines()[-1].split("|")
            what = f"{words}, {size:,} comparisons"
            found.append(Row(what, f"a goal, {threads} thread(s)", float(seconds), goal, False, " s", note))
            found.append(Row(f"{what}: memory", "a goal", float(memory), _MEMORY, False, " GiB", "with reading"))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the comparisons")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", choices=_WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.work:
        work(options.work, options.file)
    else:
        print(f"{options.threads} thread(s), torch {torch.__version__}\n")
        print(table(rows(options.quick, options.threads)))
