"""Every public function and metric refuses bad input by the name of the argument, in a sentence."""

import pytest
import torch

from contracts.bad_inputs import accepted
from contracts.model import Function
from contracts.registry import contract, parametrized  # noqa: F401

pytestmark = pytest.mark.usefixtures("contract", "plain_inputs")


@parametrized(Function)
def test_a_good_call_is_answered(entry):
    assert entry.object(**entry.settings, **entry.batch()) is not None


@parametrized(Function)
def test_bad_arguments_are_refused_by_name(entry):
    good = {**entry.settings, **entry.batch()}
    wrong = accepted(entry.object, good, lambda bad: entry.object(**{**good, **bad}))
    assert not wrong, "\n".join(wrong)


@parametrized(Function)
def test_autocast_changes_nothing(entry):
    good = {**entry.settings, **entry.batch()}
    torch.manual_seed(0)
    wanted = entry.object(**good)
    if not isinstance(wanted, torch.Tensor | dict | tuple):
        pytest.skip("it gives no tensors")
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = entry.object(**good)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7, equal_nan=True)


@parametrized(Function)
def test_arguments_are_left_alone(entry):
    good = {**entry.settings, **entry.batch()}
    kept = {name: value.clone() for name, value in good.items() if isinstance(value, torch.Tensor)}
    entry.object(**good)
    assert all(good[name].equal(value) for name, value in kept.items())
