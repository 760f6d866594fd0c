"""TuckA by brute force from its definition, at its edges, in a model, saved and merged."""

import importlib
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from equipoise.language import (
    RouteState,
    TuckALinear,
    TuckARouter,
    TuckASettings,
    apply_tucka,
    expert_load,
    merge_pinned,
    pin_route,
    routes_of,
    tucka_linear,
    tucka_merged_weight,
    tucka_parameter_count,
    tucka_parameter_groups,
    tucka_routing,
)
from language.adapters.tiny_models import blocks, gradients


def _tensors(k=3, t=2, p=2, r=3, d=5, o=4, dtype=torch.float64):
    shapes = {
        "x": (2, 6, d),
        "weight": (o, d),
        "bias": (o,),
        "core": (k, p, r, r),
        "factor": (d, r),
        "expert_coef": (t, p),
        "centroids": (k * t, d),
    }
    return {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}


def _by_hand(x, weight, bias, core, factor, expert_coef, centroids, k, t, alpha):
    """Expert by expert and token by token, in the order of the text."""
    tokens = x.reshape(-1, x.shape[-1])
    mean = tokens.mean(0)
    affinity = []
    for g in range(k):
        logits = [float(centroids[g * t + i] @ mean) for i in range(t)]
        size = math.sqrt(sum(v * v for v in logits))
        affinity += [1 / (1 + math.exp(-v / size)) for v in logits]
    group = affinity.index(max(affinity)) // t
    unit_factor, unit_coef = factor / factor.norm(), expert_coef / expert_coef.norm()
    unit_core = core[group] / core[group].norm()
    rows = []
    for token in tokens:
        changed = token.clone()
        for i in range(t):
            expert = sum(unit_coef[i, c] * unit_core[c] for c in range(core.shape[1]))
            changed += alpha * affinity[group * t + i] * (token @ unit_factor @ expert @ unit_factor.T)
        rows.append(weight @ changed + bias)
    return torch.stack(rows).reshape(*x.shape[:-1], -1), group, affinity


@pytest.mark.parametrize("seed", range(5))
def test_the_layer_is_the_sum_of_its_experts(seed):
    torch.manual_seed(seed)
    given = _tensors()
    found = tucka_linear(**given, k=3, t=2, alpha=7.0)
    output, group, affinity = _by_hand(**given, k=3, t=2, alpha=7.0)
    torch.testing.assert_close(found.output, output)
    assert int(found.group) == group
    assert found.affinity.tolist() == pytest.approx(affinity)
    merged = tucka_merged_weight(given["weight"], given["factor"], found.mixed_core, alpha=7.0)
    torch.testing.assert_close(linear(given["x"], merged, given["bias"]), output)


def test_gradients_are_those_of_finite_differences():
    given = {name: value.requires_grad_() for name, value in _tensors(k=2).items()}

    def outputs(*values):
        return tucka_linear(**dict(zip(given, values, strict=True)), k=2, t=2, alpha=3.0).output

    assert torch.autograd.gradcheck(outputs, tuple(given.values()))
    tucka_linear(**given, k=2, t=2).output.sum().backward()
    chosen = int(tucka_linear(**given, k=2, t=2).group)
    assert float(given["core"].grad[1 - chosen].abs().sum()) == 0
    assert float(given["centroids"].grad.view(2, 2, -1)[1 - chosen].abs().sum()) == 0


def test_the_gradient_of_a_tensor_without_scale_is_across_it():
    given = {name: value.requires_grad_() for name, value in _tensors().items()}
    tucka_linear(**given, k=3, t=2).output.square().sum().backward()
    for name in ("core", "factor", "expert_coef"):
        assert float((given[name].detach() * given[name].grad).sum()) == pytest.approx(0, abs=1e-9)


def test_two_dimensional_input_and_half_precision():
    given = _tensors()
    wanted = tucka_linear(**given, k=3, t=2)
    flat = tucka_linear(**{**given, "x": given["x"].reshape(12, 5)}, k=3, t=2)
    torch.testing.assert_close(flat.output.reshape(2, 6, -1), wanted.output)
    half = tucka_linear(**{name: value.bfloat16() for name, value in given.items()}, k=3, t=2)
    assert half.output.dtype is torch.float32
    torch.testing.assert_close(half.output.double(), wanted.output, atol=0.2, rtol=0.1)


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
def test_masked_tokens_do_not_route(kind):
    given = _tensors()
    mask = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]]).to(kind)
    wanted = tucka_linear(**given, k=3, t=2, mask=mask)
    x = given["x"].clone()
    x[~mask.bool()] = 1e6
    changed = tucka_linear(**{**given, "x": x}, k=3, t=2, mask=mask)
    torch.testing.assert_close(changed.batch_mean, wanted.batch_mean)
    torch.testing.assert_close(wanted.batch_mean, given["x"][mask.bool()].mean(0))


