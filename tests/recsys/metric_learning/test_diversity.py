"""The spread of a user's vectors and the penalties on it, by their definitions over pairs."""

import math

import pytest
import torch

from equipoise.recsys import DiversityControl, diversity_control, max_sum_dispersion, preference_diversity


def _vectors(seed=0, users=6, vectors=4, dim=3, scale=0.4):
    return scale * torch.randn(users, vectors, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _gap(a, b):
    return float((a - b).square().sum())


def _hinges(value, low, high):
    return max(0.0, low - value) + max(0.0, value - high)


def _by_loops(user, counts, low, high, variant):
    penalties, spreads = [], []
    for vectors, count in zip(user, counts, strict=True):
        pairs = [(a, b) for a in range(count) for b in range(count)]
        gaps = {pair: _gap(vectors[pair[0]], vectors[pair[1]]) for pair in pairs}
        spread = sum(gaps.values()) / (2 * count * (count - 1)) if count > 1 else 0.0
        spreads.append(spread)
        if count == 1:
            penalties.append(0.0)
        elif variant == "average":
            penalties.append(_hinges(spread, low, high))
        else:
            each = [0.0 if a == b else _hinges(gap, low, high) for (a, b), gap in gaps.items()]
            penalties.append(sum(each) / len(pairs))
    return sum(penalties) / len(penalties), spreads


@pytest.mark.parametrize("variant", ["average", "pairwise"])
@pytest.mark.parametrize("band", [(0.05, 0.25), (0.4, 0.4), (0.0, 10.0), (2.0, 3.0)])
@pytest.mark.parametrize("counts", [None, [4, 1, 2, 3, 1, 4]])
def test_the_penalty_is_that_of_the_loop(variant, band, counts):
    user = _vectors()
    given = None if counts is None else torch.tensor(counts)
    loss, spread = diversity_control(user, *band, variant, num_vectors=given)
    wanted, spreads = _by_loops(user, counts or [4] * 6, *band, variant)
    assert float(loss) == pytest.approx(wanted, abs=1e-12)
    assert spread.tolist() == pytest.approx(spreads, abs=1e-12)
    control = DiversityControl(*band, variant)
    assert torch.equal(control(user, given), loss)
    assert f"delta1={band[0]}, delta2={band[1]}, variant={variant}" in repr(control)


@pytest.mark.parametrize("variant", ["average", "pairwise"])
def test_gradients_are_those_of_the_value_and_unused_slots_have_none(variant):
    user = _vectors(1).requires_grad_()
    counts = torch.tensor([4, 1, 2, 3, 1, 2])
    assert torch.autograd.gradcheck(lambda u: diversity_control(u, 0.1, 0.3, variant, num_vectors=counts).loss, [user])
    diversity_control(user, 0.1, 0.3, variant, num_vectors=counts).loss.backward()
    for u, count in enumerate(counts.tolist()):
        assert user.grad[u, count:].abs().sum() == 0
    assert user.grad[[1, 4]].abs().sum() == 0
    assert user.grad.abs().sum() > 0


@pytest.mark.parametrize("variant", ["average", "pairwise"])
def test_the_order_of_vectors_and_what_stands_in_unused_slots_change_nothing(variant):
    user, counts = _vectors(2), torch.full((6,), 3)
    wanted = diversity_control(user[:, :3], variant=variant)
    for given in (user, user[:, [2, 0, 1, 3]], torch.cat([user[:, :3], torch.full((6, 2, 3), 9.0)], 1).double()):
        found = diversity_control(given, variant=variant, num_vectors=counts)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_one_vector_each_is_no_penalty_and_two_pairs_scale_as_stated():
    single = _vectors()[:, :1].requires_grad_()
    loss = diversity_control(single, 0.5, 0.6).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert single.grad.abs().sum() == 0
    # Two vectors: the average is half the squared distance, the hinge per pair loses the factor (C − 1)/C.
    pair = torch.tensor([[[0.0], [2.0]]])
    assert float(diversity_control(pair, 0, 0).loss) == 2
    assert float(diversity_control(pair, 0, 0, "pairwise").loss) == 4 / 2


@pytest.mark.parametrize("variant", ["average", "pairwise"])
def test_at_the_ends_of_the_band_there_is_no_gradient(variant):
    user = torch.tensor([[[0.0], [1.0]]], requires_grad=True)
    at = 0.5 if variant == "average" else 1.0
    for band in ((at, 2.0), (0.0, at), (at, at)):
        loss = diversity_control(user, *band, variant).loss
        assert float(loss.detach()) == 0
        assert torch.autograd.grad(loss, user)[0].abs().sum() == 0


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_the_dispersion_of_a_list_is_the_sum_over_ordered_pairs(offset):
    generator = torch.Generator().manual_seed(3)
    item = torch.randn(9, 4, generator=generator)
    lists = torch.stack([torch.randperm(9, generator=generator)[:5] for _ in range(3)])
    wanted = sum(_gap(item[i].double(), item[j].double()) for row in lists for i in row for j in row) / 3
    # Far from the origin the differences stay, up to what the vectors themselves are rounded to.
    assert float(max_sum_dispersion(lists, item + offset)) == pytest.approx(wanted, rel=1e-5 if not offset else 1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_diversity_of_preferences_is_the_share_of_disjoint_pairs(seed):
    tags = (torch.rand(8, 5, generator=torch.Generator().manual_seed(seed)) < 0.3).long()
    tags[0] = 0  # no tag, so nothing in common with anybody
    sets = [set(row.nonzero().squeeze(1).tolist()) for row in tags]
    pairs = [(a, b) for a in range(8) for b in range(8) if a != b]
    wanted = sum(not sets[a] & sets[b] for a, b in pairs) / len(pairs)
    assert float(preference_diversity(tags)) == pytest.approx(wanted)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    user = _vectors()
    for make in (lambda *band: diversity_control(user, *band), DiversityControl):
        with pytest.raises(ValueError, match=r"delta1=0\.5 must not exceed delta2=0\.2"):
            make(0.5, 0.2)
        with pytest.raises(ValueError, match=r"delta1=-0\.1"):
            make(-0.1, 0.2)
    with pytest.raises(ValueError, match="num_vectors of user 0 is 5"):
        diversity_control(user, num_vectors=torch.full((6,), 5))
    for wrong in (4, -1):
        with pytest.raises(IndexError, match=f"recommended holds the index {wrong}, wanted 0 to 3"):
            max_sum_dispersion(torch.tensor([[0, wrong]]), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="item_tags"):
        preference_diversity(torch.tensor([[1, 2], [0, 1]]))
    with pytest.warns(UserWarning, match="fewer than two items"):
        assert math.isnan(preference_diversity(torch.ones(1, 3).long()))
