"""Every public function and metric refuses bad input by the name of the argument, in a sentence."""

from collections.abc import Mapping

import pytest
import torch

from contracts.bad_inputs import accepted
from contracts.model import Function, as_numpy, in_other_types
from contracts.registry import contract, parametrized  # noqa: F401

pytestmark = pytest.mark.usefixtures("contract", "plain_inputs")


def _called(entry, **changes):
    torch.manual_seed(0)
    return entry.object(**{**entry.settings, **entry.batch(), **changes})


def _same(found, wanted):
    """Equal where values can be compared; of an object that was made, its kind."""
    assert type(found) is type(wanted)
    if isinstance(wanted, torch.Tensor | Mapping | tuple | float | int):
        torch.testing.assert_close(found, wanted, equal_nan=True)


@parametrized(Function)
def test_a_good_call_is_answered(entry):
    assert entry.object(**entry.settings, **entry.batch()) is not None


@parametrized(Function)
def test_the_type_of_a_target_does_not_matter(entry):
    wanted = _called(entry)
    for other in in_other_types(entry.batch()):
        _same(_called(entry, **other), wanted)


@parametrized(Function)
def test_numpy_numbers_and_arrays_are_settings(entry):
    _same(_called(entry, **as_numpy(entry.settings)), _called(entry))


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
