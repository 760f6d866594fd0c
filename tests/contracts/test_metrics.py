"""What every public metric keeps."""

import copy
import importlib
import inspect
import pickle
import warnings

import pytest
import torch

from contracts.bad_inputs import accepted
from contracts.model import Measure, as_numpy, in_other_types
from contracts.registry import contract, parametrized  # noqa: F401
from equipoise.core.metrics import SampleMetric, WholeMetric

pytestmark = pytest.mark.usefixtures("contract", "plain_inputs")


def _cut(batch, rows):
    n = max(len(value) for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim)
    return {
        name: value[rows] if isinstance(value, torch.Tensor) and value.ndim and len(value) == n else value
        for name, value in batch.items()
    }


def _computed(metric, *batches):
    for batch in batches:
        metric.update(**batch)
    return metric.compute()


def _same(found, wanted, **closeness):
    torch.testing.assert_close(found, wanted, equal_nan=True, **closeness)


@parametrized(Measure)
def test_batches_count_as_one(entry):
    batch = entry.batch(24)
    _same(
        _computed(entry.build(), _cut(batch, slice(0, 7)), _cut(batch, slice(7, None))), _computed(entry.build(), batch)
    )


@parametrized(Measure)
def test_the_metric_is_its_functional_form(entry):
    if entry.functional is None:
        pytest.skip("there is no functional form")
    module, _, name = entry.functional.rpartition(".")
    function = getattr(importlib.import_module(module), name)
    _same(_computed(entry.build(), entry.batch()), function(**entry.batch(), **entry.settings))


@parametrized(Measure)
def test_forward_gives_the_batch_and_adds_it(entry):
    batch, more = entry.batch(24), entry.batch(24, seed=1)
    metric = entry.build()
    metric.update(**batch)
    _same(metric(**more), _computed(entry.build(), more))
    _same(metric.compute(), _computed(entry.build(), batch, more))


@parametrized(Measure)
def test_states_are_merged(entry):
    batch, more = entry.batch(24), entry.batch(24, seed=1)
    one, other = entry.build(), entry.build()
    one.update(**batch)
    other.update(**more)
    one.merge_state(other)
    _same(one.compute(), _computed(entry.build(), batch, more))


@parametrized(Measure)
def test_a_reset_forgets(entry):
    metric = entry.build()
    _computed(metric, entry.batch(24))
    metric.reset()
    _same(_computed(metric, entry.batch(24, seed=1)), _computed(entry.build(), entry.batch(24, seed=1)))


@parametrized(Measure)
def test_a_refused_update_leaves_the_state_unchanged(entry):
    batch = entry.batch(24)
    metric = entry.build()
    metric.update(**batch)
    before = copy.deepcopy(metric.metric_state)
    wrong = accepted(entry.object.update, batch, lambda bad: metric.update(**{**batch, **bad}))
    assert not wrong, "\n".join(wrong)
    _same(metric.metric_state, before, rtol=0, atol=0)
    _same(metric.compute(), _computed(entry.build(), batch))


@parametrized(Measure)
def test_a_refused_forward_leaves_the_state_and_the_course_unchanged(entry):
    if not isinstance(entry.build(), WholeMetric):
        pytest.skip("its base is torchmetrics.Metric, whose forward forgets the earlier batches on an error")
    batch, more = entry.batch(24), entry.batch(24, seed=1)
    metric = entry.build()
    metric.update(**batch)
    before = copy.deepcopy(metric.metric_state)
    name = next(name for name, value in batch.items() if isinstance(value, torch.Tensor))
    with pytest.raises(ValueError, match=name):
        metric(**{**batch, name: batch[name][:0]})
    _same(metric.metric_state, before, rtol=0, atol=0)
    assert metric.update_count == 1
    _same(metric(**more), _computed(entry.build(), more))
    _same(metric.compute(), _computed(entry.build(), batch, more))


@pytest.mark.filterwarnings("ignore:classes .4. have no samples")
@pytest.mark.parametrize("forward", [False, True], ids=["update", "forward"])
@parametrized(Measure)
def test_samples_of_another_width_are_refused_at_once(entry, forward):
    metric, batch = entry.build(), entry.batch(24)
    if not isinstance(metric, SampleMetric) or all(v.ndim < 2 for v in batch.values() if isinstance(v, torch.Tensor)):
        pytest.skip("no state has a width that the first batch decides")
    metric.update(**batch)
    wider = {
        name: torch.cat([value, value[:, :1]], 1) if isinstance(value, torch.Tensor) and value.ndim == 2 else value
        for name, value in batch.items()
    }
    with pytest.raises(ValueError, match=r"shape|classes"):
        (metric if forward else metric.update)(**wider)
    _same(metric.compute(), _computed(entry.build(), batch))


@parametrized(Measure)
def test_bad_settings_are_refused_by_name(entry):
    wrong = accepted(entry.object.__init__, {**entry.settings}, lambda bad: entry.build(**bad))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@parametrized(Measure)
