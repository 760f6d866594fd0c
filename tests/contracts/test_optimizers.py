"""What every public optimizer keeps."""

import copy
import io
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from contracts.bad_inputs import accepted
from contracts.model import Optimizer
from contracts.registry import contract, parametrized  # noqa: F401

pytestmark = pytest.mark.usefixtures("contract", "plain_inputs")

CLASSES = 3


def _world(seed=0, n=24):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.7, generator=generator)
    return model, torch.randn(n, 4, generator=generator, dtype=torch.float64), torch.arange(n) % CLASSES


def _made(entry, params, **changes):
    optimizer = entry.build(params=params, **changes)
    if hasattr(optimizer, "set_epoch"):
        optimizer.set_epoch(0)
    return optimizer


def _closure(model, x, y):
    return lambda: (cross_entropy(model(x), y, reduction="none"), y)


def _weights(model):
    return [p.detach().clone() for p in model.parameters()]


def _stepped(entry, steps=1, rows=None, **changes):
    model, x, y = _world()
    optimizer = _made(entry, model.parameters(), **changes)
    for _ in range(steps):
        optimizer.step(_closure(model, x, y) if rows is None else [_closure(model, x[r], y[r]) for r in rows])
    return model, optimizer


def _unchanged(model, before):
    return all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@parametrized(Optimizer)
def test_a_step_is_not_that_of_the_base(entry):
    model, x, y = _world()
    base = torch.optim.SGD(model.parameters(), lr=entry.settings["lr"])
    cross_entropy(model(x), y).backward()
    base.step()
    found, _ = _stepped(entry)
    assert (
        max(float((p - q).detach().abs().max()) for p, q in zip(found.parameters(), _weights(model), strict=True))
        > 1e-6
    )


@parametrized(Optimizer)
def test_a_backward_before_the_step_does_not_count(entry):
    wanted, _ = _stepped(entry, 2)
    model, x, y = _world()
    optimizer = _made(entry, model.parameters())
    for _ in range(2):
        (7 * cross_entropy(model(x), y)).backward()
        optimizer.step(_closure(model, x, y))
    assert _unchanged(model, _weights(wanted))


@pytest.mark.parametrize("clear", ["none", "zeros", "model", "not at all"])
@parametrized(Optimizer)
def test_the_closure_of_pytorch_gives_the_same_step_or_is_refused(entry, clear):
    wanted, _ = _stepped(entry, 3)
    model, x, y = _world()
    optimizer = _made(entry, model.parameters())
    before = _weights(model)

    def closure():
        if clear == "none":
            optimizer.zero_grad()
        elif clear == "zeros":
            optimizer.zero_grad(set_to_none=False)
        elif clear == "model":
            model.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    if entry.per_sample:
        with pytest.raises(ValueError, match="per sample"):
            optimizer.step(closure)
        assert _unchanged(model, before)
        return
    for _ in range(3):
        optimizer.step(closure)
    torch.testing.assert_close(_weights(model), _weights(wanted), rtol=1e-10, atol=1e-12)


@parametrized(Optimizer)
def test_gradients_that_a_closure_adds_to_are_refused(entry):
    if entry.per_sample:
        pytest.skip("refuses PyTorch's closure whatever it does")
    model, x, y = _world()
    optimizer = _made(entry, model.parameters())
    before = _weights(model)

    def closure():
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    closure()
    with pytest.raises(RuntimeError, match="accumulate"):
        optimizer.step(closure)
    assert _unchanged(model, before)

    def clearing():
        optimizer.zero_grad()
        return closure()

    closure()
    optimizer.step(clearing)
    torch.testing.assert_close(_weights(model), _weights(_stepped(entry)[0]), rtol=1e-10, atol=1e-12)


@parametrized(Optimizer)
def test_a_closure_that_calls_backward_and_returns_losses_is_refused(entry):
    model, x, y = _world()
    before = _weights(model)

    def closure():
        losses = cross_entropy(model(x), y, reduction="none")
        losses.mean().backward(retain_graph=True)
        return losses, y

    with pytest.raises(ValueError, match="backward"):
        _made(entry, model.parameters()).step(closure)
    assert _unchanged(model, before)


