"""Link prediction as a learning curve over the size of vectors: `python benchmarks/knowledge_curves.py PATH`.

PATH is what `read_triples` reads, such as wn18rr.npz. Arms are GIE, and ComplEx without a regulariser, with N3 and with
the equivariance regulariser (a threshold of 1, base .455, scale .6). All are trained with cross-entropy against all
entities in both directions; settings are those of `CompleterSettings.usual`, tuned for none. The epoch is chosen by
filtered MRR on a sample of the validation part; the test part is ranked once, filtered by all parts, realistic ties.
Published figures are of vectors of 300 to 2000 numbers and cannot be compared with these.

A run is a line of `--output` when it ends, and a run that stands there is not repeated; with `--checkpoints` one that
was interrupted goes on. `--table` prints what the file holds.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from equipoise.data import KGDataset, read_triples
from equipoise.knowledge import CompleterSettings, KnowledgeGraphCompleter, evaluate_link_prediction

ARMS: dict[str, dict[str, object]] = {
    "ComplEx": {"model": "complex", "regularizer": "none"},
    "ComplEx + N3": {"model": "complex", "regularizer": "n3"},
    "ComplEx + ER": {"model": "complex", "regularizer": "er"},
    "GIE": {"model": "gie"},
}
KEYS = ("set", "arm", "dim", "seed", "most_epochs")
COLUMNS = ("mrr", "hits@1", "hits@3", "hits@10")
SAMPLE = 2000


def with_sample(graph: KGDataset) -> KGDataset:
    """The graph with a sample of its validation part, the same for every run."""
    order = torch.randperm(len(graph.validation), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    return replace(graph, validation=graph.validation[order])


def run(name: str, dim: int, graph: KGDataset, options: argparse.Namespace) -> dict[str, object]:
    """Metrics on the test part, in per cent, and what it took."""
    settings = CompleterSettings.usual(
        str(ARMS[name]["model"]),
        **{key: value for key, value in ARMS[name].items() if key != "model"},
        loss="one_vs_all",
        dim=dim,
        epochs=options.epochs,
        validate_every=options.every,
        patience=options.patience,
        seed=options.seed,
    )
    checkpoint = None
    if options.checkpoints is not None:
        options.checkpoints.mkdir(parents=True, exist_ok=True)
        checkpoint = options.checkpoints / f"{options.path.stem}-{name.replace(' ', '')}-{dim}-{options.seed}.pt"
    completer = KnowledgeGraphCompleter(settings)
    started = time.perf_counter()
    completer.fit(
        with_sample(graph),
        checkpoint=checkpoint,
        progress=lambda epoch, loss, value: print(name, dim, epoch, f"{loss:.4f}", value, flush=True),
    )
    seconds = time.perf_counter() - started
    with warnings.catch_warnings():
        # Of entities that training does not have, which have a column of their own here.
        warnings.simplefilter("ignore")
        found = evaluate_link_prediction(completer.model, graph.test, graph.known(), training=graph.train)
    metrics = found.metrics()
    values = {column: round(100 * metrics[column], 2) for column in COLUMNS}
    seen = round(100 * found.seen().metrics()["mrr"], 2)
    history = completer.history
    about = {"epoch": history.best_epoch + 1, "epochs": len(history.losses), "minutes": round(seconds / 60, 1)}
    return {**values, "mrr, seen entities": seen, **about}


def finished(path: Path) -> list[dict[str, str]]:
    """The runs that stand in the file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]]) -> str:
    """All runs as Markdown."""
    shown = ("set", "arm", "dim", *COLUMNS, "mrr, seen entities", "epoch", "epochs")
    lines = ["| " + " | ".join(shown) + " |", "|---|---|" + "---:|" * (len(shown) - 2)]
    ordered = sorted(rows, key=lambda row: (row["set"], list(ARMS).index(row["arm"]), int(row["dim"])))
    lines += ["| " + " | ".join(row[column] for column in shown) + " |" for row in ordered]
    return "\n".join(lines)


def main() -> None:
    """Run what has not been run, the smallest vectors first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--dims", nargs="+", type=int, default=[16, 32, 64])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--every", type=int, default=3, help="epochs between two validations")
    parser.add_argument("--patience", type=int, default=9, help="epochs without a better validation value")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--output", type=Path, default=Path("knowledge-curves.csv"))
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if not options.table:
        graph = read_triples(options.path)
        about = {"set": options.path.stem, "seed": str(options.seed), "most_epochs": str(options.epochs)}
        for dim in options.dims:
            for name in options.arms:
                key = {**about, "arm": name, "dim": str(dim)}
                if any(all(row[column] == key[column] for column in KEYS) for row in finished(options.output)):
                    continue
                row = {**{column: key[column] for column in KEYS}, **run(name, dim, graph, options)}
                fresh = not options.output.is_file()
                with options.output.open("a", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, list(row))
                    if fresh:
                        writer.writeheader()
                    writer.writerow(row)
                print(row, flush=True)
    print(table(finished(options.output)))


if __name__ == "__main__":
    main()
