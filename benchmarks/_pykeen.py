"""PyKEEN's side of `knowledge.py`, run by an interpreter that has it: filtered ranking as its evaluation loop does it.

It reads what to do from standard input, a line of JSON a turn, and answers in a line. Seconds are of the processor.

- "ranking": the steps of `RankBasedEvaluator.evaluate`, on scores by the same products as the other side, untimed:
  `create_sparse_positive_filter_`, `filter_scores_` and `process_scores_`, timed apart.
- "whole": `LCWAEvaluationLoop.evaluate` of PyKEEN's own DistMult with the same vectors.

Batches have 32 triples, its default on a processor, and the fastest of 8, 16, 32, 64 and 256 within the noise.
"""

import json
import logging
import sys
import time
import warnings

import numpy as np
import torch

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
from pykeen.evaluation import RankBasedEvaluator  # noqa: E402
from pykeen.evaluation.evaluation_loop import LCWAEvaluationLoop  # noqa: E402
from pykeen.evaluation.evaluator import create_sparse_positive_filter_, filter_scores_  # noqa: E402
from pykeen.models import DistMult  # noqa: E402
from pykeen.triples import CoreTriplesFactory  # noqa: E402

_AT_ONCE = 32


def _ranking(world, count):
    evaluator = RankBasedEvaluator(filtered=True)
    seconds = {"known": 0.0, "filter": 0.0, "process": 0.0}
    ranks = {}
    triples, entity, relation, known = (
        torch.from_numpy(world[name]) for name in ("test", "entity", "relation", "known")
    )
    for column, target in ((2, "tail"), (0, "head")):
        for start in range(0, count, _AT_ONCE):
            batch = triples[start : min(start + _AT_ONCE, count)]
            # Filled up as the other side does, so that the products agree in every bit.
            padded = torch.cat([batch, batch[-1:].expand(-len(batch) % 16, 3)])
            scores = ((entity[padded[:, 2 - column]] * relation[padded[:, 1]]) @ entity.T)[: len(batch)].contiguous()
            times = [time.process_time()]
            found, _ = create_sparse_positive_filter_(hrt_batch=batch, all_pos_triples=known, filter_col=column)
            times.append(time.process_time())
            rows = torch.arange(len(batch))
            true_scores = scores[rows, batch[:, column], None]
            scores = filter_scores_(scores=scores, filter_batch=found)
            scores[rows, batch[:, column]] = true_scores[:, 0]
            times.append(time.process_time())
            evaluator.process_scores_(hrt_batch=batch, target=target, scores=scores, true_scores=true_scores)
            times.append(time.process_time())
            for part, spent in zip(seconds, np.diff(times), strict=True):
                seconds[part] += float(spent)
        for kind in ("optimistic", "pessimistic"):
            ranks[f"{target}_{kind}"] = np.concatenate(evaluator.ranks[target, kind]).astype(np.int64)
        ranks[f"{target}_candidates"] = np.concatenate(evaluator.num_candidates[target]).astype(np.int64)
    return seconds, ranks


def _whole(world, count):
    names = {"num_entities": len(world["entity"]), "num_relations": int(world["relations"])}
    factories = [
        CoreTriplesFactory(torch.from_numpy(part), **names) for part in (world["known"], world["test"][:count])
    ]
    model = DistMult(triples_factory=factories[0], embedding_dim=world["entity"].shape[1])
    with torch.no_grad():
        for held, name in ((model.entity_representations, "entity"), (model.relation_representations, "relation")):
            held[0]._embeddings.weight.copy_(torch.from_numpy(world[name]))
    loop = LCWAEvaluationLoop(
        triples_factory=factories[1],
        model=model,
        evaluator=RankBasedEvaluator(),
        additional_filter_triples=factories[0],
    )
    started = time.process_time()
    found = loop.evaluate(batch_size=_AT_ONCE, use_tqdm=False)
    return {"whole": time.process_time() - started}, float(found.get_metric("mrr"))


def main():
    """Take turns until the input ends."""
    path, output, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    with np.load(path) as file:
        world = {name: file[name] for name in file.files}
    world["relations"] = int(world["relations"])
    for line in sys.stdin:
        asked = json.loads(line)
        with torch.inference_mode():
            if asked["what"] == "ranking":
                seconds, ranks = _ranking(world, asked["triples"])
                np.savez(output, **ranks)
                answer = {"seconds": seconds}
            else:
                seconds, mrr = _whole(world, asked["triples"])
                answer = {"seconds": seconds, "mrr": mrr}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
