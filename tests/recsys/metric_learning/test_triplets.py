"""Hinges against sampled and against all unobserved items, by double loops, and what a sampler's range is."""

import itertools
import math

import pytest
import torch
from scipy.stats import binom

from equipoise.recsys import (
    dpcml_triplet_loss,
    full_pairwise_hinge,
    metrics_per_user,
    multi_vector_distance,
    sampling_quantile_weight,
    topk_negative_loss,
)


def _distances(seed=0, n=6, candidates=7, ties=False):
    generator = torch.Generator().manual_seed(seed)
    pos = 2 * torch.rand(n, dtype=torch.float64, generator=generator)
    neg = 3 * torch.rand(n, candidates, dtype=torch.float64, generator=generator)
    # Quarters, so that sums are exact and many differences are exactly the margin.
    return ((4 * pos).round() / 4, (4 * neg).round() / 4) if ties else (pos, neg)


def _topk_by_loop(pos, neg, k, margin):
    each = [
        [max(0.0, margin + float(p) - d) for d in sorted(row.tolist())[:k]] for p, row in zip(pos, neg, strict=True)
    ]
    return [sum(row) / k for row in each]


@pytest.mark.parametrize("k", [1, 2, 5, 7])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
def test_the_k_nearest_candidates_are_those_of_the_loop(k, ties, margin):
    pos, neg = _distances(ties=ties)
    wanted = _topk_by_loop(pos, neg, k, margin)
    assert topk_negative_loss(pos, neg, k, margin, reduction="none").tolist() == pytest.approx(wanted, abs=1e-12)
    assert float(topk_negative_loss(pos, neg, k, margin)) == pytest.approx(sum(wanted) / 6)
    assert float(topk_negative_loss(pos, neg, k, margin, reduction="sum")) == pytest.approx(sum(wanted) * k)


def test_all_candidates_are_uniform_one_is_the_hardest_and_more_never_cost_more():
    pos, neg = _distances(1, candidates=9)
    hinges = (1 + pos[:, None] - neg).clamp_min(0)
    assert torch.equal(topk_negative_loss(pos, neg, 9), hinges.mean())
    torch.testing.assert_close(topk_negative_loss(pos, neg, 1), hinges.max(1).values.mean(), rtol=0, atol=1e-15)
    means = [topk_negative_loss(pos, neg, k, reduction="none") for k in range(1, 10)]
    assert all((later <= earlier + 1e-15).all() for earlier, later in itertools.pairwise(means))
    # Nearest per observed item, not over the batch: one row does not see another.
    alone = torch.stack([topk_negative_loss(pos[i : i + 1], neg[i : i + 1], 3) for i in range(6)])
    torch.testing.assert_close(topk_negative_loss(pos, neg, 3, reduction="none"), alone)


def test_the_mean_of_the_k_nearest_is_the_variational_form():
    pos, neg = _distances(2, n=4)
    losses = (1 + pos[:, None] - neg).clamp_min(0)
    for k in range(1, 8):
        # min over t of t + Σ max(0, l − t) / k is attained at one of the losses.
        values = losses[:, :, None] + (losses[:, None] - losses[:, :, None]).clamp_min(0).sum(2, keepdim=True) / k
        torch.testing.assert_close(values.squeeze(2).min(1).values, topk_negative_loss(pos, neg, k, reduction="none"))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_gradients_of_the_k_nearest_are_those_of_the_value(k):
    pos, neg = (each.requires_grad_() for each in _distances(3))
    assert torch.autograd.gradcheck(lambda p, n: topk_negative_loss(p, n, k), [pos, neg])


def test_a_hinge_at_exactly_zero_has_no_gradient():
    pos = torch.tensor([1.0, 1.0], requires_grad=True)
    neg = torch.tensor([[2.0, 2.5], [2.0, 2.0]], requires_grad=True)
    for k in (1, 2):
        loss = topk_negative_loss(pos, neg, k)
        assert float(loss.detach()) == 0
        assert all(g.abs().sum() == 0 for g in torch.autograd.grad(loss, [pos, neg]))
    distance = torch.tensor([[1.0, 2.0, 2.5]], requires_grad=True)
    (gradient,) = torch.autograd.grad(full_pairwise_hinge(distance, torch.tensor([[1, 0, 0]])), distance)
    assert gradient.abs().sum() == 0


def _vectors(seed=0, users=5, vectors=3, candidates=4, dim=2):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((users, vectors, dim), (users, dim), (users, candidates, dim))
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


