"""Training of triples: its steps, that it learns, and that it goes on after an interruption."""

import io
import math

import pytest
import torch

from equipoise.core.epochs import Trainer, fit_epochs
from equipoise.knowledge import (
    EntityShards,
    EquivarianceRegularizer,
    KGTrainer,
    LogisticNegativeLoss,
    N3Regularizer,
    frequency_weights,
    kg_cross_entropy,
    logistic_negative_loss,
)
from knowledge.small_models import SMALL, Diagonal, Distances, Phases, random_triples

N, M, D = 12, 3, 4


def _clusters(entities=40, clusters=8, relations=3, seed=0):
    """Relation r leads from every member of a cluster to some members of another one."""
    generator = torch.Generator().manual_seed(seed)
    of = torch.arange(entities) % clusters
    triples = []
    for relation in range(relations):
        to = torch.randperm(clusters, generator=generator)
        linked = (to[of][:, None] == of) & (torch.rand(entities, entities, generator=generator) < 0.6)
        heads, tails = linked.nonzero(as_tuple=True)
        triples.append(torch.stack([heads, torch.full_like(heads, relation), tails], 1))
    triples = torch.cat(triples)
    held = torch.rand(len(triples), generator=generator) < 0.25
    return triples[~held], triples[held]


def _both(triples, relations):
    """Triples and their reciprocals."""
    heads, names, tails = triples.unbind(1)
    return torch.cat([triples, torch.stack([tails, names + relations, heads], 1)])


@torch.no_grad()
def _mrr(model, triples, known):
    """Over all entities but those that are known to be right."""
    heads, relations, tails = triples.unbind(1)
    scores = model.score_t(heads, relations)
    for row, (head, relation, tail) in enumerate(triples.tolist()):
        right = known[(known[:, 0] == head) & (known[:, 1] == relation), 2]
        scores[row, right[right != tail]] = -math.inf
    return float((1 / (1 + (scores > scores.gather(1, tails[:, None])).sum(1))).double().mean())


LOSSES = {
    "one_vs_all": {"loss": "one_vs_all"},
    "negatives": {"loss": "negatives", "num_negatives": 8, "optimizer": "adam", "learning_rate": 0.02},
    "double": {"loss": "negatives", "num_negatives": 8, "double_negatives": True, "learning_rate": 0.2},
}


@pytest.mark.parametrize("name", LOSSES)
def test_it_learns_what_was_held_out(name):
    train, test = _clusters()
    model = Phases(40, 3, 16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1)
    known = _both(torch.cat([train, test]), 3)
    directions = test, _both(test, 3)[len(test) :]
    before = [_mrr(model, each, known) for each in directions]
    trainer = KGTrainer(model, train, regularizer=N3Regularizer(0.001), batch_size=128, **LOSSES[name])
    assert isinstance(trainer, Trainer)
    history = fit_epochs(trainer, 25)
    assert history.losses[-1] < 0.8 * history.losses[0]
    after = [_mrr(model, each, known) for each in directions]
    # Heads are found by the reciprocal relations.
    assert min(after) > max(before) + 0.15


