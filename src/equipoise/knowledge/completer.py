"""A knowledge graph completed in one object: fitted on triples, asked for tails, heads, scores and novel triples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from equipoise.core.curves.top_lists import top_candidates
from equipoise.core.epochs import TrainingHistory, fit_epochs
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Whole
from equipoise.core.validate import check_choice
from equipoise.data.triples.graph import PARTS, KGDataset
from equipoise.data.triples.known import KnownTails
from equipoise.knowledge.evaluation.evaluate import evaluate_link_prediction
from equipoise.knowledge.evaluation.report import LinkReport
from equipoise.knowledge.models.base import KGEModel
from equipoise.knowledge.models.build import MODELS, build_model
from equipoise.knowledge.models.gie import GIE
from equipoise.knowledge.regularization.base import KGRegularizer
from equipoise.knowledge.regularization.dura import DURARegularizer
from equipoise.knowledge.regularization.equivariance import EquivarianceRegularizer
from equipoise.knowledge.regularization.norms import F2Regularizer, N3Regularizer
from equipoise.knowledge.training.losses import frequency_weights
from equipoise.knowledge.training.trainer import KGTrainer, LossName, OptimizerName

RegularizerName: TypeAlias = Literal["none", "f2", "n3", "dura", "er"]
_REGULARIZERS: dict[str, Callable[[float], KGRegularizer]] = {
    "f2": F2Regularizer,
    "n3": N3Regularizer,
    "dura": DURARegularizer,
    # The weights of the public copies for factorisations; of these terms alone it would be weighted DURA.
    "er": lambda weight: EquivarianceRegularizer(weight, base=0.455, scale=0.6, eps=1.0),
}
_FACTORISATIONS = ("complex", "cp", "distmult", "rescal")
_METRICS = ("mrr", "hits@1", "hits@3", "hits@10", "adjusted_mean_rank_index")
_NAMES = ("entity_names", "relation_names")
_FILES = ("completer.json", "completer.safetensors")
# Scores that are held at once: 32 MiB.
_CELLS = 1 << 23
_ROWS = 1 << 16


@checked
@dataclass(frozen=True, kw_only=True)
class CompleterSettings:
    """Settings of `KnowledgeGraphCompleter`.

    Attributes:
        model: a name of `MODELS`, such as "complex" or "gie".
        dim: numbers per entity.
        regularizer: "none", "f2", "n3", "dura", or "er", the equivariance regulariser with a threshold of 1.
        weight: of the regulariser.
        loss: "one_vs_all", "negatives", or "auto" by the number of entities.
        num_negatives: of each triple, where the loss needs them.
        weighted: weigh a triple by how frequent its tail is, see `frequency_weights`.
        optimizer: "adagrad" or "adam".
        learning_rate: of it.
        batch_size: triples per step.
        epochs: most epochs.
        validate_every: epochs between two validations.
        patience: epochs without a better validation value before it stops.
        seed: of everything drawn.
    """

    model: str = "complex"
    dim: Count = 64
    regularizer: RegularizerName = "n3"
    weight: NonNegative = 0.05
    loss: LossName = "auto"
    num_negatives: Count = 50
    weighted: bool = False
    optimizer: OptimizerName = "adagrad"
    learning_rate: Positive = 0.1
    batch_size: Count = 1000
    epochs: Count = 100
    validate_every: Count = 5
    patience: Count = 25
    seed: Whole = 0

    @classmethod
    @checked
    def usual(cls, model: str, **changes: object) -> CompleterSettings:
        """Settings to begin with for a model, with changes: Adagrad and N3 for factorisations, else Adam and none."""
        check_choice("model", model, MODELS)
        other: dict[str, object] = {"regularizer": "none", "optimizer": "adam", "learning_rate": 0.005}
        kind = {} if model in _FACTORISATIONS else other
        return cls(**{"model": model, **kind, **changes})  # type: ignore[arg-type]


class Answers(NamedTuple):
    """The likeliest answers to some queries.

    Attributes:
        entities: (n, k), the best first; −1 where there are no more.
        scores: (n, k); −∞ there.
    """

    entities: Int[Tensor, "n k"]
    scores: Float[Tensor, "n k"]


class KnowledgeGraphCompleter:
    """Triples that a graph does not hold, with `fit`, `predict_tails`, `predict_heads`, `score` and `novel_triples`.

    Args:
        settings: all settings.

    Attributes:
        history: losses and validation values, after `fit`.

    >>> from equipoise.data import make_family_graph
    >>> graph = make_family_graph()
    >>> completer = KnowledgeGraphCompleter(CompleterSettings(dim=8, epochs=2, batch_size=128)).fit(graph)
    >>> answers = completer.predict_tails(torch.tensor([0, 1]), torch.tensor([0, 0]), 3)
    >>> answers.entities.shape, completer.score(graph.test[:2]).shape
    (torch.Size([2, 3]), torch.Size([2]))
    """

    history: TrainingHistory

    def __init__(self, settings: CompleterSettings | None = None) -> None:
        self.settings = settings or CompleterSettings()
        check_choice("model", self.settings.model, MODELS)
        self._model: KGEModel | None = None
        self._graph: KGDataset | None = None
        self._known: KnownTails | None = None

    @checked
    def fit(
        self,
        graph: KGDataset,
        *,
        metric: str = "mrr",
        progress: Callable[[int, float, float | None], None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> KnowledgeGraphCompleter:
        """Learn from the training part.

        Args:
            graph: with a validation part, the epoch with the best metric on it is kept; without, all are trained.
            metric: what decides, a name of `rank_metrics` of filtered ranks for which more is better.
            progress: told the epoch, its loss and its validation value after each.
            checkpoint: a file that is written after every epoch, from which an interrupted training goes on.

        Raises:
            ValueError: if the metric is not known, or the checkpoint is of other data or settings.
            FloatingPointError: if a loss is not finite.
        """
        check_choice("metric", metric, _METRICS)
        chosen = self.settings
        model = build_model(chosen.model, graph.num_entities, graph.num_relations, chosen.dim, seed=chosen.seed)
        weight = frequency_weights(graph.train, graph.num_entities) if chosen.weighted else None
        trainer = KGTrainer(
            model,
            graph.train,
            loss=chosen.loss,
            num_negatives=chosen.num_negatives,
            entity_weight=weight,
            regularizer=None if chosen.regularizer == "none" else _REGULARIZERS[chosen.regularizer](chosen.weight),
            optimizer=chosen.optimizer,
            batch_size=chosen.batch_size,
            learning_rate=chosen.learning_rate,
            seed=chosen.seed,
        )
        judged = len(graph.validation) > 0
        known = graph.known("train", "validation")

        def validate() -> float:
            return evaluate_link_prediction(model, graph.validation, known).metrics()[metric]

        self.history = fit_epochs(
            trainer,
            chosen.epochs,
            validate=validate if judged else None,
            validate_every=chosen.validate_every,
            patience=chosen.patience if judged else None,
            progress=progress,
            checkpoint=checkpoint,
            fingerprint=self._fingerprint(graph, metric),
        )
        self._model, self._graph, self._known = model, graph, None
        return self

    @property
    def model(self) -> KGEModel:
        """The fitted model; `RuntimeError` before `fit`."""
        if self._model is None:
            raise RuntimeError("the completer is not fitted; call fit(graph) first")
        return self._model

    @property
    def graph(self) -> KGDataset:
        """What it was fitted on; `RuntimeError` before `fit`."""
        if self._graph is None:
            raise RuntimeError("the completer is not fitted; call fit(graph) first")
        return self._graph

    @property
    def known(self) -> KnownTails:
        """The answers that any part of the graph holds."""
        if self._known is None:
            self._known = self.graph.known()
        return self._known

    @checked
    def score(self, triples: Integer[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Scores of triples, the higher the likelier; they compare triples and are no probabilities.

        Raises:
            IndexError: if an entity or relation is not there.
        """
        with torch.no_grad():
            return self.model.score_hrt(triples.long())

    @checked
    def predict_tails(
        self,
        heads: Integer[Tensor, " n"],
        relations: Integer[Tensor, " n"],
        k: Count = 10,
        *,
        exclude_known: bool = True,
    ) -> Answers:
        """The likeliest tails of (head, relation, ?).

        Args:
            heads: (n,).
            relations: (n,); r + M asks for heads of relation r.
            k: how many.
            exclude_known: leave out what the graph holds in any part.

        Raises:
            IndexError: if an entity or relation is not there.
        """
        parts = [
            self._answers(some, of, k, exclude_known)
            for some, of in zip(heads.long().split(self._step), relations.long().split(self._step), strict=True)
        ]
        return Answers(*(torch.cat(each) for each in zip(*parts, strict=True)))

    @checked
    def predict_heads(
        self,
        relations: Integer[Tensor, " n"],
        tails: Integer[Tensor, " n"],
        k: Count = 10,
        *,
        exclude_known: bool = True,
    ) -> Answers:
        """The likeliest heads of (?, relation, tail), by the reciprocal relation; arguments as in `predict_tails`."""
        return self.predict_tails(tails, self.model.inverse(relations.long()), k, exclude_known=exclude_known)

    @checked
    def novel_triples(
        self,
        k: Count = 10,
        *,
        heads: Integer[Tensor, " some"] | None = None,
        relations: Integer[Tensor, " several"] | None = None,
    ) -> Iterator[tuple[Int[Tensor, "n 3"], Float[Tensor, " n"]]]:
        """The k likeliest tails that the graph does not hold, for every head and relation, piece by piece.

        Args:
            heads: which heads; by default, for each relation, those that training has with it.
            relations: which relations, in 0 to M − 1; all by default.

        Yields:
            Triples of some heads of a relation, and their scores.

        Raises:
            IndexError: if an entity or relation is not there.
        """
        chosen = torch.arange(self.graph.num_relations) if relations is None else relations.long()
        for relation in chosen.tolist():
            own = self.graph.train[self.graph.train[:, 1] == relation, 0].unique() if heads is None else heads.long()
            for some in own.split(self._step):
                found = self._answers(some, torch.full_like(some, relation), k, True)
                there = found.entities >= 0
                row, _ = there.nonzero(as_tuple=True)
                tails = found.entities[there]
                yield torch.stack([some[row], torch.full_like(tails, relation), tails], 1), found.scores[there]

    def evaluate(self, triples: Int[Tensor, "n 3"] | None = None, **options: Any) -> LinkReport:
        """`evaluate_link_prediction` of the test part, or of other triples, beside all that is known."""
        asked = self.graph.test if triples is None else triples
        return evaluate_link_prediction(self.model, asked, self.known, training=self.graph.train, **options)

    def geometry_weights(self) -> Float[Tensor, "relations spaces"] | None:
        """Mean attention of each relation on the spaces of the model, over the heads of its training triples.

        Columns are in the order of `model.spaces`; NaN for a relation without a triple. None for a model that has one
        space only.
        """
        model = self.model
        if not isinstance(model, GIE):
            return None
        heads, relations, _ = self.graph.train.unbind(1)
        sums = torch.zeros(self.graph.num_relations, len(model.spaces), dtype=torch.float64)
        with torch.no_grad():
            for some, of in zip(heads.split(_ROWS), relations.split(_ROWS), strict=True):
                sums.index_add_(0, of, model.attention_weights(some, of).double())
        return sums / torch.bincount(relations, minlength=len(sums))[:, None]

    def save(self, folder: str | Path) -> None:
        """Write the model, its settings and the graph with its names: JSON and safetensors."""
        from safetensors.torch import save_file

        folder, graph = Path(folder), self.graph
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": value.contiguous() for name, value in self.model.state_dict().items()}
        tensors |= {part: getattr(graph, part).contiguous() for part in PARTS}
        save_file(tensors, folder / _FILES[1])
        sizes = {"num_entities": graph.num_entities, "num_relations": graph.num_relations}
        names = {"entity_names": graph.entity_names, "relation_names": graph.relation_names}
        about = {"settings": asdict(self.settings), **sizes, **names}
        (folder / _FILES[0]).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> KnowledgeGraphCompleter:
        """Read what `save` wrote.

        Raises:
            ValueError: if the folder does not hold a completer, or its files do not go together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            about = json.loads((folder / _FILES[0]).read_text(encoding="utf-8"))
            tensors = load_file(folder / _FILES[1])
            found = cls(CompleterSettings(**about.pop("settings")))
            names = {name: None if about[name] is None else tuple(about[name]) for name in _NAMES}
            parts = {part: tensors.pop(part) for part in PARTS}
            graph = KGDataset(**{**about, **names, **parts})
            chosen = found.settings
            model = build_model(chosen.model, graph.num_entities, graph.num_relations, chosen.dim, seed=chosen.seed)
            model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items()})
        except (OSError, KeyError, TypeError, ValueError, IndexError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder} does not hold a completer: {error}") from error
        wrong = [name for name, value in model.state_dict().items() if not bool(value.isfinite().all())]
        if wrong:
            raise ValueError(f"{folder} does not hold a completer: {wrong[0]} has numbers that are not finite")
        found._model, found._graph = model, graph
        return found

    @property
    def _step(self) -> int:
        return max(1, _CELLS // self.graph.num_entities)

    def _answers(self, heads: Tensor, relations: Tensor, k: int, exclude_known: bool) -> Answers:
        with torch.no_grad():
            scores = self.model.score_t(heads, relations)
        offsets, tails = self.known.of(heads, relations) if exclude_known else (None, None)
        entities = top_candidates(scores, k, offsets, tails)
        return Answers(entities, scores.gather(1, entities.clamp_min(0)).masked_fill(entities < 0, -torch.inf))

    def _fingerprint(self, graph: KGDataset, metric: str) -> str:
        found = hashlib.sha256(repr((self.settings, metric, graph.num_entities, graph.num_relations)).encode())
        for part in ("train", "validation"):
            found.update(getattr(graph, part).numpy().tobytes())
        return found.hexdigest()
