"""Training loops: they learn, go on after an interruption as if there had been none, and keep the best epoch."""

import copy
import io

import pytest
import torch

from equipoise.data import Interactions, split_interactions
from equipoise.recsys import (
    SFCML,
    DiversityControl,
    MultiVectorCML,
    PopularityNegatives,
    SampledTrainer,
    SamplingFreeTrainer,
    TwoStageNegatives,
    UniformNegatives,
    fit_recommender,
    num_interests,
    ranking_metrics,
    sfcml_loss,
    topk_negative_loss,
)


def _likes(seed=0, users=24, items=30, share=0.6):
    """People who like one third of the items, most of the time."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.arange(users)[:, None] % 3 == torch.arange(items) % 3
    dense = torch.rand(users, items, generator=generator) < torch.where(own, share, 0.04)
    dense[:, 0] |= ~dense.any(1)
    return Interactions.from_pairs(*dense.nonzero(as_tuple=True), num_users=users, num_items=items)


def _sampled(likes, sampler=None, **settings):
    model = MultiVectorCML(likes.num_users, likes.num_items, dim=6, num_vectors=settings.pop("num_vectors", 2))
    options = {"learning_rate": 0.02, "batch_size": 50, **settings}
    return SampledTrainer(model, likes, sampler=None if sampler is None else sampler(likes), **options)


TRAINERS = {
    "uniform": _sampled,
    "hard": lambda likes: _sampled(likes, kept=1, diversity=DiversityControl()),
    "popular": lambda likes: _sampled(likes, lambda each: PopularityNegatives(each, 4), kept=2),
    "two stages": lambda likes: _sampled(likes, lambda each: TwoStageNegatives(each, 4, 20)),
    "adaptive": lambda likes: _sampled(
        likes, num_vectors=num_interests(likes.per_user, 3), diversity=DiversityControl()
    ),
    "free": lambda likes: SamplingFreeTrainer(
        SFCML(likes.num_users, likes.num_items, dim=6), likes, learning_rate=0.2, batch_users=7
    ),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_the_loss_falls_and_held_out_items_are_found(name):
    train, _, test = split_interactions(_likes(users=60, items=24, share=0.8), (0.7, 0.0, 0.3), min_count=2)
    trainer, everyone = TRAINERS[name](train), torch.arange(60)
    before = ranking_metrics(trainer.model.predict(everyone).detach(), test, train, k=5)["auc"]
    history = fit_recommender(trainer, 15)
    after = ranking_metrics(trainer.model.predict(everyone).detach(), test, train, k=5)["auc"]
    assert sum(history.losses[-3:]) < 0.9 * sum(history.losses[:3])
    assert float(after) > float(before) + 0.15
    assert float(after) > 0.7
    assert history.best_epoch == 14
    assert history.values == {}
    for table in (trainer.model.user, trainer.model.item):
        assert float(table.detach().norm(dim=-1).max()) <= 1 + 1e-6


@pytest.mark.parametrize("name", TRAINERS)
def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not_been(name):
    likes = _likes(1)
    whole = TRAINERS[name](likes)
    losses = [whole.epoch() for _ in range(4)]
    first, buffer = TRAINERS[name](likes), io.BytesIO()
    assert [first.epoch() for _ in range(2)] == losses[:2]
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = TRAINERS[name](likes)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert [second.epoch() for _ in range(2)] == losses[2:]
    for got, want in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(got, want)


def test_an_epoch_takes_every_pair_once_against_fresh_items():
    likes = _likes(2)
    trainer = _sampled(likes, learning_rate=1e-12, batch_size=17)
    seen, drawn = [], []
    forward = trainer.model.forward

    def watched(users, items, negatives):
        seen.extend(zip(users.tolist(), items.tolist(), strict=True))
        drawn.append(negatives)
        return forward(users, items, negatives)

    trainer.model.forward = watched
    loss = trainer.epoch()
    assert sorted(seen) == list(zip(likes.users.tolist(), likes.items.tolist(), strict=True))
    assert [len(each) for each in drawn[:-1]] == [17] * (len(drawn) - 1)
    # The mean is over pairs, also with a last batch that is smaller.
    users, items = torch.tensor(seen).T
    near, far = forward(users, items, torch.cat(drawn))
    assert loss == pytest.approx(float(topk_negative_loss(near, far, 10).detach()), rel=1e-5)
    order = list(seen)
    seen.clear()
    drawn_before = torch.cat(drawn)
    drawn.clear()
    trainer.epoch()
    assert sorted(seen) == sorted(order)
    assert seen != order
    assert not torch.equal(torch.cat(drawn), drawn_before)


def test_a_step_without_sampling_is_the_loss_of_all_pairs():
    likes = _likes(3)
    trainer = SamplingFreeTrainer(SFCML(24, 30, dim=6), likes, batch_users=100)
    model = copy.deepcopy(trainer.model)
    wanted = sfcml_loss(model.user, model.item, likes, model.margin)
    assert trainer.epoch() == pytest.approx(float(wanted.detach()), rel=1e-6)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05, weight_decay=1e-5)
    wanted.backward()
    optimizer.step()
    model.project_()
    for got, want in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_users_with_nothing_or_everything_are_left_out():
    dense = _likes(4).dense(torch.arange(24))
    dense[3], dense[5] = False, True
    likes = Interactions.from_pairs(*dense.nonzero(as_tuple=True), num_users=24, num_items=30)
    model = SFCML(24, 30, dim=6)
    before = model.user.detach().clone()
    SamplingFreeTrainer(model, likes, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), batch_users=1).epoch()
    moved = (model.user.detach() - before).abs().sum(1) > 1e-4
    assert moved.nonzero().squeeze(1).tolist() == [u for u in range(24) if u not in (3, 5)]


def test_diversity_counts_with_its_weight_and_not_where_everyone_has_one_vector():
    likes = _likes(5)
    control = DiversityControl(1.0, 2.0)
    plain, weighted = _sampled(likes, batch_size=10_000), _sampled(likes, batch_size=10_000, diversity=control)
    penalty = 10 * float(control(weighted.model.user).detach())
    assert penalty > 1
    assert weighted.epoch() == pytest.approx(plain.epoch() + penalty, rel=1e-5)
    alone = [_sampled(likes, num_vectors=1, diversity=each) for each in (None, control)]
    assert alone[0].epoch() == alone[1].epoch()
    assert torch.equal(alone[0].model.user, alone[1].model.user)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    likes = _likes()
    model = MultiVectorCML(24, 30, dim=2)
    with pytest.raises(ValueError, match=r"kept=11 must lie in \[1, 10\], the number of negatives"):
        SampledTrainer(model, likes, kept=11)
    with pytest.raises(ValueError, match="kept=0"):
        SampledTrainer(model, likes, kept=0)
    with pytest.raises(ValueError, match="margin=-1"):
        SampledTrainer(model, likes, margin=-1.0)
    wrong = Interactions.from_pairs([0], [1])
    for make in (
        lambda each: SampledTrainer(model, each),
        lambda each: SamplingFreeTrainer(SFCML(24, 30, dim=2), each),
    ):
        with pytest.raises(ValueError, match="interactions are of 1 users and 2 items, the model of 24 and 30"):
            make(wrong)
        with pytest.raises(ValueError, match="interactions are empty"):
            make(Interactions.from_pairs([], [], num_users=24, num_items=30))
    with pytest.raises(ValueError, match="no user has both observed and unobserved items"):
        SamplingFreeTrainer(SFCML(1, 2, dim=2), Interactions.from_pairs([0, 0], [0, 1]))
    full = Interactions.from_pairs([0, 0], [0, 1])
    with pytest.raises(ValueError, match="user 0 has no negative item"):
        SampledTrainer(MultiVectorCML(1, 2), full).epoch()
    with pytest.raises(ValueError, match="of other users or items"):
        SampledTrainer(model, likes, sampler=UniformNegatives(wrong))
