import pytest
import torch

from equipoise.openworld.prompts.gated_auc import (
    GatedPairwiseAUCLoss,
    base_to_new_score,
    gated_pairwise_auc_loss,
    pseudo_base_new_partitions,
)


def _draw(seed=0, n_base=6, n_new=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    sizes = (n_base, n_new, n_base, n_new)
    return [torch.rand(n, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for n in sizes]


def _loop(base, new, base_gate, new_gate, margin=1.0):
    total = torch.zeros((), dtype=torch.float64)
    for r, w in zip(base, base_gate, strict=True):
        for s, m in zip(new, new_gate, strict=True):
            total = total + w * m * (margin - (r - s)) ** 2
    return total / (len(base) * len(new))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [0.3, 1.0, 5.0])
def test_value_and_all_gradients_are_those_of_the_double_loop(seed, margin):
    given = _draw(seed, 1 + 3 * seed, 5 - seed)
    found = gated_pairwise_auc_loss(*given, margin=margin, detach_gate=False)
    wanted = _loop(*given, margin)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, given), torch.autograd.grad(wanted, given))


def test_gradients_are_those_of_finite_differences():
    loss = GatedPairwiseAUCLoss(margin=0.7, detach_gate=False)
    assert torch.autograd.gradcheck(loss, _draw(1))


def test_gates_of_zero_take_samples_out_of_the_sum_but_not_of_the_number():
    base, new, w, m = (x.detach() for x in _draw(2))
    closed = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    found = gated_pairwise_auc_loss(base, new, w * closed, m)
    inside = closed > 0
    alone = gated_pairwise_auc_loss(base[inside], new, w[inside], m)
    torch.testing.assert_close(found, alone * 2 / 6)
    leaves = [x.clone().requires_grad_() for x in (base, new, w * closed, m)]
    value, wanted = gated_pairwise_auc_loss(*leaves, detach_gate=False), _loop(*leaves)
    torch.testing.assert_close(torch.autograd.grad(value, leaves), torch.autograd.grad(wanted, leaves))


def test_all_gates_zero_is_zero():
    base, new, w, m = _draw(0)
    value = gated_pairwise_auc_loss(base, new, w.detach() * 0, m)
    value.backward()
    assert float(value.detach()) == float(base.grad.abs().sum()) == 0


def test_detached_gates_get_no_gradient_and_scores_the_same():
    given, again = _draw(3), _draw(3)
    gated_pairwise_auc_loss(*given).backward()
    gated_pairwise_auc_loss(*again, detach_gate=False).backward()
    assert given[2].grad is given[3].grad is None
    for k in (0, 1):
        torch.testing.assert_close(given[k].grad, again[k].grad)
    assert float(again[2].grad.min()) > 0


def test_without_gates_every_pair_counts_once():
    base, new, w, _ = (x.detach() for x in _draw(4))
    plain = gated_pairwise_auc_loss(base, new)
    torch.testing.assert_close(plain, _loop(base, new, torch.ones(6), torch.ones(4)))
    torch.testing.assert_close(gated_pairwise_auc_loss(base, new, w), _loop(base, new, w, torch.ones(4)))


def test_the_loss_sees_differences_of_scores_only():
    base, new, w, m = (x.detach() for x in _draw(5))
    wanted = gated_pairwise_auc_loss(base, new, w, m)
    for shift in (-1e4, 1e4):
        torch.testing.assert_close(gated_pairwise_auc_loss(base + shift, new + shift, w, m), wanted)
        moved = gated_pairwise_auc_loss((base + shift).float(), (new + shift).float(), w.float(), m.float())
        torch.testing.assert_close(moved.double(), wanted, rtol=5e-3, atol=0)


def test_far_apart_scores_stay_finite():
    far = torch.tensor([1e4])
    torch.testing.assert_close(gated_pairwise_auc_loss(-far, far), (1 + 2 * far[0]) ** 2)
    assert float(gated_pairwise_auc_loss(torch.ones(3), torch.zeros(2))) == 0


