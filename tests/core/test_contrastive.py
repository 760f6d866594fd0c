import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import cross_entropy, normalize

from equipoise.core.contrastive import info_nce, table_info_nce, two_way_info_nce

NORMALIZED = ("both", "candidates", "neither")


def _sides(n=7, m=9, d=4, seed=0, **kind):
    generator = torch.Generator().manual_seed(seed)
    kind = {"dtype": torch.float64, **kind}
    return torch.randn(n, d, generator=generator, **kind), torch.randn(m, d, generator=generator, **kind)


def _by_hand(anchors, candidates, positive, groups, candidate_groups, normalized, temperature, offset):
    """The definition, a pair at a time."""
    losses = []
    for i, anchor in enumerate(anchors):
        a = anchor / anchor.norm() if normalized == "both" else anchor
        scores = [float(a @ (c if normalized == "neither" else c / c.norm())) / temperature for c in candidates]
        mine = torch.as_tensor(positive[i]).reshape(-1).tolist()
        mean = sum(scores[j] for j in mine) / len(mine)
        kept = [j for j in range(len(scores)) if j in mine or groups is None or groups[i] != candidate_groups[j]]
        losses.append(math.log(offset + sum(math.exp(scores[j] - mean) for j in kept)))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("block_rows", [None, 1, 3, 7])
@pytest.mark.parametrize("offset", [0.0, 4.4])
@pytest.mark.parametrize("normalized", NORMALIZED)
@pytest.mark.parametrize(
    "positive", [torch.tensor([0, 1, 2, 2, 4, 8, 6]), torch.tensor([[k, k + 2] for k in range(7)])]
)
def test_it_is_the_definition(normalized, offset, positive, block_rows):
    anchors, candidates = _sides()
    groups, others = torch.tensor([0, 1, 2, 2, 0, 5, 6]), torch.tensor([0, 1, 2, 3, 4, 2, 6, 7, 1])
    for labels in ((None, None), (groups, others)):
        found = info_nce(
            anchors,
            candidates,
            positive,
            groups=labels[0],
            candidate_groups=labels[1],
            normalize=normalized,
            temperature=0.3,
            offset=offset,
            block_rows=block_rows,
        )
        wanted = _by_hand(anchors, candidates, positive, *labels, normalized, 0.3, offset)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block_rows", [None, 2])
@pytest.mark.parametrize("normalized", NORMALIZED)
def test_both_ways_are_one_way_twice(normalized, block_rows):
    one, two = _sides(6, 6)
    groups = torch.tensor([0, 1, 1, 2, 0, 3])
    options = {"normalize": normalized, "temperature": 0.7, "offset": 0.5, "groups": groups}
    found = two_way_info_nce(one, two, block_rows=block_rows, **options)
    torch.testing.assert_close(found.first, info_nce(one, two, **options), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.second, info_nce(two, one, **options), rtol=1e-12, atol=1e-12)


def test_nt_xent_is_the_cross_entropy_of_the_other_view():
    one, two = _sides(5, 5)
    views, own = torch.cat([one, two]), torch.arange(10)
    scores = normalize(views) @ normalize(views).T / 0.1
    wanted = cross_entropy(scores.fill_diagonal_(-torch.inf), own.roll(5), reduction="none")
    found = info_nce(views, views, own.roll(5), groups=own, temperature=0.1, block_rows=3)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_table_is_a_cross_entropy_and_weighs_positives():
    scores = _sides(4, 4, 6)[0]
    positive = torch.tensor([0, 3, 5, 1])
    torch.testing.assert_close(table_info_nce(scores, positive), cross_entropy(scores, positive, reduction="none"))
    pairs, weight = torch.tensor([[0, 1], [3, 2], [5, 0], [1, 4]]), torch.tensor([0.9, 0.1], dtype=torch.float64)
    wanted = scores.logsumexp(1) - (scores.gather(1, pairs) * weight).sum(1)
    torch.testing.assert_close(table_info_nce(scores, pairs, positive_weight=weight), wanted)
    torch.testing.assert_close(table_info_nce(scores, pairs), scores.logsumexp(1) - scores.gather(1, pairs).mean(1))