def test_samples_route_as_they_would_alone():
    given = _tensors()
    mask = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    both = tucka_linear(**given, k=3, t=2, routing="sample", mask=mask)
    for number in range(2):
        one = {**given, "x": given["x"][number : number + 1]}
        alone = tucka_linear(**one, k=3, t=2, mask=mask[number : number + 1])
        torch.testing.assert_close(both.output[number : number + 1], alone.output)
    rows = tucka_linear(**{**given, "x": given["x"][0]}, k=3, t=2, routing="sample")
    torch.testing.assert_close(rows.output[:1], tucka_linear(**{**given, "x": given["x"][0, :1]}, k=3, t=2).output)


def test_ties_go_to_the_lowest_expert_and_no_direction_is_a_logit_of_zero():
    x = torch.ones(1, 3)
    even = torch.tensor([[1.0, 0, 0], [0, 1, 0], [2, 0, 0], [0, 2, 0]])
    assert int(tucka_routing(x[0], even, k=2, t=2).route.group) == 0
    assert int(tucka_routing(x[0], even.roll(2, 0), k=2, t=2).route.group) == 0
    assert tucka_routing(torch.zeros(3), even, k=2, t=2).affinity.tolist() == [0.5] * 4
    given = {**_tensors(d=3, o=2), "x": torch.zeros(4, 3).double()}
    leaves = {name: value.requires_grad_() for name, value in given.items()}
    tucka_linear(**leaves, k=3, t=2).output.sum().backward()
    assert all(value.grad.isfinite().all() for value in leaves.values())


def test_the_group_whose_experts_disagree_wins_whatever_its_size():
    centroids = torch.tensor([[100.0, 0], [100.0, 0], [0.01, 0], [-0.001, 0]])
    assert int(tucka_routing(torch.tensor([1.0, 0]), centroids, k=2, t=2).route.group) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"t": 1, "k": 6}, "t=1"),
        ({"k": 2}, "core must have k = 2"),
        ({"t": 3}, "expert_coef must have t = 3"),
        ({"alpha": math.nan}, "alpha"),
        ({"mask": torch.ones(2, 5).bool()}, r"mask must have the shape .*\(2, 6\)"),
        ({"mask": torch.zeros(2, 6).bool()}, "hides every token of the batch"),
        ({"mask": torch.tensor([[0] * 6, [1] * 6]), "routing": "sample"}, "hides every token of a sample"),
        ({"x": torch.full((2, 5), math.nan).double()}, "x holds"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_by_name(changes, words):
    with pytest.raises(ValueError, match=words):
        tucka_linear(**{**_tensors(), "k": 3, "t": 2, **changes})


@pytest.mark.parametrize("bad", [torch.ones(4, 2), torch.ones(3, 3)])
def test_a_mean_of_other_features_is_refused(plain_inputs, bad):
    with pytest.raises(ValueError, match="centroids"):
        tucka_routing(torch.ones(3), bad, k=2, t=2)


def test_a_core_of_one_number_is_warned_of():
    with pytest.warns(UserWarning, match="p = r = 1"):
        TuckASettings(p=1, r=1)


def test_one_group_still_blends_its_experts():
    given = _tensors(k=1)
    found = tucka_linear(**given, k=1, t=2)
    assert int(found.group) == 0
    assert found.expert_weights.tolist() == found.affinity.tolist()


# --- modules


def _small(**changes):
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    base = nn.Sequential(
        *[type(m)(*([m.in_features, m.out_features] if hasattr(m, "in_features") else [])) for m in model]
    )
    base = base.double()
    base.load_state_dict(model.state_dict())
    apply_tucka(model, ["0", "2"], TuckASettings(r=3, k=3, t=2, alpha=20.0, **changes))
    return model, base, torch.randn(7, 5).double()


def test_a_model_is_its_layers_with_the_route_of_the_first():
    model, base, x = _small()
    found = model(x)
    first, last = model[0], model[2]
    one = tucka_linear(x, base[0].weight, base[0].bias, *_parts(first), first.router.centroids, k=3, t=2, alpha=20.0)
    # The second layer has the first one's route.
    state = first.route
    assert int(one.group) == int(state.last.group)
    hidden = one.output.tanh()
    pin_route(model, int(one.group), one.expert_weights)
    alone = TuckALinear.forward(last, hidden)
    torch.testing.assert_close(alone, found)


def _parts(layer):
    return layer.experts.core, layer.experts.factor, layer.experts.expert_coef


def test_experts_begin_alike_and_layers_differ():
    model, _, _ = _small()
    core = model[0].experts.core
    assert torch.equal(core, core[:1, :1].expand_as(core))
    assert not torch.equal(core, model[2].experts.core)
    assert float(model[0].experts.factor.detach().abs().max()) <= 1 / math.sqrt(5)
    assert core.dtype is torch.float64


def test_identity_begins_as_the_base_bit_by_bit_and_merges():
    model, base, x = _small(init="identity")
    assert torch.equal(model(x), base(x))
    model(x).sum().backward()
    assert float(model[0].experts.core.grad.abs().max()) > 0
    with torch.no_grad():
        for layer in (model[0], model[2]):
            for value in _parts(layer):
                value.add_(torch.randn_like(value))
    changed = model(x)
    assert not torch.allclose(changed, base(x))
    group, found = next(iter(routes_of(model, [x]).items()))
    pin_route(model, group, found.weights)
    torch.testing.assert_close(merge_pinned(model)(x), changed)


def test_merging_is_exact_for_the_pinned_route_and_needs_one():
    model, _, x = _small()
    model(x)
    with pytest.raises(RuntimeError, match="pin_route"):
        merge_pinned(model)
    route = routes_of(model, [x])
    ((group, found),) = route.items()
    assert found.times == 1
    pin_route(model, group, found.weights)
    wanted = model(x)
    torch.testing.assert_close(model(x + 3), model(torch.cat([x + 3, x]))[:7])
    merge_pinned(model)
    assert [type(part) for part in model] == [nn.Linear, nn.Tanh, nn.Linear]
    torch.testing.assert_close(model(x), wanted)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())


