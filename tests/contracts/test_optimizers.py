"""What every public optimizer keeps, whichever closure it wants."""

import copy
import io
import math
import pickle
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from contracts.bad_inputs import accepted
from contracts.model import Optimizer, Solver
from contracts.registry import contract, parametrized  # noqa: F401
from contracts.steps import closure, made, same, stepped, unchanged, weights, whole, world

pytestmark = pytest.mark.usefixtures("contract", "plain_inputs")


@parametrized(Optimizer, Solver)
def test_a_backward_before_the_step_does_not_count(entry):
    wanted, _ = stepped(entry, 2)
    model, x, y = world()
    optimizer = made(entry, model)
    for _ in range(2):
        (7 * cross_entropy(model(x), y)).backward()
        optimizer.step(closure(entry, optimizer, model, x, y))
    assert unchanged(model, weights(wanted))


@pytest.mark.parametrize("clear", ["none", "zeros", "model", "not at all"])
@parametrized(Optimizer, Solver)
def test_the_closure_of_pytorch_gives_the_same_step_or_is_refused(entry, clear):
    if clear == "not at all" and entry.passes == 1:
        pytest.skip("takes one pass, and adds up gradients as PyTorch's own do")
    wanted, _ = stepped(entry, 3)
    model, x, y = world()
    optimizer = made(entry, model)
    before = weights(model)
    plain = whole(
        {
            "none": optimizer.zero_grad,
            "zeros": lambda: optimizer.zero_grad(set_to_none=False),
            "model": model.zero_grad,
            "not at all": lambda: None,
        }[clear],
        model,
        x,
        y,
    )
    if getattr(entry, "per_sample", False):
        with pytest.raises(ValueError, match="per sample"):
            optimizer.step(plain)
        assert unchanged(model, before)
        return
    for _ in range(3):
        optimizer.step(plain)
    torch.testing.assert_close(weights(model), weights(wanted), rtol=1e-10, atol=1e-12)


@parametrized(Optimizer, Solver)
def test_gradients_that_a_closure_adds_to_are_refused(entry):
    if getattr(entry, "per_sample", False):
        pytest.skip("refuses PyTorch's closure whatever it does")
    model, x, y = world()
    optimizer = made(entry, model)
    before = weights(model)
    adding = whole(lambda: None, model, x, y)
    adding()
    with pytest.raises(RuntimeError, match="accumulate"):
        optimizer.step(adding)
    assert unchanged(model, before)
    adding()
    optimizer.step(whole(optimizer.zero_grad, model, x, y))
    torch.testing.assert_close(weights(model), weights(stepped(entry)[0]), rtol=1e-10, atol=1e-12)


@parametrized(Optimizer, Solver)
def test_parts_of_a_batch_in_one_closure_are_the_batch(entry):
    if getattr(entry, "per_sample", False):
        pytest.skip("refuses PyTorch's closure; takes a list of its own")
    model, x, y = world()
    optimizer = made(entry, model)

    def parts():
        optimizer.zero_grad()
        total = 0
        for rows in (slice(0, 5), slice(5, 6), slice(6, 24)):
            loss = cross_entropy(model(x[rows]), y[rows], reduction="sum") / len(y)
            loss.backward()
            total = total + loss.detach()
        return total

    for _ in range(2):
        optimizer.step(parts)
    torch.testing.assert_close(weights(model), weights(stepped(entry, 2)[0]), rtol=1e-10, atol=1e-12)


