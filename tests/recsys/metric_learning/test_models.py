"""Models as tables of vectors: their start, projections, scores and new users."""

import io

import pytest
import torch

from equipoise.data import Interactions
from equipoise.recsys import (
    SFCML,
    MultiVectorCML,
    full_pairwise_hinge,
    multi_vector_distance,
    num_interests,
    ranking_metrics,
    sfcml_loss,
    sfcml_user_solution,
)


def test_the_start_has_the_stated_spread_and_is_that_of_the_seed():
    model = MultiVectorCML(400, 300, dim=50, num_vectors=2, norm=None)
    assert float(model.user.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert float(model.item.detach().std()) == pytest.approx(50**-0.5, rel=0.05)
    for kind in (MultiVectorCML, SFCML):
        first, second, other = kind(4, 5, dim=3), kind(4, 5, dim=3), kind(4, 5, dim=3, seed=1)
        assert torch.equal(first.user, second.user)
        assert torch.equal(first.item, second.item)
        assert not torch.equal(first.item, other.item)


@pytest.mark.parametrize("norm", ["clip", "unit", None])
def test_projection_is_exact_and_done_twice_changes_nothing(norm):
    model = MultiVectorCML(30, 20, dim=4, num_vectors=3, max_norm=0.7, norm=norm)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for table in (model.user, model.item):
            table.copy_(torch.randn(table.shape, generator=generator))
        model.item[3] = 0
    before = model.user.detach().clone()
    model.project_()
    lengths, was = model.user.detach().norm(dim=-1), before.norm(dim=-1)
    wanted = {"clip": was.clamp_max(0.7), "unit": torch.full_like(was, 0.7), None: was}[norm]
    torch.testing.assert_close(lengths, wanted)
    torch.testing.assert_close(model.user.detach() / lengths[..., None], before / was[..., None])
    assert model.item[3].abs().sum() == 0
    once = model.user.detach().clone()
    model.project_()
    torch.testing.assert_close(model.user.detach(), once, rtol=1e-6, atol=0)


def test_slots_that_are_not_used_stay_zero_and_attract_nothing():
    counts = num_interests([1, 4, 8, 100], 4)
    model = MultiVectorCML(4, 9, dim=3, num_vectors=counts)
    empty = torch.arange(model.user.shape[1]) >= counts[:, None]
    assert model.user[empty].abs().sum() == 0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        near, far = model(torch.arange(4), torch.arange(4), torch.arange(8).view(4, 2))
        (near.sum() - far.sum()).backward()
        assert model.user.grad[empty].abs().sum() == 0
        optimizer.step()
        model.project_()
    assert model.user[empty].abs().sum() == 0
    for user in range(4):
        alone = multi_vector_distance(model.user[user : user + 1, : counts[user]], model.item)
        torch.testing.assert_close(model.distance(torch.tensor([user])), alone)
    kept = counts.clone()
    model.num_vectors.fill_(9)
    assert torch.equal(counts, kept)


def test_scores_are_distances_with_their_sign_changed():
    model = MultiVectorCML(5, 7, dim=3, num_vectors=torch.tensor([1, 2, 3, 2, 1]))
    users, items = torch.tensor([4, 1, 2]), torch.tensor([6, 0])
    near, far = model(users, torch.tensor([1, 2, 3]), torch.tensor([[0, 4], [5, 6], [1, 1]]))
    whole = model.distance(users)
    torch.testing.assert_close(near, whole[torch.arange(3), torch.tensor([1, 2, 3])])
    torch.testing.assert_close(far[1], whole[1, [5, 6]])
    assert torch.equal(model.predict(users), -whole)
    torch.testing.assert_close(model.distance(users, items), whole[:, items])
    for u, row in zip(users.tolist(), whole, strict=True):
        owned = model.user[u, : int(model.num_vectors[u])]
        torch.testing.assert_close(row, (owned[:, None] - model.item).square().sum(2).min(0).values)


def test_on_the_sphere_the_nearest_vector_is_that_of_the_greatest_product():
    model = MultiVectorCML(5, 7, dim=3, num_vectors=2, norm="unit")
    products = (model.user @ model.item.T).max(1).values
    torch.testing.assert_close(model.predict(torch.arange(5)), 2 * products - 2)


def test_the_sampling_free_model_is_on_spheres_and_ranks_as_the_distance_does():
    model = SFCML(6, 9, dim=4, user_norm=0.5, item_norm=2.0)
    torch.testing.assert_close(model.user.detach().norm(dim=1), torch.full((6,), 0.5))
    torch.testing.assert_close(model.item.detach().norm(dim=1), torch.full((9,), 2.0))
    users = torch.tensor([3, 0])
    scores = model.predict(users)
    distances = multi_vector_distance(model.user[users][:, None], model.item)
    torch.testing.assert_close(scores, 0.25 + 4 - distances)
    likes = Interactions.from_pairs([0, 0, 3, 3, 3], [1, 2, 0, 4, 5], num_users=6, num_items=9)
    wanted = sfcml_loss(model.user[users], model.item, likes.dense(users), model.margin)
    torch.testing.assert_close(model.loss(users, likes), wanted)
    assert torch.equal(model(users, likes), model.loss(users, likes))
    free = SFCML(6, 9, dim=4, user_norm=None)
    with torch.no_grad():
        free.user *= 3
        free.item[2] = 0
    free.project_()
    torch.testing.assert_close(free.user.detach().norm(dim=1), torch.full((6,), 3.0))
    assert free.item[2].abs().sum() == 0
    assert free.item.isfinite().all()


def _tastes(seed=0, groups=4, items=40, dim=4):
    """Items around the corners of a simplex, and new users who like two of these groups."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.eye(dim)[torch.arange(items) % groups]
    item = torch.nn.functional.normalize(corner + 0.15 * torch.randn(items, dim, generator=generator))
    liked = torch.stack(
        [(torch.arange(items) % groups == a) | (torch.arange(items) % groups == b) for a, b in ((0, 1), (1, 3), (2, 0))]
    )
    shown = liked & (torch.rand(3, items, generator=generator) < 0.5)
    return item, shown, liked & ~shown


def _ranked(distance, held, shown):
    return float(ranking_metrics(-distance, held, shown, k=5)["map"])


def test_folding_in_beats_the_mean_vector_for_people_of_two_tastes():
    item, shown, held = _tastes()
    model = MultiVectorCML(2, 40, dim=4, num_vectors=2)
    with torch.no_grad():
        model.item.copy_(item)
    likes = Interactions.from_pairs(*shown.nonzero(as_tuple=True), num_users=3, num_items=40)
    with torch.no_grad():  # as one predicts
        vectors = model.fold_in(likes)
    assert vectors.shape == (3, 2, 4)
    assert (vectors.norm(dim=-1) <= 1 + 1e-6).all()
    mean = torch.stack([item[row].mean(0) for row in shown])[:, None]
    found, plain = multi_vector_distance(vectors, item), multi_vector_distance(mean, item)
    assert _ranked(found, held, shown) > _ranked(plain, held, shown)
    assert full_pairwise_hinge(found, shown) < full_pairwise_hinge(plain, shown)
    # Who else is folded in does not matter, and nothing of the model has moved.
    alone = model.fold_in(likes.select(torch.tensor([1])))
    torch.testing.assert_close(vectors[1:2], alone, rtol=1e-3, atol=1e-4)
    assert torch.equal(model.item.detach(), item)
    assert model.item.grad is None
    wide = model.fold_in(Interactions.from_pairs([0], [3], num_items=40), num_vectors=3, steps=2)
    assert wide.shape == (1, 3, 4)
    assert wide.isfinite().all()


def test_a_new_user_without_sampling_is_the_closed_form():
    item, shown, held = _tastes(1)
    for norm in (1.0, None):
        model = SFCML(2, 40, dim=4, user_norm=norm)
        with torch.no_grad():
            model.item.copy_(item)
        liked = shown[0].nonzero().squeeze(1)
        found = model.fold_in(liked, ridge=0.01)
        wanted = sfcml_user_solution(item, shown[0], model.margin, ridge=0.01, norm=norm).user
        torch.testing.assert_close(found, wanted)
        assert _ranked(-(item @ found)[None], held[:1], shown[:1]) > 0.8


def test_a_saved_model_is_the_same_again():
    for make in (
        lambda s: MultiVectorCML(4, 6, dim=3, num_vectors=torch.tensor([1, 3, 2, 1]), seed=s),
        lambda s: SFCML(4, 6, dim=3, seed=s),
    ):
        model, buffer = make(0), io.BytesIO()
        torch.save(model.state_dict(), buffer)
        buffer.seek(0)
        other = make(1)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(other.predict(torch.arange(4)), model.predict(torch.arange(4)))


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    for kind in (MultiVectorCML, SFCML):
        for name in ("num_users", "num_items", "dim"):
            with pytest.raises(ValueError, match=f"{name}=0"):
                kind(**{"num_users": 3, "num_items": 4, name: 0})
        model = kind(3, 4, dim=2)
        for wrong in (3, -1):
            with pytest.raises(IndexError, match=f"users holds the index {wrong}, wanted 0 to 2"):
                model.predict(torch.tensor([0, wrong]))
    with pytest.raises(ValueError, match="num_vectors=0"):
        MultiVectorCML(3, 4, num_vectors=0)
    with pytest.raises(ValueError, match="num_vectors of user 1 is 0"):
        MultiVectorCML(3, 4, num_vectors=torch.tensor([1, 0, 2]))
    with pytest.raises(ValueError, match="num_vectors must have one value per user, 3"):
        MultiVectorCML(3, 4, num_vectors=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="max_norm=0"):
        MultiVectorCML(3, 4, max_norm=0.0)
    with pytest.raises(ValueError, match="item_norm=0"):
        SFCML(3, 4, item_norm=0.0)
    model = MultiVectorCML(3, 4, dim=2)
    one = torch.tensor([0])
    with pytest.raises(IndexError, match="pos and neg holds the index 4, wanted 0 to 3"):
        model(one, one, torch.tensor([[1, 4]]))
    with pytest.raises(IndexError, match="items holds the index -1"):
        model.distance(one, torch.tensor([-1]))
    with pytest.raises(ValueError, match="new user 1 has 0 of 4 items"):
        model.fold_in(Interactions.from_pairs([0], [1], num_users=2, num_items=4))
    with pytest.raises(ValueError, match="new user 0 has 4 of 4 items"):
        model.fold_in(Interactions.from_pairs([0] * 4, range(4)))
    with pytest.raises(ValueError, match="interactions are of 2 items, the model of 4"):
        model.fold_in(Interactions.from_pairs([0], [1]))
    for name in ("num_vectors", "steps"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            model.fold_in(Interactions.from_pairs([0], [1], num_items=4), **{name: 0})
    sampling_free = SFCML(3, 4, dim=2)
    with pytest.raises(IndexError, match="items holds the index 4"):
        sampling_free.fold_in(torch.tensor([4]))
    with pytest.raises(ValueError, match="positive must have both"):
        sampling_free.fold_in(torch.arange(4))