@parametrized(Optimizer)
def test_losses_without_a_graph_are_refused(entry):
    model, x, y = _world()
    with pytest.raises(ValueError, match="graph"):
        _made(entry, model.parameters()).step(lambda: (cross_entropy(model(x), y, reduction="none").detach(), y))


@parametrized(Optimizer)
def test_parts_of_a_batch_are_the_batch(entry):
    rows = [slice(0, 5), slice(5, 6), slice(6, 24)]
    torch.testing.assert_close(
        _weights(_stepped(entry, 2, rows)[0]), _weights(_stepped(entry, 2)[0]), rtol=1e-10, atol=1e-12
    )


@parametrized(Optimizer)
def test_accumulation_by_lightning_is_refused(entry):
    lightning = pytest.importorskip("lightning")
    model, x, y = _world()
    before = _weights(model)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            return cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return _made(entry, self.model.parameters())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=12)
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            accumulate_grad_batches=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with pytest.raises((RuntimeError, ValueError), match=r"accumulate|per sample"):
            trainer.fit(Module(), data)
    assert _unchanged(model, before)


@parametrized(Optimizer)
def test_what_the_loss_does_not_see_is_left_alone(entry):
    model, x, y = _world()
    idle, frozen = nn.Parameter(torch.ones(2, dtype=torch.float64)), nn.Parameter(torch.ones(2, dtype=torch.float64))
    frozen.requires_grad_(False)
    optimizer = _made(entry, [*model.parameters(), idle, frozen], weight_decay=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.step(_closure(model, x, y))
    for p in (idle, frozen):
        assert p.grad is None
        assert torch.equal(p.detach(), torch.ones(2, dtype=torch.float64))


@parametrized(Optimizer)
def test_what_is_frozen_after_a_step_stays(entry):
    model, optimizer = _stepped(entry)
    _, x, y = _world()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer.step(_closure(model, x, y))
    assert torch.equal(model[0].weight, before)


@parametrized(Optimizer)
def test_a_group_keeps_its_own_settings(entry):
    model, x, y = _world()
    first, last = list(model[0].parameters()), list(model[2].parameters())
    settings = _made(entry, model.parameters()).param_groups[0]
    still = [0.0, 0.0] if isinstance(settings["rho"], tuple | list) else 0.0
    optimizer = _made(entry, [{"params": first, "lr": 0.0}, {"params": last, "rho": still}])
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, entry.settings["lr"]]
    before = _weights(model)
    seen = []

    def closure():
        seen.append(_weights(model))
        return _closure(model, x, y)()

    optimizer.step(closure)
    # Perturbed passes move the first layer only, and the step the last one only.
    assert all(torch.equal(a, b) for each in seen for a, b in zip(each[2:], before[2:], strict=True))
    assert any(not torch.equal(each[0], before[0]) for each in seen)
    assert _unchanged(model[0], before[:2])
    assert not torch.equal(model[2].weight, before[2])


@parametrized(Optimizer)
def test_a_bad_rho_of_a_group_is_refused(entry):
    model, _, _ = _world()
    with pytest.raises(ValueError, match="rho"):
        _made(entry, [{"params": list(model.parameters()), "rho": -0.1}])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("when", ["clean", "perturbed"])
@parametrized(Optimizer)
def test_what_is_not_finite_is_never_applied(entry, bad, when):
    for skip in (False, True):
        model, x, y = _world()
        optimizer = _made(entry, model.parameters(), momentum=0.9, skip_nonfinite=skip)
        optimizer.step(_closure(model, x, y))
        before, state = _weights(model), copy.deepcopy(optimizer.state_dict())
        calls = []

        def closure(model=model, x=x, y=y, calls=calls):
            calls.append(0)
            losses = cross_entropy(model(x), y, reduction="none")
            return (losses * bad if len(calls) == 1 + (when == "perturbed") else losses), y

        if skip:
            with pytest.warns(UserWarning, match="left out"):
                optimizer.step(closure)
        else:
            with pytest.raises(FloatingPointError, match="nothing was changed"):
                optimizer.step(closure)
        assert _unchanged(model, before)
        torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("when", ["clean", "perturbed"])
