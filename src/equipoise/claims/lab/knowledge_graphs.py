"""Models of knowledge graphs that the claims of `knowledge` train."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from equipoise.core.epochs import fit_epochs
from equipoise.data import KGDataset, split_triples
from equipoise.knowledge import KGEModel, KGRegularizer, KGTrainer, evaluate_link_prediction


def with_validation(graph: KGDataset, share: float, seed: int) -> KGDataset:
    """A share of the training part as validation part; where possible, training keeps all entities and relations."""
    inner = split_triples(
        KGDataset.from_triples(graph.train, num_entities=graph.num_entities, num_relations=graph.num_relations),
        (1 - share, share, 0),
        seed=seed,
    )
    return KGDataset.from_triples(
        inner.train,
        inner.validation,
        graph.test,
        num_entities=graph.num_entities,
        num_relations=graph.num_relations,
    )


def train_graph_model(
    model: KGEModel,
    graph: KGDataset,
    *,
    optimizer: str,
    learning_rate: float,
    epochs: int,
    seed: int,
    regularizer: KGRegularizer | None = None,
    validate_every: int | None = None,
) -> KGEModel:
    """Train against all entities, 256 triples a step; with validations, the best epoch by filtered MRR is kept."""
    trainer = KGTrainer(
        model,
        graph.train,
        loss="one_vs_all",
        regularizer=regularizer,
        optimizer="adam" if optimizer == "adam" else "adagrad",
        batch_size=256,
        learning_rate=learning_rate,
        seed=seed,
    )
    known = graph.known("train", "validation")

    def validate() -> float:
        return evaluate_link_prediction(model, graph.validation, known).metrics()["mrr"]

    fit_epochs(
        trainer,
        epochs,
        validate=validate if validate_every else None,
        validate_every=validate_every or 1,
    )
    return model


def filtered_mrr(model: KGEModel, graph: KGDataset, part: str, groups: Mapping[str, Tensor]) -> dict[str, float]:
    """Filtered, realistic MRR of both directions on a part, for groups of relations by name."""
    triples = getattr(graph, part)
    known = graph.known("train", "validation") if part == "validation" else graph.known()
    report = evaluate_link_prediction(model, triples, known)
    return {
        name: report.select(torch.isin(triples[:, 1], relations)).metrics()["mrr"] for name, relations in groups.items()
    }
