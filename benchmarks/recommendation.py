"""Full ranking beside RecBole, training without sampling beside sampling: `python benchmarks/recommendation.py`.

RecBole pins old releases of its dependencies and lives in an interpreter of its own, named by `--recbole` or by the
variable EQUIPOISE_RECBOLE; without it its rows say "not run". It is a process that waits for its turn, so that the
turns still alternate, and each side times itself, by the same number of threads and as many users scored at once.
Ratios are of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, table

from equipoise.data import Interactions
from equipoise.recsys import SFCML, MultiVectorCML, SampledTrainer, SamplingFreeTrainer, evaluate_recommender

_ITEMS, _WIDTH, _K, _AT_ONCE = 50_000, 64, 20, 160
_NAMES = ("recall", "ndcg", "mrr", "map")
_PEER = Path(__file__).with_name("_recbole.py")


class _Products:
    """Scores by inner products."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        self._users, self._items = users, items

    def predict(self, users: Tensor) -> Tensor:
        return self._users[users] @ self._items.T


def _pairs(generator: np.random.Generator, users: int, mean: int) -> tuple[Any, Any]:
    counts = np.maximum(generator.poisson(mean, users), 1)
    return np.repeat(np.arange(users), counts), generator.integers(0, _ITEMS, counts.sum())