def test_half_precision_scores_are_what_they_are(entry, dtype):
    half = {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in entry.batch().items()
    }
    wide = {
        name: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in half.items()
    }
    _same(_computed(entry.build(), half), _computed(entry.build(), wide))


@parametrized(Measure)
def test_autocast_changes_nothing(entry):
    batch = entry.batch()
    wanted = _computed(entry.build(), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _computed(entry.build(), batch)
    _same(found, wanted, rtol=1e-6, atol=1e-7)


@parametrized(Measure)
def test_equal_scores_give_the_same_in_every_order(entry):
    batch = {
        name: torch.full_like(value, 0.5) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in entry.batch(24).items()
    }
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _same(_computed(entry.build(), _cut(batch, order)), _computed(entry.build(), batch), rtol=1e-12, atol=1e-12)


@parametrized(Measure)
def test_the_type_of_a_target_does_not_matter(entry):
    batch = entry.batch()
    wanted = _computed(entry.build(), batch)
    for other in in_other_types(batch):
        _same(_computed(entry.build(), other), wanted)


@parametrized(Measure)
def test_numpy_numbers_and_arrays_are_settings(entry):
    built = entry.build(**as_numpy(entry.settings))
    _same(_computed(built, entry.batch()), _computed(entry.build(), entry.batch()))


@parametrized(Measure)
def test_the_order_of_samples_does_not_matter(entry):
    batch = entry.batch(24)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    _same(_computed(entry.build(), _cut(batch, order)), _computed(entry.build(), batch))


@parametrized(Measure)
def test_a_weight_of_two_is_a_sample_given_twice(entry):
    if "sample_weight" not in inspect.signature(entry.object.update).parameters:
        pytest.skip("takes no weights of samples")
    batch = {name: value for name, value in entry.batch(24).items() if name != "sample_weight"}
    times = (torch.arange(24) % 5 + 1) // 2
    given, unweighted = _cut(batch, torch.arange(24).repeat_interleave(times)), _cut(batch, slice(0, 12))
    _same(_computed(entry.build(), {**batch, "sample_weight": times.float()}), _computed(entry.build(), given))
    # Batches with and without weights go together in either order.
    weighted = {**batch, "sample_weight": times.double()}
    wanted = _computed(entry.build(), unweighted, given)
    for order in ((unweighted, weighted), (weighted, unweighted)):
        _same(_computed(entry.build(), *order), wanted)
        one, other = entry.build(), entry.build()
        one.update(**order[0])
        other.update(**order[1])
        one.merge_state(other)
        _same(one.compute(), wanted)


@parametrized(Measure)
def test_what_is_undefined_is_nan_with_one_warning(entry):
    if entry.undefined is None:
        pytest.skip("defined on every batch")
    metric = entry.build()
    metric.update(**entry.undefined(torch.Generator().manual_seed(0), 12))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = metric.compute()
    assert len(seen) == 1
    values = list(found.values()) if isinstance(found, dict) else [found]
    assert any(bool(value.isnan().any()) for value in values)


@parametrized(Measure)
def test_before_the_first_batch_everything_is_nan_with_one_warning(entry):
    wanted = _computed(entry.build(), entry.batch(24))
    used = entry.build()
    used.update(**entry.batch(24))
    used.compute()
    used.reset()
    for metric in (entry.build(), used):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            found = metric.compute()
        assert [warning.category for warning in seen] == [UserWarning]
        assert "before the ``update`` method" in str(seen[0].message)
        if isinstance(wanted, dict):
            assert isinstance(found, dict)
            assert list(found) == list(wanted)
        pairs = [(found[name], wanted[name]) for name in wanted] if isinstance(wanted, dict) else [(found, wanted)]
        for value, other in pairs:
            assert value.isnan().all()
            assert (value.dtype, value.shape, value.device) == (other.dtype, other.shape, other.device)
        _same(_computed(metric, entry.batch(24)), wanted)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@parametrized(Measure)
def test_before_the_first_batch_a_strict_metric_raises(entry):
    if "on_undefined" not in inspect.signature(entry.object.__init__).parameters:
        pytest.skip("takes no on_undefined")
    with pytest.raises(ValueError, match="has seen no samples"):
        entry.build(on_undefined="raise").compute()


@parametrized(Measure)
def test_a_copy_and_a_pickle_go_on_alike(entry):
    metric = entry.build()
    metric.update(**entry.batch(24))
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        twin.update(**entry.batch(24, seed=1))
        _same(twin.compute(), _computed(entry.build(), entry.batch(24), entry.batch(24, seed=1)), rtol=0, atol=0)


@parametrized(Measure)
def test_global_state_is_left_alone(entry):
    state = torch.random.get_rng_state()
    _computed(entry.build(), entry.batch())
    assert torch.random.get_rng_state().equal(state)
