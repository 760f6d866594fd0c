import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equipoise.core.solvers.group_sam import GroupSAM


def _world(seed=0, n=12, c=4):
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, c)).double()
    for p in model.parameters():
        nn.init.normal_(p, generator=g)
    return model, torch.randn(n, 3, generator=g, dtype=torch.float64), torch.randint(c, (n,), generator=g)


def _each(model, x, y):
    return cross_entropy(model(x), y, reduction="none")


def _gradient(model, x, y, weight):
    return torch.autograd.grad((_each(model, x, y) * weight).sum() / len(y), list(model.parameters()))


def _by_hand(model, x, y, weights, rho, adaptive=False):
    """Σ_g ∇L_g(θ + e_g) with a fresh copy of the model for every group."""
    total = [torch.zeros_like(p) for p in model.parameters()]
    for g, radius in enumerate(rho):
        w = weights[y, g]
        clean = _gradient(model, x, y, w)
        moved = copy.deepcopy(model)
        with torch.no_grad():
            scale = [p.abs() if adaptive else torch.ones_like(p) for p in model.parameters()]
            norm = sum(((s * c) ** 2).sum() for s, c in zip(scale, clean, strict=True)).sqrt()
            if norm > 0:
                for p, s, c in zip(moved.parameters(), scale, clean, strict=True):
                    p += radius * s * s * c / norm
        for t, found in zip(total, _gradient(moved, x, y, w), strict=True):
            t += found
    return total


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("rho", [(0.0, 0.3), (0.2, 0.3), (0.0, 0.0)])
def test_the_gradient_is_the_sum_over_groups(adaptive, rho):
    model, x, y = _world()
    weights = torch.rand(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = _by_hand(model, x, y, weights, rho, adaptive)
    start = [p.detach().clone() for p in model.parameters()]
    sam = GroupSAM(model.parameters(), torch.optim.SGD, rho, weights, adaptive=adaptive, lr=0.1, weight_decay=0.01)
    loss = sam.step(lambda: (_each(model, x, y), y))
    for p, gradient, before in zip(model.parameters(), expected, start, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(p.detach(), before - 0.1 * (gradient + 0.01 * before))
    assert not loss.requires_grad


@pytest.mark.parametrize("adaptive", [False, True])
def test_each_parameter_group_may_have_a_norm_of_its_own(adaptive):
    model, x, y = _world()
    radii = (0.1, 0.4)
    expected = copy.deepcopy(model)
    params = list(expected.parameters())
    clean = torch.autograd.grad(_each(expected, x, y).mean(), params)
    with torch.no_grad():
        for part, radius in zip((slice(0, 2), slice(2, 4)), radii, strict=True):
            scale = [p.abs() if adaptive else torch.ones_like(p) for p in params[part]]
            norm = sum(((s * g) ** 2).sum() for s, g in zip(scale, clean[part], strict=True)).sqrt()
            moved = [radius * s * s * g / norm for s, g in zip(scale, clean[part], strict=True)]
            if not adaptive:
                assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(radius)
            for p, move in zip(params[part], moved, strict=True):
                p += move
    wanted = torch.autograd.grad(_each(expected, x, y).mean(), params)
    groups = [{"params": list(model[k].parameters()), "rho": rho} for k, rho in zip((0, 2), radii, strict=True)]
    sam = GroupSAM(groups, torch.optim.SGD, 0.7, adaptive=adaptive, norm="per_group", lr=0.1)
    sam = copy.deepcopy((model, sam))[1] if adaptive else sam
    params = [p for group in sam.param_groups for p in group["params"]]
    moving = copy.deepcopy(model)

    def closure():
        # The weights of the optimizer, whichever copy of the model they belong to.
        names = [name for name, _ in moving.named_parameters()]
        out = torch.func.functional_call(moving, dict(zip(names, params, strict=True)), (x,))
        return cross_entropy(out, y, reduction="none")

    sam.step(closure)
    for p, gradient in zip(params, wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-9, atol=1e-12)


def test_a_parameter_group_without_gradient_moves_nowhere_by_its_own_norm():
    model, x, y = _world()
    idle = nn.Parameter(torch.ones(2, dtype=torch.float64))
    one, other = GroupSAM(model.parameters(), torch.optim.SGD, 0.3, lr=0.1), copy.deepcopy(model)
    groups = [{"params": list(other.parameters())}, {"params": [idle]}]
    both = GroupSAM(groups, torch.optim.SGD, 0.3, norm="per_group", lr=0.1)
    one.step(lambda: _each(model, x, y))
    both.step(lambda: _each(other, x, y) + 0 * idle.sum())
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
    assert idle.tolist() == [1, 1]


def test_parameters_that_share_a_gradient_step_as_one_that_has_it():
    """Autograd gives one tensor for both parts of a sum, and one number for all of a sum's terms."""
    one, a, b = (nn.Parameter(torch.full((3,), value, dtype=torch.float64)) for value in (1.0, 0.25, 0.75))
    rest = nn.Parameter(torch.ones(3, dtype=torch.float64))
    single = GroupSAM([one], torch.optim.SGD, 0.3, lr=0.1)
    pair = GroupSAM([a, b, rest], torch.optim.SGD, 0.3 * 2**0.5, lr=0.1)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    single.step(lambda: ((x * one) ** 2).sum(1))
    pair.step(lambda: ((x * (a + b)) ** 2).sum(1) + 0 * rest.sum())
    torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
    gradient = (2 * x**2).mean(0)
    move = 0.3 * 2**0.5 * gradient / gradient.norm() / 2**0.5
    torch.testing.assert_close(one.grad, gradient * (1 + 0.3 * gradient / gradient.norm()))
    torch.testing.assert_close(a.grad, gradient * (1 + 2 * move))
    assert rest.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("bn_stats", "passes"), [("first", 1), ("both", 2)])
@pytest.mark.parametrize("returns", ["losses", "scalar"])
def test_running_statistics_count_the_passes_they_are_told_to(bn_stats, passes, returns):
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    start = copy.deepcopy(model)
    sam = GroupSAM(model.parameters(), torch.optim.SGD, 0.5, bn_stats=bn_stats, lr=0.1)

    def closure():
        losses = _each(model, x, y)
        if returns == "losses":
            return losses
        losses.mean().backward()
        return losses.mean()

    sam.step(closure)
    assert int(model[1].num_batches_tracked) == passes
    # The clean pass, and the pass at the perturbed weights where it counts.
    gradients = torch.autograd.grad(_each(start, x, y).mean(), list(start.parameters()))
    if passes == 2:
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        with torch.no_grad():
            for p, g in zip(start.parameters(), gradients, strict=True):
                p += 0.5 * g / norm
        start(x)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(model[1], name), getattr(start[1], name))