@pytest.mark.parametrize("mining", ["uniform", "hard"])
@pytest.mark.parametrize("counts", [None, [1, 3, 2, 1, 3]])
def test_triplets_are_those_of_the_loop(mining, counts):
    user, pos, neg = _vectors()
    total = []
    for u in range(5):
        owned = user[u] if counts is None else user[u, : counts[u]]
        near = min(float((g - pos[u]).square().sum()) for g in owned)
        far = [min(float((g - item).square().sum()) for g in owned) for item in neg[u]]
        kept = far if mining == "uniform" else [min(far)]
        total.append([max(0.0, 1.5 + near - each) for each in kept])
    given = None if counts is None else torch.tensor(counts)
    found = dpcml_triplet_loss(user, pos, neg, 1.5, mining, reduction="sum", num_vectors=given)
    assert float(found) == pytest.approx(sum(map(sum, total)))
    mean = dpcml_triplet_loss(user, pos, neg, 1.5, mining, num_vectors=given)
    assert float(mean) == pytest.approx(sum(map(sum, total)) / sum(map(len, total)))


@pytest.mark.parametrize("mining", ["uniform", "hard"])
def test_gradients_of_triplets_are_those_of_the_value(mining):
    leaves = [each.requires_grad_() for each in _vectors(1)]
    assert torch.autograd.gradcheck(lambda *each: dpcml_triplet_loss(*each, 1.5, mining), leaves)


def _kinds(seed, users=6, items=9, ties=False):
    distance, _ = _distances(seed, n=users * items, ties=ties)
    observed = torch.rand(users, items, generator=torch.Generator().manual_seed(seed)) < 0.35
    observed[0], observed[1], observed[2] = False, True, torch.arange(items) == 4
    observed[3] = torch.arange(items) != 4
    return distance.view(users, items), observed


def _full_by_loop(distance, observed, margin, share):
    means = []
    for row, liked in zip(distance.tolist(), observed.tolist(), strict=True):
        near = [d for d, y in zip(row, liked, strict=True) if y]
        far = sorted(d for d, y in zip(row, liked, strict=True) if not y)
        if near and far:
            kept = far[: max(1, math.floor(share * len(far) + 1e-9))]
            means.append(sum(max(0.0, margin + j - k) for j in near for k in kept) / (len(near) * len(kept)))
    return sum(means) / len(means)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 1.0])
def test_the_hinge_over_all_pairs_is_the_double_loop(seed, ties, share):
    distance, observed = _kinds(seed, ties=ties)
    for margin in (0.0, 0.5, 1.5):
        found = full_pairwise_hinge(distance, observed, margin, max_fpr=share)
        assert float(found) == pytest.approx(_full_by_loop(distance, observed, margin, share), abs=1e-9)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_gradients_of_all_pairs_are_those_of_the_value(share):
    distance, observed = _kinds(4)
    distance.requires_grad_()
    assert torch.autograd.gradcheck(lambda d: full_pairwise_hinge(d, observed, 1.0, max_fpr=share), [distance])
    full_pairwise_hinge(distance, observed, max_fpr=share).backward()
    assert distance.grad[:2].abs().sum() == 0


def test_a_range_of_tenths_keeps_whole_numbers_of_items():
    distance = torch.arange(11.0)[None]
    positive = torch.zeros(1, 11).long()
    positive[0, 10] = 1
    # ⌊0.3 · 10⌋ is 3: items 0, 1, 2 at a margin of 0.
    assert float(full_pairwise_hinge(distance, positive, 0.0, max_fpr=0.3)) == pytest.approx((10 + 9 + 8) / 3)


def test_the_partial_area_is_the_loss_of_wrong_pairs_and_at_one_the_whole_area():
    distance, observed = _kinds(5)
    values, _ = metrics_per_user(-distance, observed, k=1, max_fpr=1.0)
    torch.testing.assert_close(values["opauc"], values["auc"], rtol=0, atol=1e-15, equal_nan=True)
    partial, _ = metrics_per_user(-distance, observed, k=1, max_fpr=0.4)
    for scores in ((-distance).exp(), -(distance**3)):
        again, _ = metrics_per_user(scores, observed, k=1, max_fpr=0.4)
        torch.testing.assert_close(again["opauc"], partial["opauc"], rtol=0, atol=1e-15, equal_nan=True)
    # Unobserved items beyond the range are moved further away.
    moved = distance.clone()
    for u in range(6):
        others = torch.nonzero(~observed[u]).squeeze(1)
        kept = max(1, math.floor(0.4 * len(others)))
        moved[u, others[distance[u, others].argsort()[kept:]]] += 5
    again, _ = metrics_per_user(-moved, observed, k=1, max_fpr=0.4)
    torch.testing.assert_close(again["opauc"], partial["opauc"], rtol=0, atol=1e-15, equal_nan=True)


