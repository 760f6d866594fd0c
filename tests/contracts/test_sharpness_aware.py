"""What every sharpness-aware optimizer keeps."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from contracts.model import Optimizer
from contracts.registry import contract, parametrized  # noqa: F401
from contracts.steps import CLASSES, losses, made, stepped, unchanged, weights, world

pytestmark = pytest.mark.usefixtures("contract", "plain_inputs")


@parametrized(Optimizer)
def test_a_step_is_not_that_of_the_base(entry):
    model, x, y = world()
    base = torch.optim.SGD(model.parameters(), lr=entry.settings["lr"])
    cross_entropy(model(x), y).backward()
    base.step()
    found, _ = stepped(entry)
    assert (
        max(float((p - q).detach().abs().max()) for p, q in zip(found.parameters(), weights(model), strict=True)) > 1e-6
    )


@parametrized(Optimizer)
def test_a_closure_that_calls_backward_and_returns_losses_is_refused(entry):
    model, x, y = world()
    before = weights(model)

    def closure():
        losses = cross_entropy(model(x), y, reduction="none")
        losses.mean().backward(retain_graph=True)
        return losses, y

    with pytest.raises(ValueError, match="backward"):
        made(entry, model).step(closure)
    assert unchanged(model, before)


@parametrized(Optimizer)
def test_losses_without_a_graph_are_refused(entry):
    model, x, y = world()
    with pytest.raises(ValueError, match="graph"):
        made(entry, model).step(lambda: (cross_entropy(model(x), y, reduction="none").detach(), y))


@parametrized(Optimizer)
def test_parts_of_a_batch_are_the_batch(entry):
    rows = [slice(0, 5), slice(5, 6), slice(6, 24)]
    torch.testing.assert_close(
        weights(stepped(entry, 2, rows)[0]), weights(stepped(entry, 2)[0]), rtol=1e-10, atol=1e-12
    )


@parametrized(Optimizer)
def test_a_group_keeps_its_own_settings(entry):
    model, x, y = world()
    first, last = list(model[0].parameters()), list(model[2].parameters())
    settings = made(entry, model).param_groups[0]
    still = [0.0, 0.0] if isinstance(settings["rho"], tuple | list) else 0.0
    optimizer = made(entry, model, params=[{"params": first, "lr": 0.0}, {"params": last, "rho": still}])
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, entry.settings["lr"]]
    before = weights(model)
    seen = []

    def closure():
        seen.append(weights(model))
        return losses(model, x, y)()

    optimizer.step(closure)
    # Perturbed passes move the first layer only, and the step the last one only.
    assert all(torch.equal(a, b) for each in seen for a, b in zip(each[2:], before[2:], strict=True))
    assert any(not torch.equal(each[0], before[0]) for each in seen)
    assert unchanged(model[0], before[:2])
    assert not torch.equal(model[2].weight, before[2])


@parametrized(Optimizer)
def test_a_bad_rho_of_a_group_is_refused(entry):
    model, _, _ = world()
    with pytest.raises(ValueError, match="rho"):
        made(entry, model, params=[{"params": list(model.parameters()), "rho": -0.1}])


@parametrized(Optimizer)
def test_perturbed_passes_leave_batch_norm_alone_and_may_share_dropout(entry):
    x, y = world()[1:]

    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, CLASSES)).double()

    once, model, masks = net(), net(), []
    torch.manual_seed(1)
    once(x)
    model[2].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    optimizer = made(entry, model, same_dropout=True)
    torch.manual_seed(1)
    optimizer.step(losses(model, x, y))
    for found, wanted in zip(model.buffers(), once.buffers(), strict=True):
        assert torch.equal(found, wanted)
    assert len(masks) > 1
    assert all(torch.equal(mask, masks[0]) for mask in masks)


@parametrized(Optimizer)
def test_the_integer_type_of_a_target_does_not_matter(entry):
    wanted, _ = stepped(entry)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        model, x, y = world()
        made(entry, model).step(
            lambda model=model, x=x, y=y, dtype=dtype: (cross_entropy(model(x), y, reduction="none"), y.to(dtype))
        )
        assert unchanged(model, weights(wanted))


@parametrized(Optimizer)
def test_a_step_without_a_closure_is_refused(entry):
    with pytest.raises(RuntimeError, match="closure"):
        made(entry, nn.Linear(1, 2)).step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@parametrized(Optimizer)
def test_a_scaler_of_half_precision_changes_no_step_and_skips_what_overflows(entry, dtype):
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=256.0)):
        model, x, y = world(norm=True)
        optimizer = made(entry, model.float())

        def half(model=model, x=x, y=y):
            with torch.autocast("cpu", dtype):
                return cross_entropy(model(x.float()), y, reduction="none"), y

        for _ in range(3):
            optimizer.step(half, scaler=scaler)
        found.append(weights(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-3)
    # Beyond what float32 holds, as half precision meets at smaller scales.
    huge = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    optimizer.step(lambda: (1e3 * half()[0], y), scaler=huge)
    assert unchanged(model, found[1])
    assert huge.get_scale() == 2.0**125


@parametrized(Optimizer)
def test_to_maximise_the_negative_is_to_minimise(entry):
    wanted, _ = stepped(entry, 2)
    model, x, y = world()
    optimizer = made(entry, model, maximize=True)
    for _ in range(2):
        optimizer.step(lambda: (-cross_entropy(model(x), y, reduction="none"), y))
    assert unchanged(model, weights(wanted))


@pytest.mark.parametrize("factor", [1e-25, 1e25])
@parametrized(Optimizer)
def test_the_perturbation_does_not_depend_on_the_scale_of_the_loss(entry, factor):
    seen = []
    for scale in (1.0, factor):
        model, x, y = world()
        optimizer = made(entry, model.float(), lr=0.0)
        places = []

        def closure(model=model, x=x, y=y, scale=scale, places=places):
            places.append(weights(model))
            return scale * cross_entropy(model(x.float()), y, reduction="none"), y

        optimizer.step(closure)
        seen.append(places)
    torch.testing.assert_close(seen[0], seen[1])
