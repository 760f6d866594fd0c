"""What every public loss keeps."""

import copy
import importlib
import inspect
import io
import pickle
import warnings

import pytest
import torch

from contracts.bad_inputs import accepted
from contracts.model import Loss, as_numpy, in_other_types
from contracts.registry import contract, parametrized  # noqa: F401

pytestmark = pytest.mark.usefixtures("contract", "plain_inputs")
_SINGLE = torch.float32


def _floats(batch):
    return [name for name, value in batch.items() if isinstance(value, torch.Tensor) and value.is_floating_point()]


def _to(batch, dtype):
    return {name: value.to(dtype) if name in _floats(batch) else value for name, value in batch.items()}


def _leaves(batch):
    """The batch with gradients asked for its first floating tensor, which is what a model gives."""
    name = _floats(batch)[0]
    return {**batch, name: batch[name].clone().requires_grad_()}, name


def _value(entry, batch, **changes):
    torch.manual_seed(0)
    return entry.build(**changes)(**batch)


@parametrized(Loss)
def test_a_batch_gives_a_finite_scalar_with_finite_gradients(entry):
    batch, name = _leaves(entry.batch())
    loss = entry.build()(**batch)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    loss.backward()
    assert torch.isfinite(batch[name].grad).all()
    assert batch[name].grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@parametrized(Loss)
def test_half_precision_is_computed_and_returned_in_float32(entry, dtype):
    half, name = _leaves(_to(entry.batch(), dtype))
    loss = _value(entry, half)
    torch.testing.assert_close(loss, _value(entry, _to(half, torch.float32)))
    assert loss.dtype is torch.float32
    loss.backward()
    assert half[name].grad.dtype is dtype
    assert torch.isfinite(half[name].grad).all()


@parametrized(Loss)
def test_a_loss_under_autocast_is_float32(entry):
    batch, name = _leaves(entry.batch())
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # A model's last layer runs in half precision there.
        loss = entry.build()(**{**batch, name: batch[name].to(torch.bfloat16)})
    assert loss.dtype is torch.float32
    assert torch.isfinite(loss)


@parametrized(Loss)
def test_autocast_does_not_round_what_is_given_in_float32(entry):
    batch = entry.batch()
    wanted = _value(entry, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _value(entry, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@parametrized(Loss)
def test_extreme_logits_in_half_precision_have_the_value_that_they_have_in_float64(entry, dtype):
    batch = entry.batch()
    name = _floats(batch)[0]
    sizes = 0.5 + 0.5 * torch.rand(batch[name].shape, generator=torch.Generator().manual_seed(1))
    half = _to({**batch, name: 300 * batch[name].sign() * sizes}, dtype)
    torch.manual_seed(0)
    wanted = entry.build().double()(**_to(half, torch.float64))
    half[name].requires_grad_()
    found = _value(entry, half)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    found.backward()
    assert torch.isfinite(half[name].grad).all()


@parametrized(Loss)
def test_the_default_grad_scaler_takes_its_step(entry):
    batch, name = _leaves(entry.batch())
    weight = torch.nn.Parameter(batch[name].detach().clone())
    _value(entry, batch).backward()
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD([weight], lr=1.0)
    # A sum, or a steep loss, may overflow at the first scale of 65536, which is then halved.
    for _ in range(8):
        optimizer.zero_grad()
        before = weight.detach().clone()
        with torch.autocast("cpu", dtype=torch.float16):
            # What a layer does there: its output is in half precision.
            loss = _value(entry, {**batch, name: weight.to(torch.float16)})
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if not weight.equal(before):
            break
    wanted = batch[name].grad
    torch.testing.assert_close(before - weight.detach(), wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))


@parametrized(Loss)
def test_nothing_is_rounded_to_float32_on_the_way_of_float64(entry, monkeypatch):
    batch = _to(entry.batch(), torch.float64)
    torch.manual_seed(0)
    found = entry.build().double()(**batch)
    # Whatever asks for float32, by default or by name, now gets float64.
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        wanted = entry.build().double()(**batch)
    finally:
        torch.set_default_dtype(_SINGLE)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@parametrized(Loss)
def test_float64_is_kept_and_gradients_are_those_of_the_value(entry):
    batch = _to(entry.batch(9), torch.float64)
    names = _floats(batch)[:1]
    loss = entry.build().double()

    def function(*values):
        torch.manual_seed(0)
        return copy.deepcopy(loss)(**{**batch, **dict(zip(names, values, strict=True))})

    leaves = [batch[name].clone().requires_grad_() for name in names]
    assert function(*leaves).dtype is torch.float64
    assert torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-6, rtol=1e-5)


@parametrized(Loss)
def test_extreme_scores_are_finite(entry):
    batch = entry.batch()
    name = _floats(batch)[0]
    for sign in (1, -1):
        extreme = {**batch, name: (1e4 * sign * batch[name].sign()).requires_grad_()}
        loss = entry.build()(**extreme)
        assert torch.isfinite(loss)
        loss.backward()
        assert torch.isfinite(extreme[name].grad).all()