@pytest.mark.parametrize("block_rows", [None, 2])
@pytest.mark.parametrize("normalized", NORMALIZED)
def test_gradients_are_those_of_finite_differences(normalized, block_rows):
    one, two = (x.requires_grad_() for x in _sides(4, 4, 2))
    groups = torch.tensor([0, 1, 1, 0])

    def both(a, b):
        found = two_way_info_nce(
            a, b, groups=groups, normalize=normalized, temperature=0.5, offset=1.5, block_rows=block_rows
        )
        return found.first, found.second

    def several(a, b):
        positive = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])
        return info_nce(a, b, positive, groups=groups, normalize=normalized, block_rows=block_rows)

    assert gradcheck(both, (one, two))
    assert gradcheck(several, (one, two))
    assert gradgradcheck(both, (one, two))


def test_blocks_give_the_gradient_of_the_whole():
    one, two = (x.requires_grad_() for x in _sides(40, 40, 8, dtype=torch.float32))
    groups = torch.arange(40) // 2
    weight = torch.rand(2, 40, generator=torch.Generator().manual_seed(1))
    gradients = []
    for block_rows in (None, 7):
        found = two_way_info_nce(one, two, groups=groups, normalize="candidates", block_rows=block_rows)
        gradients.append(torch.autograd.grad((torch.stack(found) * weight).sum(), (one, two)))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-6)


def test_nothing_of_the_size_of_the_table_is_kept():
    one, two = (x.requires_grad_() for x in _sides(200, 200, 4))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        losses = two_way_info_nce(one, two, groups=torch.arange(200), block_rows=10)
    assert max(kept) < 200 * 50
    assert sum(kept) < 200 * 200
    torch.stack(losses).sum().backward()
    assert bool(one.grad.isfinite().all())


def test_small_losses_keep_their_digits_and_large_ones_stay_finite():
    certain = table_info_nce(torch.tensor([[30.0, 0.0], [0.0, 3e4], [3e4, 0.0]]), torch.tensor([0, 0, 0]))
    torch.testing.assert_close(certain, torch.tensor([math.exp(-30), 3e4, 0.0]), rtol=1e-5, atol=0)


def test_without_negatives_the_loss_is_the_offset_alone():
    one, two = (x.requires_grad_() for x in _sides(3, 3))
    same = torch.zeros(3, dtype=torch.long)
    for offset in (0.0, 4.4):
        losses = two_way_info_nce(one, two, groups=same, offset=offset)
        torch.testing.assert_close(losses.first, torch.full((3,), math.log1p(offset), dtype=torch.float64))
        for gradient in torch.autograd.grad(sum(map(torch.sum, losses)), (one, two)):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("normalized", NORMALIZED)
def test_a_zero_norm_has_no_direction_and_no_exploding_gradient(normalized):
    one, two = _sides(4, 4)
    one[1], two[2] = 0, 0
    one.requires_grad_(), two.requires_grad_()
    losses = torch.stack(two_way_info_nce(one, two, normalize=normalized))
    losses.sum().backward()
    assert bool(losses.isfinite().all())
    assert max(float(one.grad.abs().max()), float(two.grad.abs().max())) < 100


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(half):
    one, two = (x.to(half) for x in _sides(6, 6, dtype=torch.float32))
    found = info_nce(one, two, temperature=0.05)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, info_nce(one.float(), two.float(), temperature=0.05))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(info_nce(one.float(), two.float(), temperature=0.05), found)


def test_an_order_of_rows_does_not_matter():
    one, two = _sides(8, 8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    whole, turned = two_way_info_nce(one, two), two_way_info_nce(one[order], two[order])
    torch.testing.assert_close(torch.stack(turned), torch.stack(whole)[:, order])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive": torch.tensor([0, 1, 9])}, "positive holds 9, wanted indices from 0 to 3"),
        ({"positive": torch.tensor([0, -1, 2])}, "positive holds -1"),
        ({"positive": None}, "which of 4 candidates belongs to each of 3 anchors"),
        ({"groups": torch.tensor([0, 1, 2])}, "candidate_groups is missing"),
        ({"candidate_groups": torch.arange(4)}, "groups is missing"),
        ({"temperature": 0.0}, "temperature=0.0 must"),
        ({"offset": -1.0}, "offset=-1.0 must"),
        ({"normalize": "rows"}, "normalize='rows' is not known"),
        ({"candidates": torch.zeros(4, 3)}, "candidates must have shape"),
        ({"anchors": torch.full((3, 2), torch.nan)}, "anchors holds 6 NaN"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused(change, message):
    good = {"anchors": torch.randn(3, 2), "candidates": torch.randn(4, 2), "positive": torch.tensor([0, 1, 2])}
    with pytest.raises(ValueError, match=message):
        info_nce(**{**good, **change})