def test_running_statistics_come_back_where_a_counted_pass_fails():
    x, calls = torch.randn(6, 3), []
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    sam = GroupSAM(model.parameters(), torch.optim.SGD, 0.5, bn_stats="both", lr=0.1)

    def closure():
        calls.append(1)
        found = model(x).squeeze(1)
        return found * torch.nan if len(calls) == 2 else found

    with pytest.raises(FloatingPointError):
        sam.step(closure)
    assert int(model[0].num_batches_tracked) == 0
    assert model[0].running_mean.tolist() == [0, 0, 0]


def test_the_order_of_groups_does_not_matter():
    weights = torch.eye(4, dtype=torch.float64)[:, :2]
    found = []
    for columns in ([0, 1], [1, 0]):
        model, x, y = _world(1)
        rho = [[0.1, 0.4][k] for k in columns]
        sam = GroupSAM(model.parameters(), torch.optim.SGD, rho, weights[:, columns], lr=0.1)
        sam.step(lambda model=model, x=x, y=y: (_each(model, x, y), y))
        found.append([p.detach().clone() for p in model.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


def test_without_radii_it_is_the_base_optimizer_bit_for_bit():
    (model, x, y), (other, _, _) = _world(2), _world(2)
    sam = GroupSAM(model.parameters(), torch.optim.SGD, [0.0], lr=0.1, momentum=0.9)
    plain = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        sam.step(lambda: _each(model, x, y))
        plain.zero_grad()
        _each(other, x, y).sum().div(len(y)).backward()
        plain.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_weights_come_back_to_the_last_bit_and_at_lr_zero_nothing_moves():
    model, x, y = _world(3)
    before = [p.detach().clone() for p in model.parameters()]
    GroupSAM(model.parameters(), torch.optim.SGD, [0.7], lr=0.0).step(lambda: _each(model, x, y))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_passes_are_counted():
    model, x, _ = _world(6)
    forward, backward = [], []
    model.register_forward_hook(lambda *_: forward.append(0))
    model[2].register_full_backward_hook(lambda *_: backward.append(0))
    tail = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    every = torch.arange(12) % 4
    for rho, target, wanted in (
        ((0.0, 0.2), every, (2, 3)),
        ((0.1, 0.2), every, (3, 4)),
        # Without a sample of the tail its passes are saved.
        ((0.0, 0.2), every % 2, (1, 1)),
        ((0.0, 0.0), every, (1, 1)),
    ):
        sam = GroupSAM(model.parameters(), torch.optim.SGD, rho, tail, lr=0.1)
        forward.clear()
        backward.clear()
        sam.step(lambda target=target: (_each(model, x, target), target))
        assert (len(forward), len(backward)) == wanted


def test_scaling_the_loss_scales_the_gradient_and_not_the_perturbation():
    (model, x, y), (other, _, _) = _world(12), _world(12)
    GroupSAM(model.parameters(), torch.optim.SGD, [0.2], lr=0.0).step(lambda: _each(model, x, y))
    GroupSAM(other.parameters(), torch.optim.SGD, [0.2], lr=0.0).step(lambda: 7 * _each(other, x, y))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(7 * a.grad, b.grad)


def test_a_scaler_changes_nothing_where_gradients_are_finite_and_skips_where_they_are_not():
    (model, x, y), (other, _, _) = _world(15), _world(15)
    weights = torch.rand(4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plain = GroupSAM(model.parameters(), torch.optim.SGD, (0.0, 0.3), weights, lr=0.1, momentum=0.9)
    scaled = GroupSAM(other.parameters(), torch.optim.SGD, (0.0, 0.3), weights, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        plain.step(lambda: (_each(model, x, y), y))
        loss = scaled.step(lambda: (_each(other, x, y), y), scaler=scaler)
    assert float(loss) < 10
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    before = [p.detach().clone() for p in other.parameters()]
    scaled.step(lambda: (_each(other, x, y) * torch.inf, y), scaler=scaler)
    assert all(torch.equal(p, q) for p, q in zip(other.parameters(), before, strict=True))
    assert scaler.get_scale() == 512.0
    with pytest.raises(ValueError, match="scaler"):
        GroupSAM(other.parameters(), torch.optim.SGD, [0.1], lr=0.1).step(lambda: _each(other, x, y).mean(), scaler)


def _worker(rank, path, sync, queue):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    model, x, y = _world(13)
    rows = slice(0, 7) if rank == 0 else slice(7, 12)
    weights = torch.eye(4, dtype=torch.float64)[:, [0, 3]] + 0.1
    sam = GroupSAM(model.parameters(), torch.optim.SGD, (0.1, 0.3), weights, sync=sync, lr=0.1)
    sam.step(lambda: (_each(model, x[rows], y[rows]), y[rows]))
    queue.put([p.detach().numpy() for p in model.parameters()])
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_step_as_one_on_the_union(tmp_path):
    import torch.multiprocessing as mp

    model, x, y = _world(13)
    weights = torch.eye(4, dtype=torch.float64)[:, [0, 3]] + 0.1
    GroupSAM(model.parameters(), torch.optim.SGD, (0.1, 0.3), weights, lr=0.1).step(lambda: (_each(model, x, y), y))
    context = mp.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_worker, args=(k, tmp_path / "meet", "global", queue)) for k in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    for one in found:
        for p, value in zip(model.parameters(), one, strict=True):
            torch.testing.assert_close(p.detach(), torch.from_numpy(value), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: GroupSAM(m.parameters(), torch.optim.SGD, [-0.1], lr=0.1), ValueError, "rho"),
        (lambda m: GroupSAM(m.parameters(), torch.optim.SGD, [0.1, 0.2], lr=0.1), ValueError, "2 radii for 1"),
        (
            lambda m: GroupSAM(m.parameters(), torch.optim.SGD, [0.1], torch.ones(3), lr=0.1),
            ValueError,
            "group_weights",
        ),
        (lambda m: GroupSAM(m.parameters(), torch.optim.SGD, [0.1], sync="all", lr=0.1), ValueError, "sync"),
        (lambda m: GroupSAM(m.parameters(), torch.optim.SGD, [0.1], lr=0.1).step(), RuntimeError, "closure"),
        (
            lambda m: GroupSAM(m.requires_grad_(False).parameters(), torch.optim.SGD, [0.1], lr=0.1).step(lambda: None),
            ValueError,
            "requires a gradient",
        ),
        (lambda m: GroupSAM(m.parameters(), torch.optim.LBFGS, [0.1], lr=0.1), ValueError, "LBFGS needs a closure"),
        (lambda m: GroupSAM(m.parameters(), torch.optim.Adadelta, [0.1], lr=0.1), ValueError, "Adadelta has a setting"),
    ],
)
def test_bad_settings_are_named(make, error, message, plain_inputs):
    with pytest.raises(error, match=message):
        make(_world()[0])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda m, x, y: (cross_entropy(m(x), y), y), "reduction='none'"),
        (lambda m, x, y: cross_entropy(m(x), y), "reduction='none'"),
        (lambda m, x, y: _each(m, x, y), "class indices"),
        (lambda m, x, y: (_each(m, x, y), y[:3]), "class indices"),
        (lambda m, x, y: (_each(m, x, y), y + 1), "from 0 to 3"),
    ],
)
def test_bad_closures_are_named_before_a_weight_moves(result, message):
    model, x, y = _world(14)
    y[0] = 3
    before = [p.detach().clone() for p in model.parameters()]
    sam = GroupSAM(model.parameters(), torch.optim.SGD, [0.1], torch.ones(4, 1), lr=0.1)
    with pytest.raises(ValueError, match=message):
        sam.step(lambda: result(model, x, y))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