@pytest.mark.parametrize("name", SMALL)
def test_an_epoch_takes_the_steps_of_the_plain_loss(name):
    triples = random_triples(20, N, M)
    weight = frequency_weights(triples, N)
    twin, model = SMALL[name](N, M, D), SMALL[name](N, M, D)
    regularizers = [EquivarianceRegularizer(0.1, a=0.4, eps=1.0, soft=True).double() for _ in range(2)]
    trainer = KGTrainer(
        model, triples, entity_weight=weight, regularizer=regularizers[0], batch_size=9, score_rows=4, seed=3
    )
    loss = trainer.epoch()
    both = _both(triples, M)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adagrad([*twin.parameters(), *regularizers[1].parameters()], lr=0.1)
    total = 0.0
    for part in order.split(9):
        batch = both[part]
        heads, relations, tails = batch.unbind(1)
        optimizer.zero_grad()
        value = kg_cross_entropy(twin.score_t(heads, relations), tails, weight.double())
        factors = twin.factors(twin.rows(heads), relations, twin.rows(tails))
        value = value + regularizers[1](factors, batch)
        value.backward()
        optimizer.step()
        total += float(value.detach()) * len(batch)
    assert loss == pytest.approx(total / 40, rel=1e-6)
    for found, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(regularizers[0].eps, regularizers[1].eps)
    assert float(regularizers[0].eps.detach()) != 1.0


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("negatives", [0, 3])
def test_a_step_against_negatives_is_the_plain_loss(negatives, double):
    triples = random_triples(6, N, M)
    twin, model = Distances(N, M, D), Distances(N, M, D)
    regularizer = N3Regularizer(0.1)
    trainer = KGTrainer(
        model,
        triples,
        loss="negatives",
        num_negatives=negatives,
        double_negatives=double,
        regularizer=regularizer,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
    )
    loss = trainer.epoch()
    both = _both(triples, M)
    batch = both[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    heads, tails = LogisticNegativeLoss(negatives, double).draw(batch, N, torch.Generator().manual_seed(0))
    wrong = torch.stack([heads, batch[:, 1:2].expand_as(heads), tails], 2)
    value = logistic_negative_loss(twin.score_hrt(batch), twin.score_hrt(wrong.reshape(-1, 3)).reshape(12, negatives))
    value = value + regularizer(twin.factors(twin.rows(batch[:, 0]), batch[:, 1], twin.rows(batch[:, 2])), batch)
    value.backward()
    assert loss == pytest.approx(float(value.detach()), rel=1e-12)
    for found, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        step = 0 if wanted.grad is None else 0.5 * wanted.grad
        torch.testing.assert_close(found.detach(), wanted.detach() - step, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not_been(name):
    def make():
        regularizer = EquivarianceRegularizer(0.1, a=0.4, eps=1.0, soft=True)
        return KGTrainer(
            Phases(N, M, D), random_triples(30, N, M), regularizer=regularizer, batch_size=7, **LOSSES[name]
        )

    whole, first = make(), make()
    losses = [whole.epoch() for _ in range(4)]
    assert [first.epoch() for _ in range(2)] == losses[:2]
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = make()
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert [second.epoch() for _ in range(2)] == losses[2:]
    for found, wanted in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(second.regularizer.eps, whole.regularizer.eps)
    assert second.gathered() is second.model


def test_the_loss_is_chosen_by_the_number_of_entities_and_a_frozen_table_stays():
    triples = torch.tensor([[0, 0, 1]])
    assert KGTrainer(Diagonal(50_000, 1, 1), triples).loss == "one_vs_all"
    assert KGTrainer(Diagonal(50_001, 1, 1), triples).loss == "negatives"
    for loss in ("one_vs_all", "negatives"):
        model = Diagonal(N, M, D)
        model.entity.requires_grad_(False)
        before = model.entity.clone()
        KGTrainer(model, triples, loss=loss).epoch()
        assert torch.equal(model.entity, before)
        assert not torch.equal(model.relation, Diagonal(N, M, D).relation)


def test_a_training_that_diverges_says_so():
    model = Diagonal(N, M, D)
    with torch.no_grad():
        model.entity[0] = math.inf
    with pytest.raises(FloatingPointError, match="the loss of epoch 0 is nan; lower the learning rate"):
        fit_epochs(KGTrainer(model, random_triples(20, N, M)), 2)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    model, triples = Diagonal(N, M, D), random_triples(20, N, M)
    for settings, message in (
        ({"loss": "hinge"}, "loss='hinge' is not known"),
        ({"optimizer": "lion"}, "optimizer='lion' is not known"),
        ({"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "sharded": True}, "optimizer must be made after"),
        ({"sharded": EntityShards(Diagonal(N, M, D))}, "sharded must be of this model"),
        ({"sharded": 2}, "sharded=2 must be True or False"),
        ({"num_negatives": -1}, "num_negatives=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"score_rows": 0}, "score_rows=0"),
        ({"entity_weight": torch.ones(3)}, "entity_weight has 3 rows, the model 12 entities"),
        ({"entity_weight": torch.ones(N), "loss": "negatives"}, "entity_weight counts with loss='one_vs_all' only"),
        ({"regularizer": N3Regularizer(torch.ones(3))}, "weight of the regularizer has 3 rows, wanted 6, one for each"),
        (
            {"regularizer": EquivarianceRegularizer(1.0, eps=torch.ones(4))},
            "eps of the regularizer has 4 rows, wanted 6",
        ),
        ({"regularizer": "n3"}, "regularizer must be a KGRegularizer"),
        (
            {"regularizer": EquivarianceRegularizer(1.0, categories=torch.zeros(5, dtype=torch.long))},
            "categories of the regularizer are those of 5 entities, wanted 12",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            KGTrainer(model, triples, **settings)
    with pytest.raises(ValueError, match=r"triples must have shape \(n, 3\)"):
        KGTrainer(model, triples[:, :2])
    with pytest.raises(ValueError, match="triples is empty"):
        KGTrainer(model, triples[:0])
    # Reciprocal relations are added, not given.
    with pytest.raises(IndexError, match=r"triples \(relation\) holds the index 3, wanted 0 to 2"):
        KGTrainer(model, torch.tensor([[0, 3, 1]]))
