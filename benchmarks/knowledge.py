"""Filtered ranking of links beside PyKEEN, on the same scores: `python benchmarks/knowledge.py`.

PyKEEN lives in an interpreter of its own, named by `--pykeen` or by the variable EQUIPOISE_PYKEEN; the graph is an .npz
file as `read_triples` takes it (FB15k-237), named by `--graph` or EQUIPOISE_GRAPH. Without them the rows say "not run".
Such an interpreter, which shares torch with this one so that products of matrices agree in every bit:

    python -m venv /tmp/pykeen
    python -c "import site; print(site.getsitepackages()[0])" > /tmp/pykeen/lib/python3.11/site-packages/shared.pth
    /tmp/pykeen/bin/pip install --no-deps pykeen==1.11.1 'class-resolver<0.6' torch-max-mem docdata pystow more-click \
        more-itertools dataclasses-json click-default-group optuna alembic colorlog tabulate marshmallow \
        typing-inspect mypy-extensions sqlalchemy psutil pyyaml tqdm click

The sides take turns, each times itself by the same number of threads, and ratios are of processor time. With scores
given, our time is all of `evaluate_link_prediction` but the model's own: grouping queries, looking up what is known,
counting.
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
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, table

from equipoise.data import KGDataset, KnownTails, read_triples
from equipoise.knowledge import LinkReport, evaluate_link_prediction

_WIDTH = 64
_PEER = Path(__file__).with_name("_pykeen.py")
_BESIDE = "PyKEEN 1.11.1"
_WORKS = {
    "ranking": ("scores given", f"{_BESIDE}, all that its evaluator does but the scoring", 15.0),
    "counting": ("scores given", f"{_BESIDE}, `filter_scores_` and `process_scores_` alone", 15.0),
    "whole": ("DistMult of rank 64, end to end", f"{_BESIDE}, `LCWAEvaluationLoop`", None),
}


class _Products:
    """DistMult, which times itself; both directions of a relation have the same vector."""

    def __init__(self, entity: Tensor, relation: Tensor) -> None:
        self._entity, self._relation, self.num_relations = entity, relation, len(relation)
        self.seconds = 0.0

    def score_t(self, heads: Tensor, relations: Tensor) -> Tensor:
        started = process_time()
        scores = (self._entity[heads] * self._relation[relations % self.num_relations]) @ self._entity.T
        self.seconds += process_time() - started
        return scores


def _world(graph: KGDataset) -> tuple[_Products, dict[str, Any]]:
    """A model, and it and the triples as arrays; some entities are doubles, so that there are ties."""
    generator = np.random.default_rng(0)
    entity, relation = (
        generator.normal(size=(n, _WIDTH)).astype(np.float32) for n in (graph.num_entities, graph.num_relations)
    )
    entity[1 : graph.num_entities // 10] = entity[0]
    known = torch.cat([graph.train, graph.validation, graph.test]).numpy()
    arrays = {"entity": entity, "relation": relation, "known": known, "test": graph.test.numpy()}
    return _Products(torch.from_numpy(entity), torch.from_numpy(relation)), {**arrays, "relations": len(relation)}


@contextmanager
def _pykeen(interpreter: str, arrays: dict[str, Any]) -> Iterator[Callable[[str, int], dict[str, Any]]]:
    """What runs a turn in PyKEEN's process."""
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "world.npz", Path(folder) / "ranks.npz"
        np.savez(path, **arrays)
        settings = [str(each) for each in (path, output, torch.get_num_threads())]
        with subprocess.Popen(
            [interpreter, str(_PEER), *settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def turn(what: str, triples: int) -> dict[str, Any]:
                print(json.dumps({"what": what, "triples": triples}), file=process.stdin, flush=True)
                answer: dict[str, Any] = json.loads(process.stdout.readline())
                if what == "ranking":
                    with np.load(output) as file:
                        answer["ranks"] = {name: file[name] for name in file.files}
                return answer

            yield turn
            process.stdin.close()


def _refuse_other_ranks(ours: LinkReport, theirs: dict[str, Any]) -> None:
    for column, target in enumerate(("tail", "head")):
        for kind in ("optimistic", "pessimistic", "candidates"):
            wrong = int((getattr(ours, kind)[:, column].numpy() != theirs[f"{target}_{kind}"]).sum())
            if wrong:
                raise RuntimeError(f"{wrong} of {len(ours)} {target} {kind} are not the same on both sides")


def _ours(model: _Products, triples: Tensor, known: KnownTails) -> tuple[float, float, LinkReport]:
    """Seconds of the ranking, and with the scores; what came out."""
    model.seconds, started = 0.0, process_time()
    found = evaluate_link_prediction(model, triples, known)
    whole = process_time() - started
    return whole - model.seconds, whole, found


def rows(quick: bool, pykeen: str | None = None, graph: str | None = None) -> list[Row]:
    """Every figure of this file."""
    pykeen, graph = pykeen or os.environ.get("EQUIPOISE_PYKEEN"), graph or os.environ.get("EQUIPOISE_GRAPH")
    name = "filtered ranking of FB15k-237's test, both directions"
    if not pykeen or not graph:
        note = "needs --pykeen, an interpreter that has it, and --graph"
        return [Row(f"{name}, {words}", beside, None, goal, note=note) for words, beside, goal in _WORKS.values()]
    data = read_triples(graph)
    triples = data.test[:2000] if quick else data.test
    known, (model, arrays) = data.known(), _world(data)
    with _pykeen(pykeen, arrays) as turn:
        _refuse_other_ranks(_ours(model, triples[:500], known)[2], turn("ranking", 500)["ranks"])
        pairs = [(_ours(model, triples, known), turn("ranking", len(triples))) for _ in range(2 if quick else 3)]
        _refuse_other_ranks(pairs[0][0][2], pairs[0][1]["ranks"])
        ends = [(_ours(model, triples, known), turn("whole", len(triples))) for _ in range(1)]
    mrr = ends[0][0][2].metrics()["mrr"], ends[0][1]["mrr"]
    if abs(mrr[0] - mrr[1]) > 1e-5:
        raise RuntimeError(f"the two sides do not agree: MRR {mrr[0]} and {mrr[1]}")
    looking, filtering, processing = (
        median(each[1]["seconds"][part] for each in pairs) for part in ("known", "filter", "process")
    )
    mine = median(each[0][0] for each in pairs)
    seconds = {
        "ranking": (mine, looking + filtering + processing),
        "counting": (mine, filtering + processing),
        "whole": (median(each[0][1] for each in ends), median(each[1]["seconds"]["whole"] for each in ends)),
    }
    return [
        Row(
            f"{name}, {len(triples):,} triples, {words}",
            beside,
            seconds[what][1] / seconds[what][0],
            goal,
            note=f"{seconds[what][0]:.3g} s beside {seconds[what][1]:.3g} s of processor time",
        )
        for what, (words, beside, goal) in _WORKS.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer triples and rounds")
    parser.add_argument("--pykeen", help="an interpreter that has PyKEEN 1.11.1")
    parser.add_argument("--graph", help="FB15k-237 as an .npz file with train, valid, test, n_entities, n_relations")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(table(rows(options.quick, options.pykeen, options.graph)))
