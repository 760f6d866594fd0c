"""RecBole's side of `recommendation.py`, run by an interpreter that has it: full ranking as its trainer does it.

Scores of a batch of users, minus infinity for what they had, its collector for each batch and its evaluator at the end.
It reads what to do from standard input, a line of JSON a turn, and answers in a line.
"""

import json
import sys
import time
import warnings

import numpy as np
import torch

warnings.simplefilter("ignore")
# Names of NumPy that RecBole still uses.
for _name, _type in (("float", float), ("int", int), ("bool", bool)):
    setattr(np, _name, _type)
from recbole.evaluator import Collector, Evaluator  # noqa: E402


def _bounds(users, count):
    return torch.from_numpy(np.searchsorted(users, np.arange(count + 1)))


def _judge(world, metrics, users, k, at_once):
    config = {
        "eval_args": {"mode": "full"},
        "topk": [k],
        "device": torch.device("cpu"),
        "metrics": metrics,
        "metric_decimal_place": 12,
    }
    collector, evaluator = Collector(config), Evaluator(config)
    for start in range(0, users, at_once):
        stop = min(start + at_once, users)
        scores = world["users"][start:stop] @ world["items"].T
        pairs = {}
        for name in ("history", "test"):
            first, last = world[f"{name}_bounds"][[start, stop]]
            pairs[name] = world[f"{name}_users"][first:last] - start, world[f"{name}_items"][first:last]
        scores[pairs["history"]] = -np.inf
        collector.eval_batch_collect(scores, None, *pairs["test"])
    return evaluator.evaluate(collector.get_data_struct())


def main():
    """Take turns until the input ends."""
    path, k, at_once, threads = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    with np.load(path) as file:
        world = {name: torch.from_numpy(file[name]) for name in file.files}
    for name in ("history", "test"):
        world[f"{name}_bounds"] = _bounds(world[f"{name}_users"].numpy(), len(world["users"]))
    for line in sys.stdin:
        asked = json.loads(line)
        wall, processor = time.perf_counter(), time.process_time()
        found = _judge(world, asked["metrics"], asked["users"], k, at_once) if asked["metrics"] else {}
        answer = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        answer["values"] = {name.partition("@")[0]: float(value) for name, value in found.items()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
