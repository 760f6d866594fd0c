"""Two branches, the gate between them, the cascade and the threshold."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from equipoise.longtail.mistakes.branch_collaboration import (
    CollaborationGate,
    ContextBranch,
    DetailBranch,
    TwoBranchCollaboration,
    collaboration_gate_fusion,
    tune_threshold,
)
from equipoise.longtail.mistakes.metrics import mistake_detection_metrics
from equipoise.longtail.mistakes.objectives import ComplementaryObjective


def model(heads="shared", gate_input="both", mode="prob", detach=True):
    small, large = ContextBranch(nn.Identity(), 3, heads=heads), DetailBranch(5, heads=heads)
    width = TwoBranchCollaboration.gate_width(small, large, gate_input)
    return TwoBranchCollaboration(
        small, large, CollaborationGate(width, 8, mode), gate_input=gate_input, detach=detach
    ).eval()


def inputs(n=20):
    return torch.randn(n, 3), torch.randn(n, 3), torch.randn(n, 5)


def test_an_undecided_gate_averages_the_probabilities():
    z, w = torch.randn(6, 3), torch.randn(6, 3)
    torch.testing.assert_close(collaboration_gate_fusion(z, w, torch.zeros(6)).prob, (z.softmax(1) + w.softmax(1)) / 2)


@pytest.mark.parametrize("mode", ["prob", "logit"])
@pytest.mark.parametrize("gate", [30.0, -30.0, 700.0, -700.0])
def test_a_saturated_gate_is_one_branch(mode, gate):
    z, w = torch.randn(6, 2).double(), torch.randn(6, 2).double()
    g = torch.full((6,), gate, dtype=torch.float64, requires_grad=True)
    found = collaboration_gate_fusion(z, w, g, torch.zeros(6, dtype=torch.long), mode=mode)
    torch.testing.assert_close(found.prob, (z if gate > 0 else w).softmax(1))
    found.nll.backward()
    assert torch.isfinite(g.grad).all()


@pytest.mark.parametrize("mode", ["prob", "logit"])
def test_the_gradient_of_the_gate_is_the_formula(mode):
    z, w = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    g, y = torch.randn(5, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 0, 1])
    found = collaboration_gate_fusion(z, w, g, y, mode=mode)
    found.nll.backward()
    a, rows = g.detach().sigmoid(), torch.arange(5)
    if mode == "prob":
        slope = -(z.softmax(1) - w.softmax(1))[rows, y] / found.prob.detach()[rows, y]
    else:
        slope = ((found.prob.detach() - nn.functional.one_hot(y, 3)) * (z - w)).sum(1)
    torch.testing.assert_close(g.grad, a * (1 - a) * slope / 5)


def test_two_certain_and_wrong_branches_keep_a_finite_loss():
    z = torch.tensor([[500.0, -500.0]], requires_grad=True)
    found = collaboration_gate_fusion(z, z * 1.0, torch.zeros(1), torch.tensor([1]))
    found.nll.backward()
    assert torch.isfinite(found.nll)
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("heads", ["shared", "separate"])
@pytest.mark.parametrize("gate_input", ["both", "features", "logits"])
def test_every_option_gives_probabilities_and_trains(heads, gate_input):
    together = model(heads, gate_input)
    out = together(*inputs())
    torch.testing.assert_close(out["prob"].sum(1), torch.ones(20))
    objective = ComplementaryObjective([16, 4], heads=heads)
    target = (torch.arange(20) < 4).long()
    objective(out["small"].head_logits, target).backward()
    assert together.small_branch.classifier.heads[0][0].weight.grad.abs().sum() > 0


def test_branches_are_not_trained_to_please_the_gate():
    for detach in (True, False):
        together = model(gate_input="features", detach=detach)
        coarse, fine, embedding = inputs()
        embedding.requires_grad_()
        together(coarse, fine, embedding)["weight"].sum().backward()
        assert (embedding.grad is None) == detach


def test_without_an_embedding_the_small_branch_decides():
    together = model()
    coarse, fine, _ = inputs()
    out = together(coarse, fine, None)
    torch.testing.assert_close(out["prob"], together.small_branch(coarse, fine).logits.softmax(1))
    assert (out["weight"] == 1).all()


def test_a_missing_recording_is_a_learned_placeholder():
    branch = ContextBranch(nn.Identity(), 3).eval()
    branch(None, torch.randn(4, 3)).logits.sum().backward()
    assert branch.placeholder.grad.abs().sum() > 0


def test_a_cascade_that_sends_all_is_full_collaboration():
    together = model()
    coarse, fine, embedding = inputs()
    found = together.cascade_predict(coarse, fine, embedding, 1.0, batch_size=7)
    full = together(coarse, fine, embedding)
    torch.testing.assert_close(found["prob"], full["prob"])
    torch.testing.assert_close(found["weight"], full["weight"])
    assert found["share_called"] == 1


def test_a_cascade_at_one_half_never_calls_the_large_branch():
    def refuse(index):
        raise AssertionError("called")

    found = model().cascade_predict(*inputs()[:2], refuse, 0.5)
    assert found["share_called"] == 0


def test_a_cascade_calls_for_the_undecided_only():
    together = model()
    coarse, fine, embedding = inputs()
    sure = together.small_branch(coarse, fine).logits.detach().softmax(1).amax(1)
    conf = float(sure.median()) + 1e-6
    asked = []
    found = together.cascade_predict(coarse, fine, lambda i: asked.extend(i.tolist()) or embedding[i], conf)
    assert asked == (sure < conf).nonzero().flatten().tolist()
    full = together(coarse, fine, embedding)["prob"]
    torch.testing.assert_close(found["prob"][found["called"]], full[found["called"]])


@pytest.mark.parametrize("metric", ["macro_f1", "f1_mistake"])
def test_no_threshold_of_a_fine_grid_is_better(metric):
    generator = torch.Generator().manual_seed(5)
    for trial, grid in itertools.product(range(8), (4, 1000)):
        prob = (torch.rand(30, generator=generator).double() * grid).round() / grid
        target = (torch.rand(30, generator=generator) < 0.2 + 0.02 * trial).long()
        best = max(
            float(mistake_detection_metrics(prob, target, float(t))[metric])
            for t in torch.cat([prob, prob + 1e-9, torch.tensor([0.05, 0.95]).double()]).clamp(0.05, 0.95).unique()
        )
        chosen = tune_threshold(prob, target, metric)
        assert 0.05 <= chosen <= 0.95
        assert float(mistake_detection_metrics(prob, target, chosen)[metric]) >= best - 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DetailBranch(2)(torch.tensor([[0.0, 1.0], [float("nan"), 1.0]])), r"index \(1, 0\)"),
        (lambda: model().predict(*inputs(), threshold=0.0), "threshold"),
        (lambda: model().cascade_predict(*inputs(), 1.5), "conf"),
        (lambda: tune_threshold(torch.tensor([0.1]), torch.tensor([1]), low=0.5, high=0.5), "low=0.5 must be below"),
        (lambda: model(gate_input="none"), "gate_input"),
    ],
)
def test_bad_input_is_named(plain_inputs, call, message):
    with pytest.raises(ValueError, match=message):
        call()