@parametrized(Optimizer)
def test_what_is_not_finite_is_not_applied_by_the_closure_of_pytorch_either(entry, when):
    if entry.per_sample:
        pytest.skip("refuses PyTorch's closure")
    model, x, y = _world()
    optimizer = _made(entry, model.parameters())
    before, calls = _weights(model), []

    def closure():
        calls.append(0)
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y) * (math.nan if len(calls) == 1 + (when == "perturbed") else 1)
        loss.backward()
        return loss

    with pytest.raises(FloatingPointError):
        optimizer.step(closure)
    assert _unchanged(model, before)


def _twins(entry, model, optimizer):
    yield copy.deepcopy((model, optimizer))
    yield pickle.loads(pickle.dumps((model, optimizer)))
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], buffer)
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)
    other, _, _ = _world(1)
    other.load_state_dict(weights)
    resumed = _made(entry, other.parameters(), momentum=0.9)
    resumed.load_state_dict(state)
    yield other, resumed


@parametrized(Optimizer)
def test_a_copy_a_pickle_and_a_resumed_run_go_on_alike(entry):
    model, optimizer = _stepped(entry, 2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    _, x, y = _world()
    optimizer.step(_closure(model, x, y))
    schedule.step()
    if hasattr(optimizer, "set_epoch"):
        optimizer.set_epoch(3)
    twins = list(_twins(entry, model, optimizer))
    for _ in range(2):
        optimizer.step(_closure(model, x, y))
    for other, twin in twins:
        assert twin.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        for _ in range(2):
            twin.step(_closure(other, x, y))
        assert _unchanged(other, _weights(model))
        assert twin.base.param_groups is twin.param_groups


@parametrized(Optimizer)
def test_global_state_is_left_alone(entry):
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    model, x, y = _world()
    optimizer = _made(entry, model.parameters())
    after = torch.random.get_rng_state()
    optimizer.step(_closure(model, x, y))
    assert torch.random.get_rng_state().equal(after)
    assert torch.get_default_dtype() is dtype
    assert torch.is_grad_enabled()
    assert not nn.modules.module._global_forward_pre_hooks
    torch.random.set_rng_state(state)


@parametrized(Optimizer)
def test_perturbed_passes_leave_batch_norm_alone_and_may_share_dropout(entry):
    x, y = _world()[1:]

    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, CLASSES)).double()

    once, model, masks = net(), net(), []
    torch.manual_seed(1)
    once(x)
    model[2].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    optimizer = _made(entry, model.parameters(), same_dropout=True)
    torch.manual_seed(1)
    optimizer.step(_closure(model, x, y))
    for found, wanted in zip(model.buffers(), once.buffers(), strict=True):
        assert torch.equal(found, wanted)
    assert len(masks) > 1
    assert all(torch.equal(mask, masks[0]) for mask in masks)


@parametrized(Optimizer)
def test_the_integer_type_of_a_target_does_not_matter(entry):
    wanted, _ = _stepped(entry)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        model, x, y = _world()
        _made(entry, model.parameters()).step(
            lambda model=model, x=x, y=y, dtype=dtype: (cross_entropy(model(x), y, reduction="none"), y.to(dtype))
        )
        assert _unchanged(model, _weights(wanted))


@parametrized(Optimizer)
def test_bad_settings_are_refused_by_name(entry):
    numbers = {name: value for name, value in entry.settings.items() if name not in ("base_optimizer", "lr")}
    params = [nn.Parameter(torch.ones(2))]
    wrong = accepted(entry.object.__init__, numbers, lambda bad: entry.build(params=params, **bad))
    assert not wrong, "\n".join(wrong)


@parametrized(Optimizer)
def test_a_step_without_a_closure_is_refused(entry):
    with pytest.raises(RuntimeError, match="closure"):
        _made(entry, [nn.Parameter(torch.ones(2))]).step()
