import itertools

import pytest
import torch

from equipoise.core.solvers.least_squares import GroupedLeastSquares
from equipoise.crowd import (
    block_diagonal_penalty,
    column_group_prox,
    pairwise_square_statistics,
    spectral_assignment,
    tfcl_objective,
    tfcl_step,
    tfcl_weight_prox,
)
from equipoise.crowd.tasks.losses import stack_tasks, task_losses

DOUBLE = {"dtype": torch.float64}
SETTINGS = {"k": 2, "alpha1": 0.7, "alpha2": 0.2}


def _drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def _world(loss="squared", d=3, sizes=(7, 9, 5)):
    features = [_drawn(n, d, seed=n) for n in sizes]
    targets = [_drawn(n, seed=100 + n) for n in sizes]
    return features, targets if loss == "squared" else [(y > 0.1).double() for y in targets]


def _loss_of_a_task(x, y, w, loss):
    scores = x @ w
    if loss == "squared":
        return sum((s - t) ** 2 for s, t in zip(scores, y, strict=True)) / (2 * len(y))
    if loss == "logistic":
        return sum(torch.log(1 + torch.exp(-(2 * t - 1) * s)) for s, t in zip(scores, y, strict=True)) / len(y)
    pairs = list(itertools.product(scores[y == 1], scores[y == 0]))
    return sum((1 - (p - q)) ** 2 for p, q in pairs) / (2 * len(pairs))


@pytest.mark.parametrize("loss", ["squared", "pairwise_square", "logistic"])
@pytest.mark.parametrize("d", [3, 20])
def test_the_losses_of_all_tasks_are_those_by_definition_with_their_gradients(loss, d):
    features, targets = _world(loss, d)
    weight = _drawn(d, 3).requires_grad_()
    wanted = sum(_loss_of_a_task(x, y, w, loss) for x, y, w in zip(features, targets, weight.T, strict=True))
    losses = task_losses(*stack_tasks(features, targets), 3, loss)
    value, gradient = losses.value_and_gradient(weight.detach())
    assert value == pytest.approx(float(wanted.detach()), rel=1e-10)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, weight)[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loss", ["squared", "pairwise_square", "logistic"])
@pytest.mark.parametrize("d", [3, 20])
def test_the_ridge_solution_has_no_gradient_left_and_the_curvature_bounds(loss, d):
    losses = task_losses(*stack_tasks(*_world(loss, d)), 3, loss)
    found = losses.ridge(0.1)
    residual = losses.value_and_gradient(found)[1] + 0.1 * found
    assert float(residual.abs().max()) < (1e-4 if loss == "logistic" else 1e-9)
    curvature = losses.curvature()
    for seed in range(5):
        at, move = _drawn(d, 3, seed=seed), _drawn(d, 3, seed=seed + 9)
        (low, slope), (high, _) = losses.value_and_gradient(at), losses.value_and_gradient(at + move)
        assert high <= low + float((slope * move).sum()) + curvature / 2 * float(move.square().sum()) + 1e-9


def test_forms_and_passes_are_one():
    rows, response, owner = _drawn(30, 4), _drawn(30, seed=1), torch.arange(30) % 3
    forms, passes = (GroupedLeastSquares(rows, response, owner, 3) for _ in range(2))
    assert forms.forms is not None
    passes.forms = None
    for got, want in zip(forms.value_and_gradient(_drawn(4, 3)), passes.value_and_gradient(_drawn(4, 3)), strict=True):
        torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(want))
    assert passes.curvature() >= forms.curvature()


@pytest.mark.parametrize("signs", [False, True])
def test_the_pairwise_form_is_the_loss_of_all_pairs(signs):
    x, y = _drawn(9, 3), (torch.arange(9) % 3 == 0).long()
    weight = _drawn(3, seed=5).requires_grad_()
    wanted = _loss_of_a_task(x, y, weight, "pairwise_square")
    form = pairwise_square_statistics(x, 2 * y - 1 if signs else y)
    torch.testing.assert_close(form.loss(weight), wanted)
    torch.testing.assert_close(form.gradient(weight), torch.autograd.grad(wanted, weight)[0])
    assert torch.linalg.eigvalsh(form.matrix).min() > -1e-12


def test_a_task_of_one_class_adds_nothing_and_is_told():
    x = _drawn(4, 2)
    with pytest.warns(UserWarning, match="one class only"):
        form = pairwise_square_statistics(x, torch.ones(4).long())
    assert float(form.loss(torch.ones(2, **DOUBLE))) == 0
    features, targets = _world("pairwise_square")
    targets[1] = torch.zeros(9)
    with pytest.warns(UserWarning, match="1 of 3 tasks"):
        found = tfcl_objective(features, targets, _drawn(3, 3), **SETTINGS, loss="pairwise_square")
    others = [_loss_of_a_task(features[t], targets[t], _drawn(3, 3)[:, t], "pairwise_square") for t in (0, 2)]
    assert float(found.data_loss) == pytest.approx(float(sum(others)))


