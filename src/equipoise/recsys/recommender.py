"""A recommender in one object: fitted on who took what, asked for lists, similar items and people it has not seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int, Integer
from torch import Generator, Tensor

from equipoise.core.epochs import TrainingHistory
from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, NonNegative, Positive, Whole
from equipoise.core.validate import check_choice, warn_once
from equipoise.data.interactions.matrix import Interactions
from equipoise.recsys.evaluation.evaluate import evaluate_recommender
from equipoise.recsys.evaluation.ranking_metrics import AT_K, WHOLE
from equipoise.recsys.evaluation.top_lists import recommend, rows_at_once, top_items
from equipoise.recsys.metric_learning.distance import multi_vector_distance, num_interests
from equipoise.recsys.metric_learning.diversity import DiversityControl, Variant
from equipoise.recsys.metric_learning.models import SFCML, MultiVectorCML
from equipoise.recsys.metric_learning.negatives import PopularityNegatives, UniformNegatives
from equipoise.recsys.metric_learning.training import SampledTrainer, SamplingFreeTrainer, fit_recommender

Kind: TypeAlias = Literal["cml", "dpcml", "sfcml"]
_FILES = ("recommender.json", "recommender.safetensors")


@checked
@dataclass(frozen=True, kw_only=True)
class RecommenderSettings:
    """Settings of `MetricLearningRecommender`.

    Attributes:
        model: "cml": one vector per user; "dpcml": several, kept apart by the diversity penalty; "sfcml": one, against
            all unobserved items without sampling.
        dim: of the vectors.
        num_vectors: vectors per user of "dpcml"; with `adaptive` the most.
        adaptive: give users vectors by the logarithm of their items.
        sampling: of unobserved items, "uniform" or "popularity"; "sfcml" samples none.
        candidates: sampled per observed item.
        hardness: share of the candidates that counts, the nearest ones: the range of the ROC curve that is trained. 1
            counts all; 1 / candidates, or less, the hardest alone.
        margin: λ; of "sfcml" scores lie in [−2, 2], and the authors' scripts have 1.5 or 2.
        delta1: lower end of the band of the diversity penalty.
        delta2: its upper end.
        variant: of the diversity penalty.
        diversity_weight: η.
        learning_rate: of Adam, of "sfcml" of Adagrad.
        batch_size: observed pairs per step; of "sfcml" users per step.
        epochs: most epochs.
        patience: epochs without a better validation value before it stops.
        validate_every: epochs between two validations.
        seed: of everything drawn.
    """

    model: Kind = "dpcml"
    dim: Count = 64
    num_vectors: Count = 4
    adaptive: bool = False
    sampling: Literal["uniform", "popularity"] = "uniform"
    candidates: Count = 10
    hardness: Fraction = 1.0
    margin: NonNegative = 1.0
    delta1: NonNegative = 0.05
    delta2: NonNegative = 0.25
    variant: Variant = "average"
    diversity_weight: NonNegative = 10.0
    learning_rate: Positive = 0.003
    batch_size: Count = 1024
    epochs: Count = 50
    patience: Count = 5
    validate_every: Count = 1
    seed: Whole = 0

    @classmethod
    @checked
    def usual(cls, model: Kind, **changes: object) -> RecommenderSettings:
        """Settings to begin with for a kind of model, with changes: of "sfcml" those of the authors' scripts."""
        kinds: dict[str, dict[str, object]] = {
            "cml": {"num_vectors": 1},
            "dpcml": {},
            "sfcml": {"dim": 256, "margin": 2.0, "learning_rate": 0.05, "batch_size": 256, "epochs": 200},
        }
        return cls(**{"model": model, **kinds[model], **changes})  # type: ignore[arg-type]


