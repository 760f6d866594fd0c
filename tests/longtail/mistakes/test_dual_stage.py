"""The two-stage mixture: fusion, heads that keep to themselves, and SAM for one head."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from equipoise.core.models.experts import SoftExpertFusion, gate_entropy, gate_imbalance, soft_expert_fusion
from equipoise.longtail.mistakes.dual_stage import DualStageLoss, DualStageMoE
from equipoise.longtail.mistakes.metrics import MistakeDetectionMetrics, mistake_detection_metrics


def _judged():
    zeros = torch.zeros(2, 2)
    return {"head_logits": dict.fromkeys(("rw", "auc", "la"), zeros), "log_prob": zeros, "gate_c": zeros}


def world(n=32, dim=6):
    generator = torch.Generator().manual_seed(3)
    target = (torch.arange(n) < 5).long()
    return torch.randn(n, dim, generator=generator), torch.randn(n, dim, generator=generator), target


def test_equal_gate_logits_give_the_mean_and_one_large_logit_an_expert():
    experts = torch.randn(3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(soft_expert_fusion(experts, torch.zeros(5, 3).double()).fused, experts.mean(0))
    gate = torch.tensor([[0.0, 50.0, 0.0]] * 5, dtype=torch.float64)
    torch.testing.assert_close(soft_expert_fusion(experts, gate).fused, experts[1])


def test_experts_and_gate_columns_may_be_permuted_together():
    experts, gate, order = torch.randn(3, 5, 4), torch.randn(5, 3), torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        soft_expert_fusion(experts[order], gate[:, order]).fused, soft_expert_fusion(experts, gate).fused
    )


def test_the_gradient_of_a_gate_logit_is_its_weight_times_what_its_expert_adds():
    experts = torch.randn(2, 1, 4, dtype=torch.float64)
    gate = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    fused, weights = soft_expert_fusion(experts, gate)
    direction = torch.randn(1, 4, dtype=torch.float64)
    (got,) = torch.autograd.grad((fused * direction).sum(), gate)
    wanted = [weights[0, k] * ((experts[k] - fused) * direction).sum() for k in range(2)]
    torch.testing.assert_close(got[0], torch.stack(wanted))


def test_gate_statistics_tell_use_from_collapse():
    collapsed = torch.tensor([[1.0, 0.0]] * 4)
    assert gate_entropy(collapsed) == 0
    assert gate_imbalance(collapsed) == pytest.approx(0.6931, abs=1e-4)
    half = torch.rand(64, 2, generator=torch.Generator().manual_seed(0)).softmax(1).bfloat16()
    for statistic in (gate_entropy, gate_imbalance):
        torch.testing.assert_close(statistic(half), statistic(half.double()).float(), rtol=1e-4, atol=1e-6)


def test_concatenated_experts_may_differ_in_width():
    fused, weights = soft_expert_fusion([torch.ones(2, 3), torch.ones(2, 1)], torch.zeros(2, 2), fusion="concat")
    assert fused.shape == (2, 4)
    assert (fused == 0.5).all()
    assert weights.shape == (2, 2)


@pytest.mark.parametrize("combine", ["prob", "logit"])
@pytest.mark.parametrize("fusion", ["sum", "concat"])
@pytest.mark.parametrize("gate_input", ["fine", "coarse", "both"])
def test_every_option_gives_probabilities(combine, fusion, gate_input):
    a, b, _ = world()
    model = DualStageMoE(
        nn.Identity(), nn.Identity(), 6, combine=combine, fusion=fusion, gate_input=gate_input, coarse_placeholder=True
    )
    for coarse in (a, None):
        out = model(coarse, b)
        torch.testing.assert_close(out["prob"].sum(1), torch.ones(32))
        torch.testing.assert_close(out["gate_c"].sum(1), torch.ones(32))


def test_the_decision_is_the_gated_mean_of_the_heads():
    a, b, _ = world()
    out = DualStageMoE(nn.Identity(), nn.Identity(), 6)(a, b)
    wanted = sum(out["gate_c"][:, k, None] * p for k, p in enumerate(out["head_prob"].values()))
    torch.testing.assert_close(out["prob"], wanted)


def test_stacked_heads_are_the_heads_one_by_one():
    a, b, _ = world()
    model = DualStageMoE(nn.Identity(), nn.Identity(), 6)
    out = model(a, b)
    for head, logits in zip(model.heads, out["head_logits"].values(), strict=True):
        torch.testing.assert_close(head(out["fused"]), logits)


def test_without_the_recording_the_segment_decides():
    _, b, _ = world()
    model = DualStageMoE(nn.Identity(), nn.Identity(), 6, coarse_placeholder=True)
    out = model(None, b)
    assert out["gate_f"].tolist() == [[0.0, 1.0]] * 32
    torch.testing.assert_close(out["fused"], model.norms[1](b))


def gradients(model):
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("heads", [("rw", "auc", "la"), ("la", "rw", "auc")])
def test_sam_changes_the_gradient_of_its_head_alone(heads):
    a, b, y = world()
    model = DualStageMoE(nn.Identity(), nn.Linear(6, 6), 6, heads=heads)
    twin = copy.deepcopy(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    DualStageLoss([27, 5], rho=0.5).backward(model, model(a, b), y)
    DualStageLoss([27, 5], rho=0.0).backward(twin, twin(a, b), y)
    sharp, plain = gradients(model), gradients(twin)
    own = f"heads.{heads.index('la')}."
    assert {name for name in sharp if not torch.equal(sharp[name], plain[name])} == {
        name for name in sharp if name.startswith(own)
    }
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_sams_gradient_is_taken_at_the_worst_point_of_the_ball():
    a, b, y = world()
    model = DualStageMoE(nn.Identity(), nn.Identity(), 6).double()
    a, b = a.double(), b.double()
    loss = DualStageLoss([27, 5], rho=0.3, weights=(1, 1, 2))
    out = model(a, b)
    head = model.heads[2]
    clean = torch.autograd.grad(loss(out, y)["la"], list(head.parameters()), retain_graph=True)
    loss.backward(model, out, y)
    moved = copy.deepcopy(head)
    norm = torch.sqrt(sum((g**2).sum() for g in clean))
    with torch.no_grad():
        for value, g in zip(moved.parameters(), clean, strict=True):
            value += 0.3 * g / norm
    at_point = 2 * loss._objective("la", moved(out["fused"].detach()), y)
    for value, g in zip(head.parameters(), torch.autograd.grad(at_point, list(moved.parameters())), strict=True):
        torch.testing.assert_close(value.grad, g)


def test_gradients_accumulate_over_two_backwards():
    a, b, y = world()
    model = DualStageMoE(nn.Identity(), nn.Identity(), 6)
    loss = DualStageLoss([27, 5])
    loss.backward(model, model(a, b), y)
    once = gradients(model)
    loss.backward(model, model(a, b), y)
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, 2 * once[name])


def test_the_decision_reaches_the_heads_only_if_asked():
    a, b, y = world()
    for detach in (True, False):
        model = DualStageMoE(nn.Identity(), nn.Identity(), 6, detach_heads=detach)
        DualStageLoss([27, 5])(model(a, b), y)["gate"].backward()
        assert (model.heads[0].first.weight.grad is None) == detach
        assert model.decision_gate[0].weight.grad is not None


def test_the_coarse_encoder_is_frozen_and_in_evaluation_mode():
    a, b, y = world()
    encoder = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    model = DualStageMoE(encoder, nn.Identity(), 6).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    DualStageLoss([27, 5]).backward(model, model(a, b), y)
    assert not encoder[1].training
    assert model.heads.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(value.grad is None for value in encoder.parameters())


def test_parts_are_trained_apart():
    model = DualStageMoE(nn.Linear(6, 6), nn.Linear(6, 6), 6)
    model.encoder_fine.bias.requires_grad_(False)
    gate = {name for name, _ in model.named_parameters() if name.startswith("decision_gate.")}
    trained = lambda: {name for name, value in model.named_parameters() if value.requires_grad}  # noqa: E731
    everything = trained()
    model.train_only("gate")
    assert trained() == gate
    model.train_only("features")
    assert trained() == everything - gate
    model.train_only("both")
    assert trained() == everything


def test_more_than_two_classes_and_widths_that_differ():
    model = DualStageMoE(nn.Identity(), nn.Identity(), 5, num_classes=3, coarse_dim=4, fine_dim=6)
    out = model(torch.randn(9, 4), torch.randn(9, 6))
    losses = DualStageLoss([7, 5, 3]).backward(model, out, torch.arange(9) % 3)
    assert out["prob"].shape == (9, 3)
    assert torch.isfinite(losses["total"])


def test_metrics_of_batches_are_those_of_the_whole():
    prob, target = torch.rand(50), (torch.arange(50) % 9 == 0).long()
    metric = MistakeDetectionMetrics(threshold=0.4)
    for part in range(5):
        metric.update(prob[part::5], target[part::5])
    assert metric.compute() == mistake_detection_metrics(prob, target, threshold=0.4)


def test_never_calling_a_mistake_is_accurate_and_worthless():
    found = mistake_detection_metrics(torch.zeros(100), (torch.arange(100) < 6).long())
    assert found["recall_correct"] == 1
    assert found["precision_mistake"] == 0
    assert found["macro_f1"] < 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_expert_fusion([torch.ones(2, 3), torch.ones(2, 4)], torch.zeros(2, 2)), "proj_dim"),
        (lambda: soft_expert_fusion(torch.ones(2, 2, 3), torch.zeros(2, 3)), "gate_logits"),
        (lambda: SoftExpertFusion(4, 2, "mean"), "fusion"),
        (lambda: SoftExpertFusion(4, 2, proj_dim=3), "expert_dims"),
        (lambda: DualStageMoE(nn.Identity(), nn.Identity(), 4, heads=("rw", "focal")), "'la'"),
        (lambda: DualStageMoE(nn.Identity(), nn.Identity(), 4, heads=()), "empty"),
        (lambda: DualStageMoE(nn.Identity(), nn.Identity(), 4)(None, torch.ones(2, 4)), "coarse_placeholder"),
        (lambda: DualStageMoE(nn.Identity(), nn.Identity(), 4)(torch.ones(2, 4), torch.ones(2, 3)), "fine embedding"),
        (lambda: DualStageLoss([10, 0]), "no mistake sample in training"),
        (lambda: DualStageLoss([10, 1])(_judged(), torch.tensor([0, 2])), "from 0 to 1"),
        (lambda: DualStageLoss([10, 1])(_judged(), torch.tensor([0.0, 1.0])), "target must hold integers"),
        (lambda: DualStageLoss([10, 1], weights=(0, 0, 0)), "all zero"),
        (lambda: DualStageLoss([10, 1], weights=(1, -1, 0)), "weights"),
        (lambda: mistake_detection_metrics(torch.tensor([1.5]), torch.tensor([1])), "0, 1"),
    ],
)
def test_bad_input_is_named(plain_inputs, call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["head_logits", "log_prob", "gate_c", "fused"])
def test_what_the_model_did_not_give_is_named(name):
    model, (coarse, fine, target) = DualStageMoE(nn.Identity(), nn.Identity(), 6, hidden=4), world()
    out, loss = model(coarse, fine), DualStageLoss([27, 5])
    del out[name]
    with pytest.raises(ValueError, match=f"out must hold '{name}', as what a DualStageMoE gives does, got 'prob'"):
        loss.backward(model, out, target)
    with pytest.raises(ValueError, match="got nothing"):
        loss({}, target)