def test_the_weight_prox_is_the_minimum_of_what_it_minimises():
    weight, distance = 2 * _drawn(4, 3), _drawn(4, 3, seed=1).abs()
    found = tfcl_weight_prox(weight, distance, 2.0, 0.3, 2.0)

    def cost(w):
        return (w - weight).square() + 2.0 * distance * w.abs() + 0.15 * w.square()

    grid = torch.linspace(-8, 8, 4001, **DOUBLE)
    assert (cost(found) <= cost(grid[:, None, None]).min(0).values + 1e-9).all()
    assert (found == 0).any()
    torch.testing.assert_close(tfcl_weight_prox(weight, torch.zeros(4, 3, **DOUBLE), 9.0, 0.0, 1.0), weight)


def test_short_columns_become_zero_and_long_ones_are_shortened():
    weight = torch.tensor([[3.0, 0.0, 0.3], [4.0, 0.0, 0.4]], **DOUBLE)
    found = column_group_prox(weight, 0.5)
    torch.testing.assert_close(found, torch.tensor([[2.7, 0, 0], [3.6, 0, 0]], **DOUBLE))


@pytest.mark.parametrize("loss", ["squared", "pairwise_square", "logistic"])
def test_the_objective_adds_up(loss):
    features, targets = _world(loss)
    weight = _drawn(3, 3)
    found = tfcl_objective(features, targets, weight, **SETTINGS, loss=loss)
    data = sum(float(_loss_of_a_task(x, y, w, loss)) for x, y, w in zip(features, targets, weight.T, strict=True))
    assert float(found.data_loss) == pytest.approx(data)
    penalty = 0.7 * block_diagonal_penalty(weight, 2).value + 0.1 * weight.square().sum()
    assert float(found.objective) == pytest.approx(data + float(penalty))


@pytest.mark.parametrize("loss", ["squared", "pairwise_square", "logistic"])
@pytest.mark.parametrize("seed", range(4))
def test_a_step_is_its_two_parts_and_never_rises(loss, seed):
    features, targets = _world(loss)
    weight = _drawn(3, 3, seed=seed)
    losses = task_losses(*stack_tasks(features, targets), 3, loss)
    lipschitz = losses.curvature() * 1.01
    step = tfcl_step(features, targets, weight, **SETTINGS, lipschitz=lipschitz, loss=loss)
    distance = spectral_assignment(weight, 2, 0.7).distance
    moved = weight - losses.value_and_gradient(weight)[1] / lipschitz
    torch.testing.assert_close(step.weight, tfcl_weight_prox(moved, distance, 0.7, 0.2, lipschitz))
    assert step.objective_after < step.objective_before
    for at, value in ((weight, step.objective_before), (step.weight, step.objective_after)):
        torch.testing.assert_close(value, tfcl_objective(features, targets, at, **SETTINGS, loss=loss).objective)


def test_one_block_is_ridge_and_as_many_as_vertices_are_the_lasso():
    features, targets = _world()
    zero = torch.zeros(3, 3, **DOUBLE)
    one = tfcl_step(features, targets, zero, k=1, alpha1=9.0, alpha2=0.0, lipschitz=9.0)
    plain = tfcl_step(features, targets, zero, k=1, alpha1=0.0, alpha2=0.0, lipschitz=9.0)
    moved = plain.weight
    # At zero weights all vertices share: a lasso of weight 2 k / N.
    torch.testing.assert_close(one.weight, tfcl_weight_prox(moved, torch.full((3, 3), 1 / 3, **DOUBLE), 9.0, 0.0, 9.0))
    every = tfcl_step(features, targets, moved, k=6, alpha1=0.2, alpha2=0.0, lipschitz=9.0)
    again = tfcl_step(features, targets, moved, k=1, alpha1=0.0, alpha2=0.0, lipschitz=9.0).weight
    torch.testing.assert_close(every.weight, tfcl_weight_prox(again, torch.full((3, 3), 2.0, **DOUBLE), 0.2, 0.0, 9.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": []}, "features and targets"),
        ({"targets": [torch.ones(7), torch.ones(8), torch.ones(5)]}, "task 1 has 9 rows"),
        ({"features": [_drawn(7, 3), _drawn(9, 4), _drawn(5, 3)]}, "task 1 have 4 columns"),
        ({"weight": _drawn(3, 2)}, "weight must have shape"),
        ({"k": 7}, "k=7"),
        ({"alpha1": -1.0}, "alpha1"),
        ({"loss": "hinge"}, "loss"),
        ({"loss": "logistic"}, "y must hold 0 and 1"),
        ({"features": [_drawn(7, 3), torch.full((9, 3), torch.nan), _drawn(5, 3)]}, "features"),
    ],
)
def test_bad_input_is_named(change, message, plain_inputs):
    features, targets = _world()
    good = {"features": features, "targets": targets, "weight": _drawn(3, 3), **SETTINGS}
    with pytest.raises(ValueError, match=message):
        tfcl_objective(**{**good, **change})


def test_a_step_that_is_too_long_is_told():
    features, targets = _world()
    with pytest.warns(UserWarning, match="below the curvature"):
        tfcl_step(features, targets, _drawn(3, 3), **SETTINGS, lipschitz=0.01)