@pytest.mark.parametrize(("candidates", "k"), [(1, 1), (10, 1), (10, 3), (10, 10), (60, 6), (400, 399)])
def test_weights_of_quantiles_are_binomial_have_mean_one_and_do_not_rise(candidates, k):
    q = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    found = sampling_quantile_weight(q, candidates, k)
    some = q[::997]
    wanted = candidates / k * binom.cdf(k - 1, candidates - 1, some.numpy())
    assert found[::997].tolist() == pytest.approx(wanted.tolist(), rel=1e-9, abs=1e-12)
    assert float(found.mean()) == pytest.approx(1, abs=1e-5)
    assert (found.diff() <= 1e-9).all()
    ends = sampling_quantile_weight(torch.tensor([0.0, 1.0], dtype=torch.float64), candidates, k)
    assert ends.tolist() == pytest.approx([candidates / k, 1.0 if k == candidates else 0.0], abs=1e-9)


def test_many_candidates_weigh_the_range_and_nothing_else():
    found = sampling_quantile_weight(torch.tensor([0.05, 0.09, 0.11, 0.5], dtype=torch.float64), 20_000, 2_000)
    assert found.tolist() == pytest.approx([10, 10, 0, 0], abs=0.01)


@pytest.mark.parametrize(("candidates", "k"), [(10, 1), (60, 1), (60, 6), (10, 10)])
def test_sampling_has_the_mean_that_the_weights_say(candidates, k):
    generator = torch.Generator().manual_seed(7)
    far = torch.randn(5000, dtype=torch.float64, generator=generator).abs().add(0.3).sort().values
    near = 0.5 * torch.randn(10, dtype=torch.float64, generator=generator).abs()
    losses = (1 + near[:, None] - far).clamp_min(0)
    q = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    analytic = float((losses.mean(0) * sampling_quantile_weight(q, candidates, k)).mean())
    draws = torch.randint(5000, (20_000, candidates), generator=generator)
    sampled = topk_negative_loss(near.repeat(2000), far[draws], k)
    assert float(sampled) == pytest.approx(analytic, rel=0.005)
    if (candidates, k) == (60, 6):
        # And six of sixty are near the surrogate of the partial area at a tenth.
        rows, kinds = torch.cat([near, far])[None], (torch.arange(5010) < 10)[None]
        assert float(full_pairwise_hinge(rows, kinds, max_fpr=0.1)) == pytest.approx(analytic, rel=0.02)


def test_distances_of_a_model_go_through():
    user, pos, neg = _vectors(2)
    near = multi_vector_distance(user, pos[:, None])[:, 0]
    wanted = topk_negative_loss(near, multi_vector_distance(user, neg), 4)
    assert torch.equal(dpcml_triplet_loss(user, pos, neg), wanted)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    pos, neg = _distances()
    for k in (8, 100):
        with pytest.raises(ValueError, match=rf"k={k} must lie in \[1, 7\], the number of negatives"):
            topk_negative_loss(pos, neg, k)
    with pytest.raises(ValueError, match="k=0"):
        topk_negative_loss(pos, neg, 0)
    with pytest.raises(ValueError, match="neg_distance holds 1 NaN"):
        topk_negative_loss(
            pos, neg.clone().index_put_((torch.tensor(1), torch.tensor(2)), torch.tensor(math.nan).double()), 1
        )
    with pytest.raises(ValueError, match="margin=-1"):
        topk_negative_loss(pos, neg, 1, -1.0)
    distance, observed = _kinds(0)
    with pytest.raises(ValueError, match="no user has both observed and unobserved items"):
        full_pairwise_hinge(distance[:2], observed[:2])
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="max_fpr"):
            full_pairwise_hinge(distance, observed, max_fpr=share)
    with pytest.raises(ValueError, match="positive"):
        full_pairwise_hinge(distance, observed[:, :3])
    for q in (-0.1, 1.1):
        with pytest.raises(ValueError, match="quantile must lie in"):
            sampling_quantile_weight(torch.tensor([0.5, q]), 10, 1)
    with pytest.raises(ValueError, match=r"k=11 must lie in \[1, 10\]"):
        sampling_quantile_weight(torch.tensor([0.5]), 10, 11)
