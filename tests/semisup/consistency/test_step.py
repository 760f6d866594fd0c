"""A step in one pass against its parts, and in two passes against one."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equipoise.semisup import EMATeacher, WorstCaseConsistencyLoss, consistency_step

CRITERION = WorstCaseConsistencyLoss(threshold=0.4)


def _batch(seed=0, variants=3, labelled=5, unlabelled=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(labelled, 4, generator=generator, dtype=dtype)
    y = torch.arange(labelled) % 3
    weak = torch.randn(unlabelled, 4, generator=generator, dtype=dtype)
    strong = weak + torch.randn(variants, unlabelled, 4, generator=generator, dtype=dtype)
    return x, y, weak, strong


def _network(*layers, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 16), *layers, nn.Tanh(), nn.Linear(16, 3)).double()


def _gradients(network, **options):
    network.zero_grad()
    step = consistency_step(network, *_batch(), options.pop("criterion", CRITERION), **options)
    step.loss.backward()
    return step, [p.grad.clone() for p in network.parameters()]


def test_one_pass_is_the_sum_of_its_parts():
    network, (x, y, weak, strong) = _network(), _batch()
    step, found = _gradients(network, weight=2.5)
    z_w, z_s = network(weak).detach(), torch.stack([network(view) for view in strong])
    supervised, consistency = cross_entropy(network(x), y), CRITERION(z_w, z_s)
    torch.testing.assert_close(step.loss, supervised + 2.5 * consistency)
    torch.testing.assert_close(step.supervised + 2.5 * step.consistency, step.loss.detach())
    wanted = torch.autograd.grad(supervised + 2.5 * consistency, list(network.parameters()))
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other)
    assert 0 < step.statistics["mask_rate"] < 1


@pytest.mark.parametrize("divergence", ["ce_hard", "ce_soft", "kl", "mse"])
@pytest.mark.parametrize("with_teacher", [False, True])
def test_two_passes_have_the_loss_and_the_gradient_of_one(divergence, with_teacher):
    network = _network()
    teacher = EMATeacher(_network(seed=1)) if with_teacher else None
    options = {"criterion": WorstCaseConsistencyLoss(0.4, divergence=divergence), "weight": 2.5, "teacher": teacher}
    one, first = _gradients(network, **options)
    two, second = _gradients(network, **options, two_pass=True)
    torch.testing.assert_close(two.loss, one.loss, rtol=1e-12, atol=1e-13)
    assert two.statistics == pytest.approx(one.statistics, rel=1e-9)
    assert 0 < one.statistics["mask_rate"] < 1
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-13)


def test_only_confident_samples_go_through_twice():
    seen = []
    network = _network()
    network.register_forward_hook(lambda _, inputs, output: seen.append((len(inputs[0]), output.requires_grad)))
    step, _ = _gradients(network, two_pass=True)
    confident = round(8 * step.statistics["mask_rate"])
    assert seen == [(8, False), *[(confident, False)] * 3, (5 + confident, True)]


def test_dropout_is_replayed_for_the_chosen_views():
    """The loss and its gradient are those of the worst view under masks that all views share."""
    network, (x, y, weak, strong) = _network(nn.Dropout(0.5)), _batch()
    teacher = EMATeacher(network)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        step, found = _gradients(network, teacher=teacher, two_pass=True)
        after = torch.get_rng_state()
        torch.manual_seed(7)
        z_w = teacher(weak)
        rows = CRITERION.confident(z_w).nonzero().squeeze(1)
        start, views = torch.get_rng_state(), []
        for view in strong:
            torch.set_rng_state(start)
            views.append(network(view[rows]))
        loss = cross_entropy(network(x), y) + CRITERION(z_w[rows], torch.stack(views)) * len(rows) / len(weak)
        assert torch.get_rng_state().equal(after)
    torch.testing.assert_close(step.loss, loss)
    for own, other in zip(found, torch.autograd.grad(loss, list(network.parameters())), strict=True):
        torch.testing.assert_close(own, other)


def test_the_first_pass_leaves_running_statistics_alone():
    network, seen = _network(nn.BatchNorm1d(16)), []
    network[1].register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].detach()))
    _gradients(network, two_pass=True)
    # Whole views choose; then labelled samples with a view of every other sample go through, and are counted once.
    assert [len(inputs) for inputs in seen] == [8, 8, 8, 8, 5 + 8]
    assert network[1].num_batches_tracked == 1
    assert network[1].track_running_stats
    torch.testing.assert_close(network[1].running_mean, 0.1 * seen[-1].mean(0))
    network.eval()
    one, two = _gradients(network), _gradients(network, two_pass=True)
    torch.testing.assert_close(two[0].loss, one[0].loss)
    torch.testing.assert_close(two[1], one[1])


@pytest.mark.parametrize("two_pass", [False, True])
def test_without_a_confident_sample_only_labels_teach(two_pass):
    network, (x, y, _, _) = _network(), _batch()
    step, found = _gradients(network, criterion=WorstCaseConsistencyLoss(1.0), two_pass=two_pass)
    wanted = torch.autograd.grad(cross_entropy(network(x), y), list(network.parameters()))
    assert step.consistency == 0
    assert step.statistics["mask_rate"] == 0
    assert step.statistics.keys() == {"mask_rate", "gap", "worst_is_1", "worst_is_2", "worst_is_3"}
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other)


def test_a_step_under_autocast_and_in_half_precision_is_finite():
    network = _network().float()
    x, y, weak, strong = _batch(dtype=torch.float32)
    for two_pass in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            step = consistency_step(network, x, y, weak, strong, CRITERION, two_pass=two_pass)
        assert step.loss.dtype is torch.float32
        half = consistency_step(
            _network().bfloat16(), x.bfloat16(), y, weak.bfloat16(), strong.bfloat16(), CRITERION, two_pass=two_pass
        )
        assert half.loss.dtype is torch.float32
        torch.testing.assert_close(half.loss, step.loss, rtol=0.1, atol=0.1)


def test_bad_batches_are_shown(plain_inputs):
    network, (x, y, weak, strong) = _network(), _batch()
    for wrong in (
        (x[:4], y, weak, strong),
        (x[:, :3], y, weak, strong),
        (x, y, weak, strong[0]),
        (x, y, weak[:5], strong),
    ):
        with pytest.raises(ValueError, match="labelled, target, weak and strong must have shapes"):
            consistency_step(network, *wrong, CRITERION)
    with pytest.raises(ValueError, match="weight"):
        consistency_step(network, x, y, weak, strong, CRITERION, weight=-1.0)
    with pytest.raises(ValueError, match="aggregate='max'"):
        consistency_step(network, x, y, weak, strong, WorstCaseConsistencyLoss(aggregate="mean"), two_pass=True)
    with pytest.raises(ValueError, match="NaN"):
        consistency_step(network, x, y, weak.fill_(torch.nan), strong, CRITERION)
