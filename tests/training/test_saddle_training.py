"""Losses with variables of their own under the trainer: they ascend, start warm, and survive a crash."""

import math

import pytest
import torch
from torch import nn

from equipoise.core.phases import set_epoch
from equipoise.core.solvers.saddle import WarmStarted
from equipoise.ranking import (
    InstancewisePartialAUCLoss,
    PairwiseAUCLoss,
    UnbiasedInstancewisePartialAUCLoss,
    opauc,
    pairwise_auc_loss,
)
from equipoise.ranking.partial.instancewise_objective import inner_solution
from equipoise.training import HeldOut, Plan, ScoringModule, fit_module, make_objective
from equipoise.training.networks import mlp


def _data(n=200):
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(n, generator=generator) < 0.3).long()
    return torch.randn(n, 3, generator=generator) + target[:, None], target


def _network(dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return mlp(3, 1, (8,), dropout=dropout)


def _objective(**bounds):
    return make_objective(
        "instancewise_partial_auc", num_classes=2, class_counts=[140, 60], total_epochs=10, max_fpr=0.3, **bounds
    )


def test_the_trainer_descends_and_ascends_as_the_loss_declares():
    module = ScoringModule(_network(), InstancewisePartialAUCLoss(0.3, 0.5), weight_decay=0.1)
    groups = {group["role"]: group for group in module.configure_optimizers().param_groups}
    assert list(groups) == ["the network", "a", "b", "gamma", "s_pos", "s_neg", "theta_a", "theta_b"]
    assert [role for role, group in groups.items() if group["maximize"]] == ["gamma"]
    assert [role for role, group in groups.items() if group["weight_decay"]] == ["the network"]


def test_losses_without_variables_train_bit_for_bit_as_under_plain_adamw():
    features, target = _data()
    modules = [ScoringModule(_network(), PairwiseAUCLoss(), learning_rate=0.01, weight_decay=0.1) for _ in range(2)]
    plain = torch.optim.AdamW(modules[1].parameters(), lr=0.01, weight_decay=0.1)
    for module, optimizer in zip(modules, (modules[0].configure_optimizers(), plain), strict=True):
        for _ in range(20):
            optimizer.zero_grad()
            module.loss(module(features), target).backward()
            optimizer.step()
    for one, other in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("constraint", ["lagrange", "project"])
@pytest.mark.parametrize("make", [InstancewisePartialAUCLoss, UnbiasedInstancewisePartialAUCLoss])
def test_a_run_learns_and_its_variables_follow_the_scores(make, constraint):
    features, target = _data()
    loss = make(0.3, 0.5, constraint=constraint)
    network = _network()
    before = opauc(network(features).squeeze(1), target, 0.3)
    run = fit_module(network, WarmStarted(loss), features, target, Plan(epochs=15, batch_size=100, learning_rate=0.02))
    with torch.no_grad():
        scores = run.module(features)
    assert opauc(scores, target, 0.3) > before + 0.1
    best, _ = inner_solution(scores, target, max_fpr=0.3, min_tpr=0.5)
    assert loss.gamma.item() == pytest.approx(float(best.gamma), abs=0.1)
    assert loss.a.item() == pytest.approx(float(best.a), abs=0.1)
    assert loss.b.item() == pytest.approx(float(best.b), abs=0.1)


LEFT = [math.inf]
"""How many judgements are left before the next one breaks off; no part of a run's identity."""


def _judge(scores, truth):
    LEFT[0] -= 1
    if not LEFT[0]:
        raise InterruptedError
    return opauc(scores, truth, 0.3)


@pytest.mark.parametrize("bounds", [{}, {"min_tpr": 0.4}])
@pytest.mark.parametrize("crash", [1, 5])
def test_a_run_that_breaks_off_before_or_after_the_warm_start_ends_with_the_same_weights(tmp_path, crash, bounds):
    features, target = _data()

    def run(folder):
        return fit_module(
            _network(dropout=0.3),
            _objective(**bounds),
            features,
            target,
            Plan(epochs=8, batch_size=50, seed=3),
            held_out=HeldOut(features[:60], target[:60], _judge),
            folder=tmp_path / folder,
        )

    whole = run("whole")
    LEFT[0] = crash + 1
    with pytest.raises(InterruptedError):
        run("broken")
    reached = torch.load(tmp_path / "broken" / "resume.ckpt", weights_only=True)
    assert reached["epoch"] == crash - 1
    assert bool(reached["state_dict"]["loss.late.started"]) == (crash > 2)
    again = run("broken")
    assert again.best == whole.best
    state, wanted = again.module.state_dict(), whole.module.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_the_objective_is_one_way_without_min_tpr_and_warms_up_on_all_pairs():
    logits, target = _data()[0][:, 0].clone(), _data()[1]
    one, two = _objective(), _objective(min_tpr=0.4)
    assert one.epochs == 2
    assert one(logits, target) == pairwise_auc_loss(logits, target)
    assert not one.late.started
    for loss, min_tpr in ((one, 0.0), (two, 0.4)):
        set_epoch(loss, 2)
        inner = loss.late.loss
        value = loss(logits, target)
        assert (inner.max_fpr, inner.min_tpr) == (0.3, min_tpr)
        twin = InstancewisePartialAUCLoss(0.3, min_tpr)
        twin.initialize(logits, target)
        assert value == twin(logits, target)


def test_a_warm_start_is_made_once_in_training_from_both_classes():
    features, target = _data()
    logits = features[:, 0].clone()
    loss = WarmStarted(InstancewisePartialAUCLoss(0.3))
    loss.eval()
    loss(logits, target)
    assert not loss.started
    loss.train()
    with pytest.warns(UserWarning, match="zero on a batch of"):
        loss(logits[:4], torch.zeros(4, dtype=torch.int64))
    assert not loss.started
    loss(logits, target)
    assert loss.started
    there = loss.loss.a.clone()
    loss(logits * 3, target)
    assert loss.loss.a == there
    again = WarmStarted(InstancewisePartialAUCLoss(0.3))
    again.load_state_dict(loss.state_dict())
    again(logits * 3, target)
    assert again.loss.a == there


def test_a_loss_without_a_closed_form_says_so():
    from equipoise.core.solvers.saddle import SaddleLoss

    class Free(SaddleLoss):
        def __init__(self):
            super().__init__()
            self.dual = nn.Parameter(torch.tensor(0.0))

    with pytest.raises(TypeError, match="no closed-form saddle point"):
        WarmStarted(Free())(torch.tensor([0.5, -0.5]), torch.tensor([1, 0]))