def test_calibration_averages_by_group_and_leaves_the_model_as_it_was():
    model = blocks()
    batches = [torch.randn(4, 5).double() * 3 for _ in range(12)]
    model(batches[0])
    model.parts[1].eval()
    before = expert_load(model)
    found = routes_of(model, batches)
    assert sum(each.times for each in found.values()) == 12
    assert torch.equal(expert_load(model).counts, before.counts)
    assert [part.training for part in model.parts] == [True, False, True]
    seen = {group: [] for group in found}
    for batch in batches:
        model(batch)
        seen[int(model.parts[0][0].route.last.group)].append(model.parts[0][0].route.last.weights)
    for group, each in found.items():
        torch.testing.assert_close(each.weights, torch.stack(seen[group]).mean(0))
    load = expert_load(model, reset=True)
    share = load.counts / load.counts.sum()
    assert load.entropy == pytest.approx(float(-(share[share > 0] * share[share > 0].log()).sum()) / math.log(3))
    assert int(expert_load(model).counts.sum()) == 0


def test_a_reloaded_model_keeps_its_centroids():
    model, _, x = _small()
    assert not bool(model[0].router.initialised)
    model(x)
    later = 3 * x.flip(0) - 1
    wanted = model(later)
    state = model.state_dict()
    assert {"0.router.centroids", "0.router.initialised"} <= set(state)
    other, _, _ = _small()
    other.load_state_dict(state)
    torch.testing.assert_close(other(later), wanted)
    smaller = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    apply_tucka(smaller, ["0", "2"], TuckASettings(r=2, k=3))
    with pytest.raises(ValueError, match="k, t, p and r of the checkpoint"):
        smaller.load_state_dict(state)