class _Trainer:
    """Lightning's automatic loop over two batches of twelve."""

    def __init__(self, entry, skipped=(), **options):
        lightning = pytest.importorskip("lightning")
        model, x, y = world()
        self.model, self.before, batches = model, weights(model), []

        class Module(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.model = model

            def training_step(self, batch, index):
                batches.append(index)
                return None if len(batches) in skipped else cross_entropy(self.model(batch[0]), batch[1])

            def configure_optimizers(self):
                return made(entry, self.model)

        settings = {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        data = torch.utils.data.TensorDataset(x, y)
        self.module, self.loader = Module(), torch.utils.data.DataLoader(data, batch_size=12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer = lightning.Trainer(**settings, **options)

    def fit(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer.fit(self.module, self.loader)


@parametrized(Optimizer, Solver)
def test_accumulation_by_lightning_is_refused(entry):
    trainer = _Trainer(entry, accumulate_grad_batches=2)
    with pytest.raises((RuntimeError, ValueError), match=r"accumulate|per sample"):
        trainer.fit()
    assert unchanged(trainer.model, trainer.before)


@pytest.mark.parametrize("skipped", [1, 2])
@parametrized(Optimizer, Solver)
def test_a_batch_that_lightning_skips_is_left_out(entry, skipped):
    if getattr(entry, "per_sample", False) or skipped > entry.passes:
        pytest.skip("refuses Lightning's closure, or takes one pass")
    trainer = _Trainer(entry, skipped=(skipped,))
    trainer.fit()
    model, x, y = world()
    optimizer = made(entry, model)
    optimizer.step(closure(entry, optimizer, model, x[12:], y[12:]))
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-10, atol=1e-12)


@parametrized(Optimizer, Solver)
def test_what_the_loss_does_not_see_is_left_alone(entry):
    model, x, y = world()
    model[1].idle = nn.Parameter(torch.ones(2, dtype=torch.float64))
    model[1].frozen = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)
    optimizer = made(entry, model, weight_decay=0.1)
    for _ in range(3):
        optimizer.step(closure(entry, optimizer, model, x, y))
    for p in (model[1].idle, model[1].frozen):
        assert p.grad is None
        assert torch.equal(p.detach(), torch.ones(2, dtype=torch.float64))


@parametrized(Optimizer, Solver)
def test_what_is_frozen_after_a_step_stays(entry):
    model, optimizer = stepped(entry)
    _, x, y = world()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer.step(closure(entry, optimizer, model, x, y))
    assert torch.equal(model[0].weight, before)


def _spoiled(optimizer, plain, call, bad):
    """A closure whose call of that number has a loss that is not finite, before its backward."""
    calls = []

    def spoiled():
        calls.append(0)
        if len(calls) != call:
            return plain()
        found = plain()
        if isinstance(found, tuple):
            return found[0] * bad, found[1]
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            p.grad *= bad
        return found * bad

    return spoiled


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("skip", [False, True])
@parametrized(Optimizer, Solver)
def test_what_is_not_finite_is_never_applied(entry, bad, call, skip):
    if call > entry.passes:
        pytest.skip("takes one pass")
    model, x, y = world(norm=True)
    optimizer = made(entry, model, skip_nonfinite=skip)
    plain = closure(entry, optimizer, model, x, y)
    optimizer.step(plain)
    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    step = _spoiled(optimizer, plain, call, bad)
    if skip:
        with pytest.warns(UserWarning, match="left out"):
            optimizer.step(step)
    else:
        with pytest.raises(FloatingPointError, match="nothing was changed"):
            optimizer.step(step)
    assert unchanged(model, before)
    assert same(optimizer.state_dict(), state)


@pytest.mark.parametrize("call", [1, 2])
@parametrized(Optimizer, Solver)
def test_a_closure_that_raises_changes_nothing(entry, call):
    if call > entry.passes:
        pytest.skip("takes one pass")
    model, x, y = world(norm=True)
    optimizer = made(entry, model)
    plain = closure(entry, optimizer, model, x, y)
    optimizer.step(plain)
    before, state, calls = weights(model), copy.deepcopy(optimizer.state_dict()), []

    def broken():
        found = plain()
        calls.append(0)
        if len(calls) == call:
            raise KeyError("lost")
        return found

    with pytest.raises(KeyError, match="lost"):
        optimizer.step(broken)
    assert unchanged(model, before)
    assert same(optimizer.state_dict(), state)


def _twins(entry, model, optimizer):
    yield copy.deepcopy((model, optimizer))
    yield pickle.loads(pickle.dumps((model, optimizer)))
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], buffer)
    buffer.seek(0)
    saved, state = torch.load(buffer, weights_only=True)
    other, _, _ = world(1)
    other.load_state_dict(saved)
    resumed = made(entry, other)
    resumed.load_state_dict(state)
    yield other, resumed