class MetricLearningRecommender:
    """Metric learning with `fit`, `recommend`, `similar_items` and `fold_in`.

    A user without a training item, or with all items, cannot be learned from and is answered by popularity. An item
    that nobody took keeps a vector that training pushes away from everybody.

    Args:
        settings: all settings.

    Attributes:
        history: losses and validation values, after `fit`.

    >>> from equipoise.data import Interactions
    >>> likes = Interactions.from_pairs([0, 0, 1, 1, 2], [0, 1, 2, 3, 0], num_users=4, num_items=6)
    >>> model = MetricLearningRecommender(RecommenderSettings(dim=4, epochs=2)).fit(likes)
    >>> model.recommend(torch.tensor([0, 3]), 3).shape, model.similar_items(torch.tensor([2]), 2).shape
    (torch.Size([2, 3]), torch.Size([1, 2]))
    """

    history: TrainingHistory

    def __init__(self, settings: RecommenderSettings | None = None) -> None:
        self.settings = settings or RecommenderSettings()
        self._model: MultiVectorCML | SFCML | None = None
        self._interactions: Interactions | None = None

    @checked
    def fit(
        self,
        interactions: Interactions,
        validation: Interactions | None = None,
        *,
        metric: str = "ndcg@20",
        progress: Callable[[int, float, float | None], None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> MetricLearningRecommender:
        """Learn from who took what.

        Args:
            interactions: the training part.
            validation: further items of the same users; the epoch with the best metric on them is kept. Without it all
                epochs are trained.
            metric: what decides, a name of `ranking_metrics` with the length of the list, such as "recall@5" or "auc".
            progress: told the epoch, its loss and its validation value after each.
            checkpoint: a file that is written after every epoch, from which an interrupted training goes on.

        Raises:
            ValueError: if the metric is not known, there is nothing to learn from, the two are not of the same users
                and items, or the checkpoint is of other data or settings.
        """
        if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
            raise ValueError(f"checkpoint={str(checkpoint)!r} is in a folder that is not there; make it first")
        digits = metric.partition("@")[2]
        length = int(digits) if digits.isdecimal() and int(digits) else 1
        check_choice("metric", metric, [*(f"{one}@{length}" for one in AT_K), *WHOLE])
        trainer = self._trainer(interactions)
        if validation is not None:
            _check_validation(interactions, validation)
        self._interactions = interactions

        def validate() -> float:
            assert validation is not None
            found = evaluate_recommender(trainer.model, validation, interactions, k=length)
            return found.means()[metric].value

        self._model = trainer.model
        self.history = fit_recommender(
            trainer,
            self.settings.epochs,
            validate=None if validation is None else validate,
            validate_every=self.settings.validate_every,
            patience=None if validation is None else self.settings.patience,
            progress=progress,
            checkpoint=checkpoint,
            fingerprint=self._fingerprint(interactions, validation, metric),
        )
        return self

    @property
    def model(self) -> MultiVectorCML | SFCML:
        """The fitted model; `RuntimeError` before `fit`."""
        if self._model is None:
            raise RuntimeError("the recommender is not fitted; call fit(interactions) first")
        return self._model

    @property
    def interactions(self) -> Interactions:
        """What it was fitted on; `RuntimeError` before `fit`."""
        if self._interactions is None:
            raise RuntimeError("the recommender is not fitted; call fit(interactions) first")
        return self._interactions

    def predict(self, users: Int[Tensor, " n"]) -> Float[Tensor, "n items"]:
        """Scores (n, items), the higher the better; for a user with no or all training items, the items' popularity."""
        scores = self.model.predict(users).detach()
        unknown = ~_informative(self.interactions)[users]
        if unknown.any():
            scores[unknown] = self.interactions.per_item.to(scores.dtype)
        return scores

    def recommend(self, users: Integer[Tensor, " n"], k: int = 20, *, exclude_seen: bool = True) -> Int[Tensor, "n k"]:
        """The first k items of each user's list, without those of the training part; −1 behind the last one."""
        return recommend(self, users, k, exclude=self.interactions if exclude_seen else None)

    @checked
    def similar_items(self, items: Integer[Tensor, " n"], k: Count = 10) -> Int[Tensor, "n k"]:
        """The k items nearest to each, itself left out; −1 where there are fewer."""
        vectors = self.model.item_vectors()
        if int(items.max()) >= len(vectors) or int(items.min()) < 0:
            raise IndexError(f"items must lie in 0 to {len(vectors) - 1}, got {int(items.min())} to {int(items.max())}")
        lists = []
        for part in items.long().split(rows_at_once(len(vectors))):
            itself = Interactions.from_pairs(torch.arange(len(part)), part, num_items=len(vectors))
            lists.append(top_items(-torch.cdist(vectors[part], vectors).square(), k, itself))
        return torch.cat(lists)

    @checked
    def fold_in(self, interactions: Interactions, k: Count = 20) -> Int[Tensor, "new k"]:
        """Lists for people who were not in training, from what they took; see `fold_in` of the models.

        Args:
            interactions: a row for each of them. Who took nothing is answered by popularity, who took all gets none.
            k: length of the lists.
        """
        if interactions.num_items != len(self.model.item_vectors()):
            raise ValueError(
                f"interactions have {interactions.num_items} items, the model {len(self.model.item_vectors())}"
            )
        step, users = rows_at_once(interactions.num_items), torch.arange(interactions.num_users)
        lists = [self._lists_of_new(interactions.select(part), k) for part in users.split(step)]
        return torch.cat(lists)

    def _lists_of_new(self, interactions: Interactions, k: int) -> Tensor:
        scores = self.interactions.per_item.to(self.model.item_vectors().dtype).repeat(interactions.num_users, 1)
        warm = _informative(interactions).nonzero().squeeze(1)
        if len(warm):
            scores[warm] = _scores_of_new(self.model, interactions.select(warm), self.settings.margin)
        return top_items(scores, k, interactions)

    def save(self, folder: str | Path) -> None:
        """Write the model, its settings and what it was fitted on: JSON and safetensors."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": value.contiguous() for name, value in self.model.state_dict().items()}
        tensors |= {"offsets": self.interactions.offsets, "items": self.interactions.items}
        save_file(tensors, folder / _FILES[1])
        about = {"settings": asdict(self.settings), "num_items": self.interactions.num_items}
        (folder / _FILES[0]).write_text(json.dumps(about, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> MetricLearningRecommender:
        """Read what `save` wrote.

        Raises:
            ValueError: if the folder does not hold a recommender, or its files do not go together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            about = json.loads((folder / _FILES[0]).read_text(encoding="utf-8"))
            tensors = load_file(folder / _FILES[1])
            found = cls(RecommenderSettings(**about["settings"]))
            found._interactions = Interactions(tensors.pop("offsets"), tensors.pop("items"), about["num_items"])
            found._model = found._trainer(found._interactions).model
            found._model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items()})
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder} does not hold a recommender: {error}") from error
        return found

    def _fingerprint(self, *given: Any) -> str:
        found = hashlib.sha256(repr(self.settings).encode())
        for each in given:
            if isinstance(each, Interactions):
                found.update(each.offsets.numpy().tobytes() + each.items.numpy().tobytes())
            found.update(repr(each.num_items if isinstance(each, Interactions) else each).encode())
        return found.hexdigest()

    def _trainer(self, interactions: Interactions) -> SampledTrainer | SamplingFreeTrainer:
        chosen, users, items = self.settings, interactions.num_users, interactions.num_items
        if chosen.model == "sfcml":
            free = SFCML(users, items, chosen.dim, chosen.margin, seed=chosen.seed)
            return SamplingFreeTrainer(
                free,
                interactions,
                learning_rate=chosen.learning_rate,
                batch_users=chosen.batch_size,
                seed=chosen.seed,
            )
        learned = _informative(interactions)
        if not learned.any():
            raise ValueError("no user has both observed and unobserved items")
        several = chosen.num_vectors if chosen.model == "dpcml" else 1
        counts = num_interests(interactions.per_user, several, "log2" if chosen.adaptive else "constant")
        sampler = PopularityNegatives if chosen.sampling == "popularity" else UniformNegatives
        return SampledTrainer(
            MultiVectorCML(users, items, chosen.dim, counts, seed=chosen.seed),
            _without_others(interactions, learned),
            sampler=sampler(interactions, chosen.candidates, generator=Generator().manual_seed(chosen.seed)),
            kept=_kept(chosen),
            margin=chosen.margin,
            diversity=DiversityControl(chosen.delta1, chosen.delta2, chosen.variant),
            diversity_weight=chosen.diversity_weight,
            learning_rate=chosen.learning_rate,
            batch_size=chosen.batch_size,
            seed=chosen.seed,
        )