def test_the_first_batch_places_the_centroids():
    router = TuckARouter(4, k=2, t=2, perturb_scale=0.5)
    x = torch.randn(3, 6, 4)
    router(x)
    mean = x.mean((0, 1))
    torch.testing.assert_close(router.centroids[0].detach(), mean)
    assert float((router.centroids.detach() - mean).abs().max()) <= 0.5
    placed = router.centroids.detach().clone()
    router(x + 9)
    assert torch.equal(router.centroids, placed)
    other = TuckARouter(4, k=2, t=2, init="kaiming")
    assert bool(other.initialised)
    assert float(other.centroids.detach().abs().max()) <= 0.5


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    model = nn.Sequential(nn.Linear(5, 6))
    after_base = torch.get_rng_state()
    apply_tucka(model, ["0"], TuckASettings(r=2))
    model(torch.ones(2, 5))
    assert torch.equal(torch.get_rng_state(), after_base)
    assert not torch.equal(before, after_base)


def test_counts_parameters_and_weight_decay():
    model, _, _ = _small()
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    wanted = tucka_parameter_count(5, r=3, k=3, t=2, p=2) + tucka_parameter_count(6, r=3, k=3, t=2, p=2) - 6 * 6
    assert sum(value.numel() for value in trained.values()) == wanted
    decayed, free = tucka_parameter_groups(model, 0.1)
    assert decayed["params"] == [model[0].router.centroids]
    assert {id(value) for value in free["params"]} == {id(v) for n, v in trained.items() if "experts" in n}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


class _Backwards(nn.Module):
    """Its forward order is not the order of its modules."""

    def __init__(self):
        super().__init__()
        self.late, self.early = nn.Linear(4, 2), nn.Linear(3, 4)

    def forward(self, x):
        return self.late(self.early(x))


def test_the_router_is_the_first_that_runs():
    model = _Backwards()
    apply_tucka(model, ["late", "early"])
    with pytest.raises(RuntimeError, match="router_name='early'"):
        model(torch.ones(2, 3))
    for options in ({"router_name": "early"}, {"example": torch.ones(1, 3)}, {"example": {"x": torch.ones(1, 3)}}):
        model = _Backwards()
        assert apply_tucka(model, ["late", "early"], **options) == ["late", "early"]
        assert model(torch.ones(2, 3)).shape == (2, 2)


def test_what_cannot_be_adapted_is_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    with pytest.raises(ValueError, match="linear layers are 0"):
        apply_tucka(model, ["q_proj"])
    with pytest.raises(TypeError, match="1 must be"):
        apply_tucka(model, ["0", "1"])
    with pytest.raises(ValueError, match="router_name='1'"):
        apply_tucka(model, ["0"], router_name="1")
    assert all(value.requires_grad for value in model.parameters())
    with pytest.raises(ValueError, match="no TuckA"):
        expert_load(model)
    apply_tucka(model, ["0"])
    with pytest.raises(ValueError, match="already"):
        apply_tucka(model, ["0"])
    for group, weights in ((2, torch.ones(2)), (-1, torch.ones(2)), (0, torch.ones(3)), (0, None)):
        with pytest.raises(ValueError, match=r"group|weights"):
            pin_route(model, group, weights)
    with pytest.raises(RuntimeError, match="apply_tucka"):
        TuckALinear(nn.Linear(3, 3), TuckASettings(), RouteState("", 2), has_router=True)(torch.ones(2, 3))
    with pytest.raises(TypeError, match="Tanh"):
        TuckALinear(nn.Tanh(), TuckASettings(), RouteState("", 2))


def test_infinity_at_the_router_is_found_where_anomalies_are_looked_for():
    router = TuckARouter(3)
    router(torch.ones(2, 3))
    with torch.autograd.set_detect_anomaly(True, check_nan=False), pytest.raises(ValueError, match="NaN or infinity"):
        router(torch.full((2, 3), torch.inf))


def test_bfloat16_layers_train_in_float32_weights():
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)).bfloat16()
    apply_tucka(model, ["0", "1"], TuckASettings(r=2))
    output = model(torch.randn(4, 5).bfloat16())
    assert output.dtype is torch.bfloat16
    output.float().sum().backward()
    assert set(gradients(model)) == {n for n, v in model.named_parameters() if v.requires_grad}
    assert model[0].experts.core.dtype is torch.float32


def test_the_room_does_not_import_peft():
    # `StudentTrainer` is made of the trainer of transformers, which imports what it finds.
    touch = "[getattr(room, name) for name in room.__all__ if name != 'StudentTrainer']"
    code = f"import sys, equipoise.language as room; {touch}; print('peft' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
    assert importlib.import_module("equipoise.language").TuckASettings is TuckASettings
