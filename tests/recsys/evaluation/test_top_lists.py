"""The first items of each list against a sort of the whole."""

import math

import pytest
import torch

from equipoise.data import Interactions
from equipoise.recsys import SFCML, MultiVectorCML, recommend
from equipoise.recsys.evaluation.top_lists import top_items


class _Table:
    """A model that is its scores."""

    def __init__(self, scores):
        self.scores = scores

    def predict(self, users):
        return self.scores[users]


def _world(seed=0, users=7, items=9, levels=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(users, items, generator=generator)
    if levels:
        scores = torch.randint(levels, (users, items), generator=generator).float()
    had = torch.rand(users, items, generator=generator) < 0.4
    had[0], had[1] = True, False
    return scores, had, Interactions.from_pairs(*had.nonzero(as_tuple=True), num_users=users, num_items=items)


def _sorted(scores, had, k):
    lists = []
    for row, barred in zip(scores.tolist(), had.tolist(), strict=True):
        candidates = [item for item in range(len(row)) if not barred[item]]
        best = sorted(candidates, key=lambda item: (-row[item], item))[:k]
        lists.append(best + [-1] * (k - len(best)))
    return lists


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [0, 1, 2, 4])
@pytest.mark.parametrize("k", [1, 4, 9, 12])
def test_lists_are_those_of_the_sort_with_ties_by_index(seed, levels, k):
    scores, had, likes = _world(seed, levels=levels)
    everyone = torch.arange(7)
    nothing = torch.zeros_like(had)
    assert recommend(_Table(scores), everyone, k).tolist() == _sorted(scores, nothing, k)
    found = recommend(_Table(scores), everyone, k, exclude=likes)
    assert found.tolist() == _sorted(scores, had, k)
    assert found[0].tolist() == [-1] * k
    for size in (1, 3, 100):
        assert torch.equal(recommend(_Table(scores), everyone, k, exclude=likes, batch_size=size), found)
    some = torch.tensor([5, 1, 5, 0])
    assert torch.equal(recommend(_Table(scores), some, k, exclude=likes, batch_size=3), found[some])


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_a_candidate_that_scores_minus_infinity_comes_before_what_is_excluded(k):
    scores = torch.tensor([[-math.inf, -math.inf, 0.0, -math.inf, math.inf]])
    had = torch.tensor([[True, False, False, False, True]])
    likes = Interactions.from_pairs(*had.nonzero(as_tuple=True), num_users=1, num_items=5)
    assert top_items(scores, k, likes).tolist() == _sorted(scores, had, k)


def test_models_give_the_nearest_items_and_keep_no_graph():
    for model in (MultiVectorCML(6, 8, dim=3, num_vectors=2), SFCML(6, 8, dim=3)):
        users = torch.tensor([4, 0, 2])
        found = recommend(model, users, 3)
        assert torch.equal(found, model.predict(users).detach().argsort(dim=1, descending=True)[:, :3])
        assert model.user.grad is None


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    scores, _, likes = _world()
    model = _Table(scores)
    with pytest.raises(ValueError, match="k=0"):
        recommend(model, torch.tensor([0]), 0)
    with pytest.raises(ValueError, match=r"users must be a torch\.Tensor"):
        recommend(model, [0], 2)
    with pytest.raises(ValueError, match="batch_size=0"):
        recommend(model, torch.tensor([0]), batch_size=0)
    with pytest.raises(ValueError, match="exclude is of 5 items, the model scores 9"):
        recommend(model, torch.tensor([0]), exclude=Interactions.from_pairs([0], [1], num_users=7, num_items=5))
    for wrong in (7, -1):
        with pytest.raises(IndexError, match=f"users holds the index {wrong}, wanted 0 to 6"):
            recommend(model, torch.tensor([0, wrong]), exclude=likes)
    scores[3, 2] = math.nan
    with pytest.raises(ValueError, match="the model gives NaN for user 3"):
        recommend(model, torch.tensor([1, 3]))
