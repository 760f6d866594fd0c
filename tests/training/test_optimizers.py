"""Sharpness-aware optimizers under the trainer: the same steps as by hand, resumed in the same stage."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from equipoise.data.sampling.batches import StratifiedBatchSampler
from equipoise.longtail import SSESAM, FocalSAM
from equipoise.training import OBJECTIVES, HeldOut, Plan, fit_module, make_objective
from equipoise.training.networks import mlp

_COUNTS = [90, 45, 15]
_LOSSES_OF_PAIRS = ["auc", "partial_auc", "two_way_partial_auc", "weighted_partial_auc", "minmax_auc"]
_OPTIONS = {"lr": 0.02, "weight_decay": 0.1}


def _data():
    target = torch.repeat_interleave(torch.arange(3), torch.tensor(_COUNTS))
    noise = torch.randn(len(target), 3, generator=torch.Generator().manual_seed(0))
    return noise + nn.functional.one_hot(target, 3), target


def _network(cosines=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return mlp(3, 3, (8,), cosines=cosines)


def _plan(optimizer, epochs=10):
    return Plan(epochs=epochs, batch_size=50, learning_rate=0.02, weight_decay=0.1, optimizer=optimizer, seed=3)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("focal_sam", partial(FocalSAM, class_counts=_COUNTS)),
        ("sse_sam", partial(SSESAM, class_counts=_COUNTS, total_epochs=10, tail=[2])),
    ],
)
def test_the_trainer_takes_the_steps_that_a_loop_by_hand_takes(name, make):
    features, target = _data()
    run = fit_module(_network(), nn.CrossEntropyLoss(), features, target, _plan(name))
    network = _network()
    optimizer = make(list(network.parameters()), torch.optim.AdamW, **_OPTIONS)
    sampler = StratifiedBatchSampler(target, 50, seed=3)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        if hasattr(optimizer, "set_epoch"):
            optimizer.set_epoch(epoch)
        for rows in sampler:
            x, y = features[rows], target[rows]
            optimizer.step(lambda x=x, y=y: (nn.functional.cross_entropy(network(x), y, reduction="none"), y))
    for one, other in zip(run.module.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", [name for name, o in OBJECTIVES.items() if o.multiclass and name != "auc"])
def test_every_objective_of_samples_trains_in_both_phases_and_is_left_as_it_was(name):
    features, target = _data()
    loss = make_objective(name, num_classes=3, class_counts=_COUNTS, total_epochs=5)
    network = _network(OBJECTIVES[name].cosines)
    start = [parameter.clone() for parameter in network.parameters()]
    scores = network(features).detach()
    before = loss(scores, target)
    fit_module(network, loss, features, target, _plan("imb_sam", epochs=5))
    assert all(not torch.equal(a, b) and b.isfinite().all() for a, b in zip(start, network.parameters(), strict=True))
    loss.apply(lambda part: part.set_epoch(0, 5) if hasattr(part, "set_epoch") else None)
    assert loss(scores, target) == before


@pytest.mark.parametrize("name", _LOSSES_OF_PAIRS)
def test_a_loss_of_pairs_is_refused_by_name(name):
    features, target = _data()
    loss = make_objective(name, num_classes=2, class_counts=[135, 15], max_fpr=0.3, min_tpr=0.3)
    with pytest.raises(ValueError, match=r"AUCLoss has no `reduction`; use optimizer='adamw'"):
        fit_module(mlp(3, 1), loss, features, (target == 2).long(), _plan("sam"))


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="optimizer='sgd'"):
        Plan(optimizer="sgd")


LEFT = [math.inf]
"""How many judgements are left before the next one breaks off; no part of a run's identity."""


def _accuracy(scores, truth):
    LEFT[0] -= 1
    if not LEFT[0]:
        raise InterruptedError
    return (scores.argmax(1) == truth).double().mean()


@pytest.mark.parametrize("crash", [4, 8])
def test_a_run_that_breaks_off_before_or_in_the_last_stage_ends_with_the_same_weights(tmp_path, crash):
    features, target = _data()

    def run(folder):
        held_out = HeldOut(features[::3], target[::3], _accuracy)
        loss = make_objective("vs", num_classes=3, class_counts=_COUNTS, total_epochs=10)
        return fit_module(
            _network(), loss, features, target, _plan("sse_sam"), held_out=held_out, folder=tmp_path / folder
        )

    whole = run("whole")
    assert whole.best_epoch >= 8  # the loss is in its last phase from 0.8 · 10, the optimizer from 0.7 · 10
    LEFT[0] = crash
    with pytest.raises(InterruptedError):
        run("broken")
    again = run("broken")
    assert (again.best, again.best_epoch) == (whole.best, whole.best_epoch)
    wanted = whole.module.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in again.module.state_dict().items())