def _world(users: int) -> tuple[_Products, Interactions, Interactions, dict[str, Any]]:
    """A model, what it was trained on, what is to be found, and all of it as arrays."""
    generator = np.random.default_rng(0)
    vectors = [generator.normal(size=(n, _WIDTH)).astype(np.float32) for n in (users, _ITEMS)]
    history = Interactions.from_pairs(*_pairs(generator, users, 30), num_users=users, num_items=_ITEMS)
    who, what = _pairs(generator, users, 10)
    new = ~history.contains(torch.from_numpy(who), torch.from_numpy(what)).numpy()
    test = Interactions.from_pairs(who[new], what[new], num_users=users, num_items=_ITEMS)
    arrays = {"users": vectors[0], "items": vectors[1]}
    for name, part in (("history", history), ("test", test)):
        arrays |= {f"{name}_users": part.users.numpy(), f"{name}_items": part.items.numpy()}
    return _Products(*map(torch.from_numpy, vectors)), history, test, arrays


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall and of the processor."""
    wall, processor = perf_counter(), process_time()
    work()
    return perf_counter() - wall, process_time() - processor


def _beside(wall: float, their_wall: float, processor: float, their_processor: float) -> str:
    return (
        f"{processor:.3g} s beside {their_processor:.3g} s of processor time, {wall:.3g} s beside {their_wall:.3g} s "
        "on the wall"
    )


@contextmanager
def _recbole(interpreter: str, arrays: dict[str, Any]) -> Iterator[Callable[..., dict[str, Any]]]:
    """What runs a turn in RecBole's process: given the metrics and the number of users, its values and times."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.npz"
        np.savez(path, **arrays)
        settings = [str(each) for each in (path, _K, _AT_ONCE, torch.get_num_threads())]
        with subprocess.Popen(
            [interpreter, str(_PEER), *settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def turn(**asked: Any) -> dict[str, Any]:
                print(json.dumps(asked), file=process.stdin, flush=True)
                answer: dict[str, Any] = json.loads(process.stdout.readline())
                return answer

            yield turn
            process.stdin.close()


def _full_ranking(quick: bool, interpreter: str | None) -> list[Row]:
    users = 1_000 if quick else 10_000
    beside = "RecBole 1.2.1"
    works = {
        f"full ranking, {users:,} users × {_ITEMS:,} items, recall, NDCG, MRR and MAP @{_K}": (_NAMES, 3.0),
        f"full ranking, {users:,} users × {_ITEMS:,} items, @{_K} and AUC of each user": ((*_NAMES, "gauc"), 20.0),
    }
    model, history, test, arrays = _world(users)

    def ours(count: int) -> Any:
        return evaluate_recommender(model, test, history, k=_K, users=torch.arange(count), batch_size=_AT_ONCE)

    def score() -> None:
        for part in torch.arange(users).split(_AT_ONCE):
            model.predict(part)

    found = [_memory(lambda: ours(users), users, quick)]
    if not interpreter:
        note = "needs --recbole, an interpreter that has it"
        return [*found, *(Row(work, beside, None, goal, note=note) for work, (_, goal) in works.items())]
    with _recbole(interpreter, arrays) as turn:
        mine, theirs = ours(_AT_ONCE), turn(metrics=[*_NAMES, "gauc"], users=_AT_ONCE)
        values = {name: mine.means()[f"{name}@{_K}"].value for name in _NAMES}
        values["gauc"] = float((mine.values["auc"] * mine.tests).sum() / mine.tests.sum())
        gaps = {name: abs(value - theirs["values"][name]) for name, value in values.items()}
        if max(gaps.values()) > 1e-6:
            raise RuntimeError(f"the two sides do not agree: {gaps}")
        turn(metrics=[], users=_AT_ONCE)
        for work, (names, goal) in works.items():
            # RecBole sorts every row for the AUC, which takes minutes.
            rounds = 2 if quick else 1 if "gauc" in names else 5
            turns = [(_timed(lambda: ours(users)), turn(metrics=names, users=users)) for _ in range(rounds)]
            wall, processor = (median(turn[0][side] for turn in turns) for side in (0, 1))
            their_wall, their_processor = (median(turn[1][each] for turn in turns) for each in ("wall", "processor"))
            note = _beside(wall, their_wall, processor, their_processor)
            found.append(Row(work, beside, their_processor / processor, goal, note=note))
            # Both sides score alike; what is left is the judging.
            scoring = median(_timed(score)[1] for _ in range(rounds))
            alone = (their_processor - scoring) / (processor - scoring)
            found.append(Row(f"{work}, without the scoring", beside, alone, note=f"scoring {scoring:.3g} s"))
    return found


def _memory(work: Callable[[], object], users: int, quick: bool) -> Row:
    """Resident memory that the evaluation adds at its peak; the peak is set back first, so this runs on Linux."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    work()
    name = f"full ranking, {users:,} users × {_ITEMS:,} items: extra memory at its peak"
    matrix = users * _ITEMS * 4 / 2**20
    added = _resident("VmHWM") - before
    goal = None if quick else round(matrix / 4)
    return Row(name, f"a matrix of all scores, {matrix:,.0f} MiB", added, goal, False, " MiB")


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _epochs(quick: bool, path: str | None) -> list[Row]:
    name = "an epoch without sampling, Steam-200k"
    beside = "an epoch with 10 sampled items"
    if path is None:
        return [Row(name, beside, None, 0.5, False, note="needs --interactions, its file")]
    train = _train_part(path)
    found = []
    for width in (100, 256):
        size = train.num_users, train.num_items
        free = SamplingFreeTrainer(SFCML(*size, dim=width), train)
        sampled = SampledTrainer(MultiVectorCML(*size, dim=width, num_vectors=1), train)
        turns = [(_timed(free.epoch), _timed(sampled.epoch)) for _ in range(2 if quick else 4)]
        (wall, processor), (their_wall, their_processor) = (
            [median(turn[which][each] for turn in turns[1:]) for each in (0, 1)] for which in (0, 1)
        )
        note = _beside(wall, their_wall, processor, their_processor)
        found.append(Row(f"{name}, d = {width}", beside, processor / their_processor, 0.5, False, note=note))
    return found


def _train_part(path: str) -> Interactions:
    with np.load(path) as file:
        sizes = {f"num_{each}": int(file[f"n_{each}"]) for each in ("users", "items")}
        return Interactions.from_pairs(file["train_user"], file["train_item"], **sizes)


def rows(quick: bool, recbole: str | None = None, interactions: str | None = None) -> list[Row]:
    """Every figure of this file."""
    recbole = recbole or os.environ.get("EQUIPOISE_RECBOLE")
    interactions = interactions or os.environ.get("EQUIPOISE_INTERACTIONS")
    return [*_full_ranking(quick, recbole), *_epochs(quick, interactions)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer users and rounds")
    parser.add_argument("--recbole", help="an interpreter that has RecBole 1.2.1")
    parser.add_argument(
        "--interactions", help="an npz file with n_users, n_items, train_user and train_item of Steam-200k"
    )
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(table(rows(options.quick, options.recbole, options.interactions)))
