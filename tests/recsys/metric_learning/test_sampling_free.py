"""The loss over all unobserved items by both kernels against the double loop, and the best vector of a user."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from equipoise.data import Interactions
from equipoise.recsys import sampling_total_variation, sfcml_loss, sfcml_user_solution


def _world(seed=0, users=6, items=9, dim=4):
    generator = torch.Generator().manual_seed(seed)
    user = torch.randn(users, dim, dtype=torch.float64, generator=generator)
    item = torch.randn(items, dim, dtype=torch.float64, generator=generator)
    observed = torch.rand(users, items, generator=generator) < 0.4
    # Nobody, everybody, one observed, one not observed.
    observed[0], observed[1], observed[2] = False, True, torch.arange(items) == 4
    observed[3] = torch.arange(items) != 5
    return user, item, observed


def _by_loop(user, item, observed, margin):
    """The loss of each user in plain Python sums; None for a user who has nothing or everything."""
    losses = []
    for u, liked in zip(user, observed.tolist(), strict=True):
        scores = [2 * float(sum(a * b for a, b in zip(u, v, strict=True))) for v in item]
        near = [s for s, y in zip(scores, liked, strict=True) if y]
        far = [s for s, y in zip(scores, liked, strict=True) if not y]
        terms = [(margin - (j - k)) ** 2 for j in near for k in far]
        losses.append(sum(terms) / len(terms) if terms else None)
    return losses


def _loop_loss(user, item, observed, margin):
    """The same with a graph."""
    scores = 2 * user @ item.T
    each = []
    for row, liked in zip(scores, observed, strict=True):
        if liked.any() and not liked.all():
            each.append((margin - (row[liked][:, None] - row[~liked])).square().mean())
    return torch.stack(each).mean()


@pytest.mark.parametrize("kernel", ["dense", "gram", "auto"])
@pytest.mark.parametrize("seed", range(3))
def test_both_kernels_are_the_double_loop(kernel, seed):
    user, item, observed = _world(seed)
    each = _by_loop(user, item, observed, 1.5)
    found = sfcml_loss(user, item, observed, 1.5, kernel=kernel, reduction="none")
    assert found.tolist() == pytest.approx([0.0 if loss is None else loss for loss in each], abs=1e-9)
    kept = [loss for loss in each if loss is not None]
    assert float(sfcml_loss(user, item, observed, 1.5, kernel=kernel)) == pytest.approx(sum(kept) / len(kept), abs=1e-9)
    assert float(sfcml_loss(user, item, observed, 1.5, kernel=kernel, reduction="sum")) == pytest.approx(sum(kept))
    sparse = Interactions.from_pairs(*observed.nonzero(as_tuple=True), num_users=6, num_items=9)
    assert torch.equal(sfcml_loss(user, item, sparse, 1.5, kernel=kernel, reduction="none"), found)


@pytest.mark.parametrize("shape", [(6, 9, 4), (5, 30, 2), (40, 12, 7)])
def test_gradients_of_both_kernels_are_those_of_the_double_loop(shape):
    user, item, observed = _world(3, *shape)
    wanted = torch.autograd.grad(_loop_loss(user.requires_grad_(), item.requires_grad_(), observed, 2.0), [user, item])
    for kernel in ("dense", "gram"):
        found = torch.autograd.grad(sfcml_loss(user, item, observed, 2.0, kernel=kernel), [user, item])
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-8)
        assert found[0][:2].abs().sum() == 0


def test_the_gradient_of_moments_is_that_of_their_value_user_by_user():
    user, item, observed = _world(4)
    leaves = [user.requires_grad_(), item.requires_grad_()]

    def each(u, v):
        return sfcml_loss(u, v, observed, 1.2, kernel="gram", reduction="none")

    assert torch.autograd.gradcheck(each, leaves)
    # A second derivative would be wrong without a word: it is refused.
    (first,) = torch.autograd.grad(each(*leaves).square().sum(), user, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_more_pairs_than_are_gathered_at_once_are_all_counted(monkeypatch):
    user, item, observed = _world(5)
    wanted = sfcml_loss(user, item, observed, kernel="gram")
    monkeypatch.setattr("equipoise.recsys.metric_learning.sampling_free._PIECE", 3)
    assert float(sfcml_loss(user, item, observed, kernel="gram")) == pytest.approx(float(wanted), abs=1e-12)


def test_in_single_precision_nothing_is_lost_of_users_who_have_nearly_everything():
    user, item, _ = _world(6, users=4, items=4000, dim=8)
    unit = torch.nn.functional.normalize
    user, item = unit(user), unit(item)
    observed = torch.ones(4, 4000, dtype=torch.bool)
    observed[torch.arange(4), torch.arange(4) * 7] = False
    leaves = [user.float().requires_grad_(), item.float().requires_grad_()]
    exact = [user.clone().requires_grad_(), item.clone().requires_grad_()]
    wanted = sfcml_loss(*exact, observed, 2.0, kernel="dense")
    found = sfcml_loss(*leaves, observed, 2.0, kernel="gram")
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)
    for got, want in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, exact), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-6)


def test_a_user_without_one_kind_changes_no_mean_and_a_pair_given_twice_counts_once():
    user, item, observed = _world(7)
    assert torch.equal(sfcml_loss(user, item, observed), sfcml_loss(user[2:], item, observed[2:]))
    twice = Interactions.from_pairs([0, 0, 0, 1], [2, 2, 3, 1], num_users=2, num_items=9)
    once = Interactions.from_pairs([0, 0, 1], [2, 3, 1], num_users=2, num_items=9)
    assert torch.equal(sfcml_loss(user[:2], item, twice), sfcml_loss(user[:2], item, once))


@pytest.mark.parametrize("kernel", ["dense", "gram"])
def test_autocast_and_sparse_sums_say_nothing_and_round_nothing(kernel):
    user, item, observed = _world(8)
    leaves = [user.float().requires_grad_(), item.float().requires_grad_()]
    wanted = sfcml_loss(*leaves, observed, kernel=kernel)
    with torch.autocast("cpu", dtype=torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sfcml_loss(*leaves, observed, kernel=kernel)
        found.backward()
    assert torch.equal(found, wanted)


def test_the_cheaper_kernel_is_chosen(monkeypatch):
    chosen = []
    module = "equipoise.recsys.metric_learning.sampling_free."
    monkeypatch.setattr(module + "_dense_losses", lambda u, *_: chosen.append("dense") or u.sum(1))
    monkeypatch.setattr(module + "_GramLosses.apply", lambda u, *_: chosen.append("gram") or u.sum(1))
    for users, dim in ((100, 4), (3, 32)):
        user, item, _ = _world(9, users=max(users, 4), items=300, dim=dim)
        sfcml_loss(user[:users], item, (torch.arange(300) < 2).expand(users, 300))
    assert chosen == ["gram", "dense"]


def _user_loss(vector, item, observed, margin, ridge=0.0):
    scores = 2 * item @ vector
    gaps = scores[observed][:, None] - scores[~observed]
    return float(((margin - gaps) ** 2).mean() + 4 * ridge * (vector**2).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_best_vector_is_that_of_a_search(seed, ridge):
    _, item, observed = _world(seed, items=12)
    liked = observed[4 if observed[4].any() else 2]
    found = sfcml_user_solution(item, liked, 1.5, ridge=ridge)
    arrays = item.numpy(), liked.numpy(), 1.5
    best = minimize(_user_loss, np.zeros(4), (*arrays, ridge), method="BFGS", options={"gtol": 1e-9})
    assert found.user.tolist() == pytest.approx(best.x.tolist(), abs=1e-5)
    assert float(found.loss) == pytest.approx(_user_loss(found.user.numpy(), *arrays), abs=1e-10)
    vector = found.user[None].clone().requires_grad_()
    loss = sfcml_loss(vector, item, liked[None].long(), 1.5) + 4 * ridge * vector.square().sum()
    (slope,) = torch.autograd.grad(loss, vector)
    assert slope.abs().max() < 1e-9


@pytest.mark.parametrize("norm", [0.01, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_vector_of_a_length_is_that_of_all_angles(norm, seed):
    _, item, observed = _world(seed, items=12, dim=2)
    liked = observed[4 if observed[4].any() else 2]
    found = sfcml_user_solution(item, liked, 1.5, norm=norm)
    assert float(found.user.norm()) == pytest.approx(norm)
    angles = np.linspace(0, 2 * np.pi, 20_001)
    scores = 2 * norm * item.numpy() @ np.stack([np.cos(angles), np.sin(angles)])
    near, far = scores[liked.numpy()], scores[~liked.numpy()]
    losses = ((1.5 - (near[:, None] - far[None])) ** 2).mean((0, 1))
    assert float(found.loss) <= losses.min() + 1e-10
    assert float(found.loss) == pytest.approx(losses.min(), rel=1e-6, abs=1e-6)


def _crossed():
    """Items for which the direction of the least eigenvalue is at a right angle to what tells the two kinds apart."""
    liked = torch.tensor([[1.0, 0.0, 0.2], [1.0, 0.0, -0.2], [3.0, 0.0, 0.0]], dtype=torch.float64)
    other = torch.tensor([[-1.0, 2.0, 0.0], [-1.0, -2.0, 0.0], [-3.0, 0.0, 0.0]], dtype=torch.float64)
    return torch.cat([liked, other]), torch.tensor([1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_hard_case_takes_the_rest_of_the_length_where_it_costs_least(scale):
    item, liked = _crossed()
    item = item * scale
    short = sfcml_user_solution(item, liked, 1.0).user
    norm = 4 * float(short.norm())
    found = sfcml_user_solution(item, liked, 1.0, norm=norm)
    assert float(found.user.norm()) == pytest.approx(norm)
    assert found.user[2].abs() > found.user[:2].abs().max()
    arrays = item.numpy(), liked.bool().numpy(), 1.0
    starts = np.random.default_rng(0).normal(size=(20, 3))
    best = min(
        minimize(lambda v: _user_loss(norm * v / np.linalg.norm(v), *arrays), start, method="BFGS").fun
        for start in starts
    )
    assert float(found.loss) == pytest.approx(best, rel=1e-7)
    assert _user_loss(found.user.numpy(), *arrays) == pytest.approx(float(found.loss), rel=1e-9)


def test_where_items_do_not_span_the_space_the_shortest_minimiser_is_given():
    generator = torch.Generator().manual_seed(0)
    thin = torch.randn(15, 5, dtype=torch.float64, generator=generator)
    frame = torch.linalg.qr(torch.randn(64, 5, dtype=torch.float64, generator=generator)).Q
    liked = torch.arange(15) < 4
    inside = sfcml_user_solution(thin, liked, 2.0)
    found = sfcml_user_solution(thin @ frame.T, liked, 2.0)
    torch.testing.assert_close(found.user, frame @ inside.user, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.loss, inside.loss)
    # Fewer items than dimensions: the observed one can be told apart exactly.
    few = torch.randn(4, 32, generator=generator)
    assert float(sfcml_user_solution(few, torch.tensor([1, 0, 0, 0]), 1.0).loss) == pytest.approx(0, abs=1e-6)
    for norm in (None, 2.0):
        same = sfcml_user_solution(torch.ones(4, 3), torch.tensor([1, 0, 0, 0]), 1.0, norm=norm)
        assert float(same.loss) == pytest.approx(1)
        assert float(same.user.norm()) == pytest.approx(norm or 0)


def test_the_total_variation_bounds_what_a_sampler_changes():
    generator = torch.Generator().manual_seed(1)
    item = torch.nn.functional.normalize(torch.randn(40, 5, dtype=torch.float64, generator=generator))
    user = torch.nn.functional.normalize(torch.randn(5, dtype=torch.float64, generator=generator), dim=0)
    scores = 2 * item @ user
    losses = (2 - (scores[:6][:, None] - scores[6:])).square().mean(0)
    full = float(losses.mean())
    sampled = sfcml_loss(user[None], item, (torch.arange(40) < 6)[None], 2.0)
    assert full == pytest.approx(float(sampled))
    bound, gaps, distances = float(losses.max()), [], []
    for k in range(100):
        prob = torch.rand(34, dtype=torch.float64, generator=generator) ** (1 + k % 7)
        prob = prob / prob.sum()
        distance = float(sampling_total_variation(prob))
        assert distance == pytest.approx(sum(abs(float(p) - 1 / 34) for p in prob) / 2)
        gaps.append(abs(float((prob * losses).sum()) - full))
        distances.append(distance)
        assert gaps[-1] <= bound * distance
    assert np.corrcoef(gaps, distances)[0, 1] > 0
    uniform = torch.full((34,), 1 / 34, dtype=torch.float64)
    assert float(sampling_total_variation(uniform)) == 0
    assert float((uniform * losses).sum()) == pytest.approx(full, abs=1e-12)
    ends = torch.eye(2, dtype=torch.float64)
    assert float(sampling_total_variation(ends[0], ends[1])) == 1


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    user, item, observed = _world()
    with pytest.raises(ValueError, match="margin=-1"):
        sfcml_loss(user, item, observed, -1.0)
    with pytest.raises(ValueError, match="positive holds the value 2"):
        sfcml_loss(user, item, observed.long() * 2)
    with pytest.raises(ValueError, match="positive"):
        sfcml_loss(user, item, observed[:, :5])
    with pytest.raises(ValueError, match="positive has 6 × 5 cells, there are 6 users and 9 items"):
        sfcml_loss(user, item, Interactions.from_pairs([0], [1], num_users=6, num_items=5))
    with pytest.raises(IndexError, match="items holds the index 9, wanted 0 to 8"):
        sfcml_loss(user, item, Interactions.from_pairs([0], [9], num_users=6, num_items=9))
    with pytest.raises(ValueError, match="no user has both observed and unobserved items"):
        sfcml_loss(user[:2], item, observed[:2])
    with pytest.raises(ValueError, match="user holds 1 NaN or infinite"):
        sfcml_loss(
            user.clone().index_put_((torch.tensor(0), torch.tensor(0)), torch.tensor(math.inf).double()), item, observed
        )
    with pytest.warns(UserWarning, match="margin=0"):
        sfcml_loss(user, item, observed, 0.0)
    for liked in (observed[0], observed[1]):
        with pytest.raises(ValueError, match="positive must have both observed and unobserved items"):
            sfcml_user_solution(item, liked)
    with pytest.raises(ValueError, match="norm=0"):
        sfcml_user_solution(item, observed[2], norm=0.0)
    with pytest.raises(ValueError, match="ridge=-1"):
        sfcml_user_solution(item, observed[2], ridge=-1.0)
    with pytest.raises(ValueError, match=r"prob must have the sum 1, got 0\.9"):
        sampling_total_variation(torch.tensor([0.5, 0.4]))
    with pytest.raises(ValueError, match="reference must have the sum 1, got 2"):
        sampling_total_variation(torch.tensor([0.5, 0.5]), torch.ones(2))
