"""Two processes with some of the users each train the model of one process with all of them."""

import sys

import pytest
import torch
from torch import distributed
from torch import multiprocessing as mp

from equipoise.data import Interactions
from equipoise.recsys import (
    SFCML,
    DiversityControl,
    MultiVectorCML,
    SampledTrainer,
    SamplingFreeTrainer,
    UniformNegatives,
    evaluate_recommender,
)

USERS, ITEMS, EPOCHS = 12, 10, 4
# Uneven shares; the second has nothing left to do while the first one goes on.
SHARES = (torch.tensor([0, 2, 3, 5, 7, 8, 9, 11]), torch.tensor([1, 4, 6, 10]))


def _likes():
    mask = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(1)) < 0.4
    mask[:, 0], mask[:, 1] = True, False
    return Interactions.from_pairs(*mask.nonzero(as_tuple=True), num_users=USERS, num_items=ITEMS)


class _Next(UniformNegatives):
    """The same items for a user wherever the user is."""

    def __init__(self, interactions, names):
        super().__init__(interactions, 2)
        self.names = names

    def __call__(self, users):
        free = ~self.interactions.dense(users)
        order = (free.double() * 100 - (torch.arange(ITEMS) * 7 + self.names[users][:, None] * 3) % ITEMS).argsort(1)
        return order[:, -2:]


def _trainer(kind, users, sharded, batch):
    likes, whole = _likes().select(users), _likes()
    if kind == "sfcml":
        model = SFCML(USERS, ITEMS, 4)
        part = SFCML(len(users), ITEMS, 4)
    else:
        model, part = (MultiVectorCML(n, ITEMS, 4, 2, seed=3) for n in (USERS, len(users)))
        with torch.no_grad():
            model.user += 0.3 * torch.randn(model.user.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        part.user.copy_(model.user[users])
        part.item.copy_(model.item)
    assert whole.num_items == part.item.shape[0]
    if kind == "sfcml":
        return SamplingFreeTrainer(part, likes, sharded=sharded, batch_users=batch)
    return SampledTrainer(
        part,
        likes,
        sampler=_Next(likes, users),
        diversity=DiversityControl(0.2, 0.4),
        learning_rate=0.05,
        batch_size=batch,
        sharded=sharded,
    )


def _of_a_share(rank, store, results):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    users = SHARES[rank]
    for kind in ("sfcml", "dpcml"):
        trainer = _trainer(kind, users, sharded=True, batch=1000)
        losses = [trainer.epoch() for _ in range(EPOCHS)]
        likes = _likes()
        found = evaluate_recommender(_Of(trainer.model, users), likes, k=3, users=users).gathered()
        results[kind, rank] = (
            losses,
            trainer.model.user.detach(),
            trainer.model.item.detach(),
            found.means()["ndcg@3"].value,
        )
        uneven = _trainer(kind, users, sharded=True, batch=3)
        results[kind, rank, "uneven"] = [uneven.epoch(), uneven.model.item.detach()]
    distributed.destroy_process_group()


class _Of:
    """A model of some of the users, asked by their numbers among all."""

    def __init__(self, model, users):
        self.model, self.place = model, {int(user): row for row, user in enumerate(users)}

    def predict(self, users):
        return self.model.predict(torch.tensor([self.place[int(user)] for user in users])).detach()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file is not used on Windows")
def test_two_processes_train_the_model_of_one(tmp_path):
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(_of_a_share, args=(tmp_path / "store", results), nprocs=2)
        results = dict(results)
    everyone = torch.arange(USERS)
    for kind in ("sfcml", "dpcml"):
        whole = _trainer(kind, everyone, sharded=False, batch=1000)
        losses = [whole.epoch() for _ in range(EPOCHS)]
        value = evaluate_recommender(_Of(whole.model, everyone), _likes(), k=3).means()["ndcg@3"].value
        for rank, users in enumerate(SHARES):
            found = results[kind, rank]
            assert found[0] == pytest.approx(losses, rel=1e-5)
            torch.testing.assert_close(found[1], whole.model.user.detach()[users], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[2], whole.model.item.detach(), rtol=1e-4, atol=1e-5)
            assert found[3] == pytest.approx(value)
        # Batches of three: one process has fewer of them, and the items stay the same in both.
        first, second = (results[kind, rank, "uneven"] for rank in range(2))
        assert first[0] == pytest.approx(second[0])
        assert torch.equal(first[1], second[1])