@pytest.mark.parametrize(("n_base", "n_new"), [(0, 3), (3, 0), (0, 0)])
def test_an_empty_side_is_zero_with_a_graph_and_a_warning(n_base, n_new):
    base, new, w, m = _draw(0, n_base, n_new)
    with pytest.warns(UserWarning, match="needs both base and new"):
        value = GatedPairwiseAUCLoss()(base, new, w, m)
    value.backward()
    assert float(value.detach()) == float(base.grad.sum()) == float(new.grad.sum()) == 0


@pytest.mark.parametrize(("classes", "detectors"), [(2, 2), (3, 2), (7, 3), (8, 3), (9, 3), (10, 10), (100, 4)])
def test_every_class_is_pseudo_new_exactly_once(classes, detectors):
    found = pseudo_base_new_partitions(classes, detectors)
    assert len(found) == detectors
    assert sorted(j for part in found for j in part.pseudo_new.tolist()) == list(range(classes))
    for k, part in enumerate(found):
        assert part.pseudo_new.tolist() == list(range(k, classes, detectors))
        assert sorted([*part.pseudo_new.tolist(), *part.pseudo_base.tolist()]) == list(range(classes))
        base = part.pseudo_base.tolist()
        assert base == sorted(base)
        assert part.labels.tolist() == [base.index(j) if j in base else -1 for j in range(classes)]


@pytest.mark.parametrize(("classes", "detectors"), [(5, 1), (2, 3), (1, 1)])
def test_a_detector_needs_classes_of_both_kinds(classes, detectors):
    with pytest.raises(ValueError, match=f"num_detectors={detectors} must lie between 2 and .* {classes}"):
        pseudo_base_new_partitions(classes, detectors)


def _brute_score(logits, counts):
    n = len(logits[0])
    return torch.stack(
        [
            max(z[i].exp()[c] / z[i].exp().sum() for z, count in zip(logits, counts, strict=True) for c in range(count))
            for i in range(n)
        ]
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_score_is_the_largest_pseudo_base_probability(seed):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 5, 7, generator=g, dtype=torch.float64)
    torch.testing.assert_close(base_to_new_score(logits, 4), _brute_score(logits, [4] * 3))
    ragged = [logits[0], logits[1, :, :6], logits[2, :, :3]]
    torch.testing.assert_close(base_to_new_score(ragged, [1, 6, 2]), _brute_score(ragged, [1, 6, 2]))


def test_the_order_of_detectors_and_of_classes_on_one_side_does_not_matter():
    z = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = base_to_new_score(z, 2)
    torch.testing.assert_close(base_to_new_score(z.flip(0), 2), wanted)
    torch.testing.assert_close(base_to_new_score(z[:, :, [1, 0, 5, 3, 4, 2]], 2), wanted)
    torch.testing.assert_close(base_to_new_score(z + 1e4, 2), wanted)


def test_the_surest_of_float32_logits_do_not_tie():
    z = torch.tensor([[[18.0, 0.0], [20.0, 0.0], [30.0, 0.0], [-1e4, 1e4], [1e4, -1e4]]])
    score = base_to_new_score(z, 1)
    assert bool((score[:3].diff() > 0).all())
    assert score[3:].tolist() == [0, 1]


@pytest.mark.usefixtures("plain_inputs")
def test_logits_that_do_not_go_together_are_named():
    z = torch.randn(2, 3, 4)
    for logits, count, message in (
        (z, 5, "num_pseudo_base=5"),
        (z, [2], "2 detectors and num_pseudo_base of 1"),
        ([], 2, "0 detectors"),
        ([z[0], z[1, :2]], 2, r"logits\[1\] has 2 samples"),
        ([z[0], z[1, 0]], 2, r"logits\[1\] must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            base_to_new_score(logits, count)