def _kept(settings: RecommenderSettings) -> int:
    share = settings.hardness * settings.candidates
    if share < 1:
        warn_once(
            f"hardness={settings.hardness:g} of {settings.candidates} candidates is less than one: the hardest alone "
            f"is trained on, a range of {1 / settings.candidates:g}; raise candidates"
        )
    return max(1, round(share))


def _check_validation(interactions: Interactions, validation: Interactions) -> None:
    sizes = [(each.num_users, each.num_items) for each in (interactions, validation)]
    if sizes[0] != sizes[1]:
        (users, items), (others, more) = sizes
        raise ValueError(f"validation is of {others} users and {more} items, interactions are of {users} and {items}")
    if not len(validation):
        raise ValueError("validation is empty; leave it out to train all epochs")
    known = interactions.contains(validation.users, validation.items)
    if known.any():
        user, item = validation.users[known][0], validation.items[known][0]
        raise ValueError(f"validation holds item {int(item)} of user {int(user)}, which is in interactions as well")


def _informative(interactions: Interactions) -> Tensor:
    """(users,) who took some items and not all."""
    taken = interactions.per_user
    return (taken > 0) & (taken < interactions.num_items)


def _without_others(interactions: Interactions, kept: Tensor) -> Interactions:
    """The same users and items, with the rows of some users only."""
    if kept[interactions.per_user > 0].all():
        return interactions
    users = interactions.users
    pairs = users[kept[users]], interactions.items[kept[users]]
    return Interactions.from_pairs(*pairs, num_users=interactions.num_users, num_items=interactions.num_items)


def _scores_of_new(model: MultiVectorCML | SFCML, interactions: Interactions, margin: float) -> Tensor:
    if isinstance(model, SFCML):
        users = torch.stack([model.fold_in(own) for own in interactions])
        return 2 * users @ model.item_vectors().T
    vectors = model.fold_in(interactions, margin=margin)
    return -multi_vector_distance(vectors, model.item_vectors())
