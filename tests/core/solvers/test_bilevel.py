import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from equipoise.core.solvers.bilevel import MetaWrapper, one_step_hypergradient, selected_parameters, unrolled_descent

DOUBLE = {"dtype": torch.float64}


def _problem(seed=0, n=7):
    """Inner and outer loss of logits x · (theta sigmoid(phi)), and where they are taken."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, 4, generator=generator, **DOUBLE)
    y = (torch.rand(2, n, generator=generator) < 0.5).double()
    theta, phi = torch.randn(2, 4, generator=generator, **DOUBLE)

    def loss(part):
        return lambda theta, phi: binary_cross_entropy_with_logits(x[part] @ (theta * phi.sigmoid()), y[part])

    return loss(0), loss(1), theta, phi


def _by_differences(function, at, step=1e-6):
    unit = torch.eye(at.numel(), **DOUBLE)
    return torch.stack([(function(at + step * e) - function(at - step * e)) / (2 * step) for e in unit])


def _after(inner, theta, phi, lr):
    theta = theta.clone().requires_grad_()
    return (theta - lr * torch.autograd.grad(inner(theta, phi), theta)[0]).detach()


@pytest.mark.parametrize("lr", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_hypergradients_are_those_by_finite_differences(seed, lr):
    inner, outer, theta, phi = _problem(seed)
    found = one_step_hypergradient(inner, outer, theta, phi, lr)
    torch.testing.assert_close(
        found.theta, _by_differences(lambda t: outer(_after(inner, t, phi, lr), phi), theta), rtol=1e-6, atol=1e-8
    )
    torch.testing.assert_close(
        found.phi, _by_differences(lambda p: outer(_after(inner, theta, p, lr), p), phi), rtol=1e-6, atol=1e-8
    )
    torch.testing.assert_close(found.theta_prime, _after(inner, theta, phi, lr))
    assert float(found.inner_loss) == float(inner(theta, phi))


def test_first_order_differs_from_the_full_gradient_in_the_order_of_the_step():
    inner, outer, theta, phi = _problem()

    def gap(lr):
        full, first = (one_step_hypergradient(inner, outer, theta, phi, lr, order) for order in (False, True))
        return torch.stack([(full.theta - first.theta).norm(), (full.phi - first.phi).norm()])

    assert (gap(1e-2) > 0).all()
    torch.testing.assert_close(gap(1e-4) * 100, gap(1e-2), rtol=0.02, atol=0)
    assert (gap(0.0) == 0).all()


def test_parameters_may_be_tensors_by_name():
    inner, outer, theta, phi = _problem()
    whole = one_step_hypergradient(inner, outer, theta, phi, 0.5)
    halves = {"first": theta[:2], "last": theta[2:]}
    found = one_step_hypergradient(
        lambda t, p: inner(torch.cat([t["first"], t["last"]]), p["phi"]),
        lambda t, p: outer(torch.cat([t["first"], t["last"]]), p["phi"]),
        halves,
        {"phi": phi},
        0.5,
    )
    torch.testing.assert_close(torch.cat([found.theta["first"], found.theta["last"]]), whole.theta)
    torch.testing.assert_close(found.phi["phi"], whole.phi)
    assert found.theta_prime["first"].data_ptr() != theta.data_ptr()


def test_what_a_loss_does_not_depend_on_has_gradient_zero():
    found = one_step_hypergradient(
        lambda t, p: t.sum(), lambda t, p: t.sum() * 0 + 1, torch.ones(2), torch.ones(3), 0.1
    )
    assert found.phi.equal(torch.zeros(3))
    constant = one_step_hypergradient(
        lambda t, p: torch.tensor(1.0), lambda t, p: p.sum(), torch.ones(2), torch.ones(3), 0.1
    )
    assert constant.theta.equal(torch.zeros(2))
    assert constant.theta_prime.equal(torch.ones(2))


def test_half_precision_and_a_loop_without_gradients():
    with torch.inference_mode():
        found = one_step_hypergradient(
            lambda t, p: (t * p).square().sum(), lambda t, p: t.sum(), torch.ones(2).half(), torch.ones(2).half(), 0.25
        )
    assert found.theta.dtype is torch.float32
    torch.testing.assert_close(found.theta, torch.full((2,), 0.5))


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"theta": {}}, "theta holds no tensor"),
        ({"theta": [1.0]}, "theta must be a torch.Tensor, got list"),
        ({"phi": torch.ones(2).long()}, "phi must be floating point"),
        ({"phi": torch.tensor([torch.inf])}, "phi holds 1 NaN or infinite"),
        ({"inner_lr": float("nan")}, "inner_lr=nan must be a finite number"),
        ({"first_order": 2}, "first_order=2 must be True or False"),
        ({"phi": {"p": torch.tensor([torch.nan])}}, r"phi\['p'\] holds 1 NaN"),
        ({"inner_lr": -0.1}, "inner_lr=-0.1 must be a number at least 0"),
        ({"inner_loss": lambda t, p: t}, r"the inner loss must be a scalar tensor, got shape \(2,\)"),
        ({"outer_loss": lambda t, p: 1.0}, "outer_loss must be a scalar tensor, got float"),
    ],
)
def test_bad_arguments_are_refused(changes, sentence):
    good = {"inner_loss": lambda t, p: t.sum(), "outer_loss": lambda t, p: t.sum(), "theta": torch.ones(2)}
    with pytest.raises(ValueError, match=sentence):
        one_step_hypergradient(**{**good, "phi": torch.ones(2), "inner_lr": 0.1, **changes})


def _net(norm=False, seed=0):
    torch.manual_seed(seed)
    between = nn.BatchNorm1d(5) if norm else nn.Tanh()
    return nn.Sequential(nn.Linear(3, 5), between, nn.Linear(5, 1)).double()


def _rows(seed=1, n=8):
    x = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(seed), **DOUBLE)
    return (x[0], x[0].sum(1).sin()), (x[1], x[1].sum(1).sin())


def _loss(model, batch):
    return mse_loss(model(batch[0]).squeeze(1), batch[1])


def _flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def _objective(model, lr, steps, mu, first, last):
    """J of the flat parameters, by plain steps on copies."""

    def value(flat):
        twin = copy.deepcopy(model)
        nn.utils.vector_to_parameters(flat.clone(), twin.parameters())
        losses = []
        for _ in range(steps):
            loss = _loss(twin, first)
            losses.append(float(loss.detach()))
            moved = list(twin[2].parameters())
            for p, g in zip(moved, torch.autograd.grad(loss, moved), strict=True):
                p.data -= lr * g
        return _loss(twin, last).detach() + mu * sum(losses) / steps

    return value


@pytest.mark.parametrize(("steps", "mu"), [(1, 0.0), (1, 0.7), (2, 0.0), (3, 0.4)])
def test_a_step_fills_the_gradient_of_the_objective(steps, mu):
    model, (first, last) = _net(), _rows()
    before = _flat(model)
    wrapper = MetaWrapper(model, ["2"], inner_lr=0.3, inner_steps=steps, mu=mu)
    value = wrapper.step(first, last, _loss)
    objective = _objective(model, 0.3, steps, mu, first, last)
    torch.testing.assert_close(_gradient(model), _by_differences(objective, before), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(value, _objective(model, 0.3, steps, 0.0, first, last)(before))
    assert _flat(model).equal(before)
    assert not value.requires_grad


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize("first_order", [False, True])
def test_without_a_step_it_is_joint_training(mu, first_order):
    model, (first, last) = _net(), _rows()
    MetaWrapper(model, ["2"], inner_lr=0.0, mu=mu, first_order=first_order).step(first, last, _loss)
    twin = copy.deepcopy(model)
    twin.zero_grad()
    (_loss(twin, last) + mu * _loss(twin, first)).backward()
    torch.testing.assert_close(_gradient(model), _gradient(twin))


def test_first_order_is_the_gradient_at_the_moved_parameters():
    model, (first, last) = _net(), _rows()
    MetaWrapper(model, ["2"], inner_lr=0.3, first_order=True).step(first, last, _loss)
    twin = copy.deepcopy(model)
    twin.zero_grad()
    moved = list(twin[2].parameters())
    for p, g in zip(moved, torch.autograd.grad(_loss(twin, first), moved), strict=True):
        p.data -= 0.3 * g
    _loss(twin, last).backward()
    torch.testing.assert_close(_gradient(model), _gradient(twin))


def test_two_steps_are_two_single_steps():
    model, (first, _) = _net(), _rows()

    def loss(parameters):
        return mse_loss(torch.func.functional_call(model, parameters, (first[0],)).squeeze(1), first[1])

    start = dict(model.named_parameters())
    once = unrolled_descent(loss, start, 0.2)
    nested, whole = unrolled_descent(loss, once.parameters, 0.2), unrolled_descent(loss, start, 0.2, steps=2)
    for name in start:
        torch.testing.assert_close(whole.parameters[name], nested.parameters[name], rtol=0, atol=0)
        assert whole.parameters[name].data_ptr() != start[name].data_ptr()
        one, other = (
            torch.autograd.grad(each.parameters[name].sum(), start["0.weight"], retain_graph=True)[0]
            for each in (whole, nested)
        )
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert [x.item() for x in whole.losses] == [once.losses[0].item(), nested.losses[0].item()]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("first_order", [False, True])
def test_bilevel_gives_each_level_its_own_loss(first_order, steps):
    model, (first, last) = _net(), _rows()
    settings = {"inner_lr": 0.3, "first_order": first_order, "inner_steps": steps}
    MetaWrapper(model, ["2"], variant="bilevel", **settings).step(first, last, _loss)
    meta, plain = copy.deepcopy(model), copy.deepcopy(model)
    for twin in (meta, plain):
        twin.zero_grad()
    MetaWrapper(meta, ["2"], **settings).step(first, last, _loss)
    _loss(plain, first).backward()
    torch.testing.assert_close(model[0].weight.grad, meta[0].weight.grad)
    torch.testing.assert_close(model[2].weight.grad, plain[2].weight.grad)


def test_bilevel_leaves_the_outer_parameters_untouched_by_the_inner_loss():
    """With an inner step of length 0 nothing of the inner batch reaches them."""
    model, (first, last) = _net(), _rows()
    found = []
    for inner in (first, (first[0] * 3, first[1] - 1)):
        model.zero_grad()
        MetaWrapper(model, ["2"], inner_lr=0.0, variant="bilevel").step(inner, last, _loss)
        found.append(model[0].weight.grad.clone())
    assert found[0].equal(found[1])


@pytest.mark.parametrize("variant", ["meta", "bilevel"])
def test_gradients_are_added_as_backward_adds_them(variant):
    model, (first, last) = _net(), _rows()
    wrapper = MetaWrapper(model, ["2"], variant=variant)
    wrapper.step(first, last, _loss)
    once = _gradient(model).clone()
    wrapper.step(first, last, _loss)
    torch.testing.assert_close(_gradient(model), 2 * once)


@pytest.mark.parametrize("steps", [1, 3])
def test_running_statistics_count_the_outer_batch_once(steps):
    model, (first, last) = _net(norm=True), _rows()
    twin = copy.deepcopy(model)
    MetaWrapper(model, ["2"], inner_steps=steps).step(first, last, _loss)
    twin(last[0])
    assert int(model[1].num_batches_tracked) == 1
    torch.testing.assert_close(model[1].running_mean, twin[1].running_mean)
    torch.testing.assert_close(model[1].running_var, twin[1].running_var)


def test_gradients_through_batch_norm_are_those_by_finite_differences():
    model, (first, last) = _net(norm=True), _rows()
    before = _flat(model)
    MetaWrapper(model, ["2"], inner_lr=0.3).step(first, last, _loss)
    by_differences = _by_differences(_objective(model, 0.3, 1, 0.0, first, last), before)
    torch.testing.assert_close(_gradient(model), by_differences, rtol=1e-5, atol=1e-8)


def test_tied_and_frozen_parameters():
    model, (first, last) = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 1)).double(), _rows()
    model[2].weight = model[0].weight
    model[3].bias.requires_grad_(False)
    MetaWrapper(model, ["0", "3"], inner_lr=0.2).step(first, last, _loss)
    assert model[2].weight.grad is model[0].weight.grad
    assert model[3].bias.grad is None
    assert selected_parameters(model, lambda name: "bias" in name) == {"0.bias", "2.bias"}


def test_the_loss_sees_the_model_itself():
    model, (first, last) = _net(), _rows()
    seen = []

    def loss(given, batch):
        seen.append(given)
        return _loss(given, batch) + given[2].weight.square().sum()

    MetaWrapper(model, lambda name: name.startswith("2")).step(first, last, loss)
    assert all(each is model for each in seen)
    assert len(seen) == 2


def test_a_sharp_step_is_told_and_changes_no_gradient():
    model, (first, last) = _net(), _rows()
    with pytest.raises(FloatingPointError, match="lower inner_lr"):
        MetaWrapper(model, ["2"], inner_lr=1e200, inner_steps=3).step(first, last, _loss)
    assert all(p.grad is None for p in model.parameters())


@dataclass
class _Batch:
    x: torch.Tensor
    more: dict


@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: (t, 1), lambda t: {"x": [t]}, lambda t: _Batch(torch.ones(2), {"x": t})]
)
def test_batches_that_share_a_tensor_are_refused(wrap):
    x = torch.ones(4, 3)
    wrapper = MetaWrapper(nn.Linear(3, 1), ["weight"])
    with pytest.raises(ValueError, match="share a tensor"):
        wrapper.step(wrap(x), wrap(x), lambda model, batch: model(x).mean())
    wrapper.step(wrap(x[:2]), wrap(x[2:]), lambda model, batch: model(x).mean())
    relaxed = MetaWrapper(nn.Linear(3, 1), ["weight"], strict=False)
    relaxed.step(wrap(x), wrap(x), lambda model, batch: model(x).mean())


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"inner_params": []}, "selects no trainable parameter"),
        ({"inner_params": lambda name: False}, "selects no trainable parameter"),
        ({"inner_params": ["head"]}, "inner_params holds 'head', which the model has not; it has"),
        ({"inner_params": "2"}, "inner_params must be"),
        ({"inner_params": [""], "variant": "bilevel"}, "needs outer ones"),
        ({"mu": 0.1, "variant": "bilevel"}, "leave mu at 0"),
        ({"inner_lr": -1.0}, "inner_lr=-1.0 must be a number at least 0"),
        ({"inner_steps": 0}, "inner_steps=0 must be a whole number at least 1"),
        ({"variant": "first"}, "variant='first' is not known"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        MetaWrapper(_net(), **{"inner_params": ["2"], **settings})


def test_a_name_is_no_prefix_of_another_name():
    model = nn.ModuleDict({"head": nn.Linear(1, 1), "head_two": nn.Linear(1, 1)})
    assert selected_parameters(model, ["head"]) == {"head.weight", "head.bias"}
    assert selected_parameters(model, [""]) == {name for name, _ in model.named_parameters()}