@parametrized(Optimizer, Solver)
def test_a_copy_a_pickle_and_a_resumed_run_go_on_alike(entry):
    model, optimizer = stepped(entry, 2)
    schedule = lr_scheduler.StepLR(optimizer, 1, 0.5)
    _, x, y = world()
    optimizer.step(closure(entry, optimizer, model, x, y))
    schedule.step()
    if hasattr(optimizer, "set_epoch"):
        optimizer.set_epoch(3)
    twins = list(_twins(entry, model, optimizer))
    for _ in range(2):
        optimizer.step(closure(entry, optimizer, model, x, y))
    for other, twin in twins:
        assert twin.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        for _ in range(2):
            twin.step(closure(entry, twin, other, x, y))
        assert unchanged(other, weights(model))


SCHEDULES = {
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=9, cycle_momentum="momentum" in o.defaults),
    "warm-up, cosine": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(o, 5)], [2]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "averaging": lambda o: SWALR(o, 0.05, anneal_epochs=2),
}


@pytest.mark.parametrize("name", SCHEDULES)
@parametrized(Optimizer, Solver)
def test_schedules_set_the_step_size(entry, name):
    (model, x, y), (other, _, _) = world(), world()
    scheduled, by_hand = made(entry, model), made(entry, other)
    plain = torch.optim.SGD([torch.zeros(1)], lr=entry.settings["lr"], momentum=0.9)
    if "momentum" not in scheduled.defaults:
        plain.defaults.pop("momentum")
    schedules = [SCHEDULES[name](optimizer) for optimizer in (scheduled, plain)]
    followed = ("lr", "momentum") if name == "one cycle" else ("lr",)
    for _ in range(5):
        for group in by_hand.param_groups:
            group.update({key: plain.param_groups[0][key] for key in followed if key in group})
        for optimizer, m in ((scheduled, model), (by_hand, other)):
            optimizer.step(closure(entry, optimizer, m, x, y))
        plain.step()
        for schedule in schedules:
            schedule.step(*([1.0] if name == "plateau" else []))
    assert plain.param_groups[0]["lr"] != entry.settings["lr"]
    assert unchanged(model, weights(other))


@parametrized(Optimizer, Solver)
def test_averaged_weights_are_the_mean_of_the_steps(entry):
    model, x, y = world(norm=True)
    optimizer, averaged, steps = made(entry, model), AveragedModel(model), []
    for _ in range(3):
        optimizer.step(closure(entry, optimizer, model, x, y))
        averaged.update_parameters(model)
        steps.append([p.detach().clone() for p in model.parameters()])
    for p, *each in zip(averaged.module.parameters(), *steps, strict=True):
        torch.testing.assert_close(p.detach(), sum(each) / 3)
    update_bn([x], averaged)
    assert not unchanged(averaged.module[1], weights(model[1]))


@parametrized(Optimizer, Solver)
def test_half_precision_around_the_step_is_that_inside_its_closure(entry):
    found = []
    for outside in (False, True):
        model, x, y = world()
        model.float()
        optimizer = made(entry, model)

        def half(x, model=model):
            with torch.autocast("cpu", torch.bfloat16):
                return model(x).float()

        step = closure(entry, optimizer, model if outside else half, x.float(), y)
        # Not a context that is disabled: what it holds is kept, too.
        with torch.autocast("cpu", torch.bfloat16) if outside else nullcontext():
            for _ in range(2):
                optimizer.step(step)
        found.append(weights(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@parametrized(Optimizer, Solver)
def test_global_state_is_left_alone(entry):
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    model, x, y = world()
    optimizer = made(entry, model)
    after = torch.random.get_rng_state()
    with torch.no_grad():
        optimizer.step(closure(entry, optimizer, model, x, y))
        assert not torch.is_grad_enabled()
    assert torch.random.get_rng_state().equal(after)
    assert torch.get_default_dtype() is dtype
    assert torch.is_grad_enabled()
    assert not nn.modules.module._global_forward_pre_hooks
    torch.random.set_rng_state(state)


@parametrized(Optimizer, Solver)
def test_bad_settings_are_refused_by_name(entry):
    numbers = {name: value for name, value in entry.settings.items() if name not in ("base_optimizer", "lr")}
    wrong = accepted(entry.object.__init__, numbers, lambda bad: made(entry, nn.Linear(1, 2), **bad))
    assert not wrong, "\n".join(wrong)