@parametrized(Loss)
def test_equal_scores_are_finite_and_the_same_each_time(entry):
    batch = entry.batch()
    name = _floats(batch)[0]
    tied = {**batch, name: torch.zeros_like(batch[name]).requires_grad_()}
    first, second = _value(entry, tied), _value(entry, tied)
    assert torch.isfinite(first)
    assert first.equal(second)
    first.backward()
    assert torch.isfinite(tied[name].grad).all()


@parametrized(Loss)
def test_a_batch_without_a_meaning_gives_an_attached_zero_and_one_warning(entry):
    if entry.undefined is None:
        pytest.skip("defined on every batch")
    loss = entry.build()
    for dtype in (torch.float32, torch.float16):
        batch, name = _leaves(_to(entry.undefined(torch.Generator().manual_seed(0), 12), dtype))
        batch[name] = (300 * batch[name]).detach().requires_grad_()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            value = loss(**batch)
        assert len(seen) == (dtype is torch.float32)
        assert float(value.detach()) == 0
        value.backward()
        assert batch[name].grad.abs().sum() == 0


@parametrized(Loss)
def test_one_sample_is_no_accident(entry):
    batch, name = _leaves(entry.batch(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = entry.build()(**batch)
    assert torch.isfinite(loss)
    loss.backward()
    assert torch.isfinite(batch[name].grad).all()


@parametrized(Loss)
def test_the_type_of_a_target_does_not_matter(entry):
    batch = entry.batch()
    wanted = _value(entry, batch)
    others = list(in_other_types(batch))
    assert others
    for other in others:
        torch.testing.assert_close(_value(entry, other), wanted)


@parametrized(Loss)
def test_the_layout_in_memory_does_not_matter(entry):
    batch = entry.batch()
    wanted = _value(entry, batch)
    strided = {
        name: torch.stack([value, value], -1)[..., 0] if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
    assert not any(isinstance(v, torch.Tensor) and v.ndim and v.is_contiguous() for v in strided.values())
    torch.testing.assert_close(_value(entry, strided), wanted)


@parametrized(Loss)
def test_the_order_of_samples_does_not_matter(entry):
    batch = entry.batch()
    n = max(len(value) for value in batch.values() if isinstance(value, torch.Tensor))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    moved = {
        name: value[order] if isinstance(value, torch.Tensor) and value.ndim and len(value) == n else value
        for name, value in batch.items()
    }
    torch.testing.assert_close(_value(entry, moved), _value(entry, batch))


@parametrized(Loss)
def test_a_weight_of_two_is_a_sample_given_twice(entry):
    if "sample_weight" not in inspect.signature(entry.object.forward).parameters:
        pytest.skip("takes no weights of samples")
    batch = {name: value for name, value in entry.batch(24).items() if name != "sample_weight"}
    times = (torch.arange(24) % 5 + 1) // 2
    given = {name: value.repeat_interleave(times, 0) for name, value in batch.items()}
    torch.testing.assert_close(
        _value(entry, {**batch, "sample_weight": times.to(batch[_floats(batch)[0]].dtype)}), _value(entry, given)
    )


@parametrized(Loss)
def test_the_module_is_its_functional_form(entry):
    if entry.functional is None:
        pytest.skip("there is no functional form")
    module, _, name = entry.functional.rpartition(".")
    function = getattr(importlib.import_module(module), name)
    torch.testing.assert_close(function(**entry.batch(), **entry.settings), _value(entry, entry.batch()))


@parametrized(Loss)
def test_a_copy_a_pickle_and_a_loaded_state_go_on_alike(entry):
    loss, batch = entry.build(), entry.batch()
    torch.manual_seed(0)
    loss(**batch)
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    buffer.seek(0)
    loaded = entry.build()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    twins = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), loaded]
    torch.manual_seed(0)
    wanted = loss(**entry.batch(seed=1))
    for twin in twins:
        torch.manual_seed(0)
        torch.testing.assert_close(twin(**entry.batch(seed=1)), wanted, rtol=0, atol=0)


@parametrized(Loss)
def test_numpy_numbers_and_arrays_are_settings(entry):
    built = entry.build(**as_numpy(entry.settings))
    torch.manual_seed(0)
    torch.testing.assert_close(built(**entry.batch()), _value(entry, entry.batch()))
    assert repr(built) == repr(entry.build())


@parametrized(Loss)
def test_bad_settings_are_refused_by_name(entry):
    wrong = accepted(entry.object.__init__, {**entry.settings}, lambda bad: entry.build(**bad))
    assert not wrong, "\n".join(wrong)


@parametrized(Loss)
def test_bad_batches_are_refused_by_name(entry):
    batch = entry.batch()
    loss = entry.build()
    wrong = accepted(entry.object.forward, batch, lambda bad: loss(**{**batch, **bad}))
    assert not wrong, "\n".join(wrong)


@parametrized(Loss)
def test_tensors_and_global_state_are_left_alone(entry):
    batch, _ = _leaves(entry.batch())
    kept = {name: value.detach().clone() for name, value in batch.items() if isinstance(value, torch.Tensor)}
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    loss = entry.build()
    value = loss(**batch)
    value.backward()
    assert all(batch[name].equal(value) for name, value in kept.items())
    if "generator" not in batch:
        assert torch.random.get_rng_state().equal(state)
    assert torch.get_default_dtype() is dtype
