from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from equipoise.data import ClassBalancedBatchSampler, StratifiedBatchSampler


def binary(negatives, positives, seed=0):
    target = torch.tensor([0] * negatives + [1] * positives)
    return target[torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))]


def uses(batches, target):
    """How often each sample occurs."""
    return np.bincount(np.concatenate(batches), minlength=len(target))


def epoch(make, replicas):
    """All batches of all ranks, and those of each."""
    shards = [list(make(num_replicas=replicas, rank=rank)) for rank in range(replicas)]
    return [batch for shard in shards for batch in shard], shards


many = settings(max_examples=60, deadline=None)


@many
@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(1, 30), st.integers(1, 3), st.integers(0, 5))
def test_natural_batches_use_every_sample_once_and_spread_every_class_evenly(labels, batch_size, replicas, seed):
    target = torch.tensor(labels)
    assume(len(set(labels)) > 1 and len(labels) >= -(-len(labels) // (batch_size * replicas)) * replicas)
    batches, shards = epoch(
        lambda **shard: StratifiedBatchSampler(target, batch_size, seed=seed, **shard), replicas=replicas
    )
    assert (uses(batches, target) == 1).all()
    assert len({len(shard) for shard in shards}) == 1
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    for c in set(labels):
        counts = [int((target[batch] == c).sum()) for batch in batches]
        assert max(counts) - min(counts) <= 1


@many
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(2, 24),
    st.floats(0.02, 0.98),
    st.integers(1, 3),
    st.integers(0, 9),
)
def test_a_chosen_rate_holds_in_every_batch_within_one_sample(negatives, positives, batch_size, rate, replicas, seed):
    target = binary(negatives, positives)
    assume(min(rate, 1 - rate) * batch_size >= 1)
    batches, _ = epoch(
        lambda **shard: StratifiedBatchSampler(target, batch_size, positive_rate=rate, seed=seed, **shard), replicas
    )
    whole = sum(map(len, batches))
    for batch in batches:
        found = int(target[batch].sum())
        assert 1 <= found < len(batch) <= batch_size
        # One sample for the batch, and one for rounding the seats of an epoch (which matters in tiny ones).
        assert abs(found - rate * len(batch)) <= 1 + 1.5 * len(batches) * len(batch) / whole
    times = uses(batches, target)
    per_class = [times[(target == c).numpy()] for c in (0, 1)]
    assert all(t.min() >= 1 and t.max() - t.min() <= 1 for t in per_class)


def test_at_usual_sizes_the_rate_is_met_within_one_sample_and_the_common_class_used_once():
    target = binary(2000, 60)
    for rate in (0.1, 0.25, 0.5):
        batches = list(StratifiedBatchSampler(target, 64, positive_rate=rate, seed=3))
        assert all(abs(int(target[b].sum()) - rate * len(b)) < 1 for b in batches)
        assert abs(sum(int(target[b].sum()) for b in batches) / sum(map(len, batches)) - rate) < 1e-3
        times = uses(batches, target)
        assert (times[(target == 0).numpy()] == 1).all()


def test_a_rate_below_the_natural_one_repeats_the_negatives_instead():
    target = binary(50, 50)
    times = uses(list(StratifiedBatchSampler(target, 20, positive_rate=0.2)), target)
    assert (times[(target == 1).numpy()] == 1).all()
    assert (times[(target == 0).numpy()] == 4).all()


@many
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 7), st.integers(1, 20), st.integers(1, 3), st.booleans())
def test_a_fixed_number_of_positives_is_exact(negatives, positives, wanted, others, replicas, drop_last):
    target = binary(negatives, positives)

    def make(**shard):
        return StratifiedBatchSampler(target, wanted + others, positives_per_batch=wanted, drop_last=drop_last, **shard)

    if drop_last and max(negatives // others, positives // wanted) < replicas:
        with pytest.raises(ValueError, match="leaves no batch"):
            make(num_replicas=replicas, rank=0)
        return
    batches, _ = epoch(make, replicas)
    assert all(int(target[b].sum()) == wanted and wanted < len(b) <= wanted + others for b in batches)
    assert not drop_last or all(len(b) == wanted + others for b in batches)
    times = uses(batches, target)
    if not drop_last:
        assert times.min() >= 1
        if negatives / others > positives / wanted and negatives >= len(batches):
            assert (times[(target == 0).numpy()] == 1).all()


@many
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=6),
    st.integers(1, 3),
    st.integers(0, 20),
    st.integers(1, 3),
    st.booleans(),
)
def test_every_class_has_its_least_number_in_every_batch(members, least, room, replicas, drop_last):
    target = torch.repeat_interleave(torch.arange(len(members)), torch.tensor(members))
    size = least * len(members) + room

    def make(**shard):
        return StratifiedBatchSampler(target, size, min_per_class=least, drop_last=drop_last, **shard)

    try:
        make(num_replicas=replicas, rank=0)
    except ValueError as error:
        assert drop_last
        assert "leaves no batch" in str(error)  # noqa: PT017
        return
    batches, shards = epoch(make, replicas)
    assert len({len(shard) for shard in shards}) == 1
    for batch in batches:
        assert np.bincount(target[batch], minlength=len(members)).min() >= least
        assert len(batch) == size if drop_last else len(batch) <= size
    times = uses(batches, target)
    for c, n in enumerate(members):
        own = times[(target == c).numpy()]
        assert own.max() - own.min() <= 1
        if n >= least * len(batches):
            assert own.max() == 1
        assert drop_last or own.min() >= 1


def test_common_classes_are_not_repeated_for_the_sake_of_a_rare_one():
    target = torch.tensor([0] * 500 + [1] * 300 + [2] * 4)
    times = uses(list(StratifiedBatchSampler(target, 32, min_per_class=2)), target)
    assert (times[:800] == 1).all()
    assert times[800:].min() > 1


@many
@given(st.lists(st.integers(1, 50), min_size=2, max_size=7), st.integers(0, 25), st.integers(1, 3), st.booleans())
def test_balanced_batches_give_every_class_the_same_number(members, room, replicas, drop_last):
    target = torch.repeat_interleave(torch.arange(len(members)), torch.tensor(members))
    size = len(members) + room

    def make(**shard):
        return ClassBalancedBatchSampler(target, size, drop_last=drop_last, **shard)

    if drop_last and max(members) * len(members) < size * replicas:
        with pytest.raises(ValueError, match="leaves no batch"):
            make(num_replicas=replicas, rank=0)
        return
    batches, _ = epoch(make, replicas)
    for batch in batches:
        counts = np.bincount(target[batch], minlength=len(members))
        assert counts.min() >= 1
        assert counts.max() - counts.min() <= 1
    if not drop_last and max(members) >= len(batches):
        times = uses(batches, target)
        assert (times[(target == int(np.argmax(members))).numpy()] == 1).all()


def test_class_shares_hold_in_every_batch():
    target = torch.tensor([0] * 400 + [1] * 100 + [2] * 10)
    batches = list(StratifiedBatchSampler(target, 40, class_shares=(2, 1, 1)))
    for batch in batches:
        assert np.abs(np.bincount(target[batch], minlength=3) - len(batch) * np.array([0.5, 0.25, 0.25])).max() <= 1
    assert (uses(batches, target)[:400] == 1).all()


def test_no_sample_comes_twice_in_a_batch_that_has_room_for_its_class_only_once():
    for negatives, positives in ((960, 10), (1000, 9), (960, 8)):
        for batch in StratifiedBatchSampler(binary(negatives, positives), 40, positives_per_batch=8):
            assert max(Counter(batch).values()) == 1


def test_ranks_are_disjoint_where_nothing_is_repeated():
    target = binary(97, 14)
    shards = [list(StratifiedBatchSampler(target, 8, seed=4, num_replicas=2, rank=r)) for r in (0, 1)]
    samples = [{i for batch in shard for i in batch} for shard in shards]
    assert not samples[0] & samples[1]
    assert samples[0] | samples[1] == set(range(111))
    assert len(shards[0]) == len(shards[1])


def test_full_batches_only_leave_out_less_than_a_round_and_others_every_epoch():
    target = binary(190, 13)
    sampler = StratifiedBatchSampler(target, 25, drop_last=True, num_replicas=1, rank=0)
    left_out = []
    for number in range(2):
        sampler.set_epoch(number)
        batches = list(sampler)
        assert {len(b) for b in batches} == {25}
        assert len(batches) == 8
        times = uses(batches, target)
        assert times.max() == 1
        left_out.append(tuple(np.flatnonzero(times == 0)))
    assert left_out[0] != left_out[1]


def test_batches_are_a_function_of_seed_and_epoch():
    target = binary(100, 20)

    def run(seed, number):
        sampler = StratifiedBatchSampler(target, 16, positive_rate=0.5, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert run(1, 2) == run(1, 2)
    assert run(1, 2) != run(1, 3)
    # The usual seed + epoch would make these two the same.
    assert run(1, 2) != run(2, 1)


def test_global_random_state_is_neither_read_nor_changed():
    target = binary(60, 6)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    first = list(StratifiedBatchSampler(target, 8))
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    torch.manual_seed(1)
    again = list(StratifiedBatchSampler(target, 8))
    torch.set_rng_state(state[0])
    list(StratifiedBatchSampler(target, 8))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_run_resumed_in_mid_epoch_gets_the_remaining_batches(replicas):
    target = binary(200, 11)

    def make():
        return StratifiedBatchSampler(target, 12, positive_rate=0.25, seed=5, num_replicas=replicas, rank=replicas - 1)

    unbroken = make()
    unbroken.set_epoch(3)
    whole = list(unbroken)
    broken = make()
    broken.set_epoch(3)
    running = iter(broken)
    done = [next(running) for _ in range(4)]
    resumed = make()
    resumed.load_state_dict(broken.state_dict())
    resumed.set_epoch(3)  # as a trainer does before every epoch
    assert done + list(resumed) == whole
    assert len(resumed) == len(whole)
    assert list(resumed) == whole
    resumed.set_epoch(4)
    unbroken.set_epoch(4)
    assert list(resumed) == list(unbroken)


def test_a_loop_left_early_does_not_shorten_the_next():
    sampler = StratifiedBatchSampler(binary(40, 5), 8)
    for _ in sampler:
        break
    assert len(list(sampler)) == len(sampler)


def test_a_new_epoch_forgets_the_place_in_the_old_one():
    sampler = StratifiedBatchSampler(binary(40, 5), 8)
    sampler.load_state_dict(sampler.state_dict(batch=3))
    sampler.set_epoch(1)
    assert len(list(sampler)) == len(sampler)


def test_the_place_can_be_given_where_workers_fetch_ahead():
    target = binary(64, 8)
    sampler = StratifiedBatchSampler(target, 8, seed=2)
    loader = DataLoader(TensorDataset(torch.arange(72)), batch_sampler=sampler)
    whole = [batch[0].tolist() for batch in loader]
    other = StratifiedBatchSampler(target, 8, seed=2)
    other.load_state_dict(sampler.state_dict(batch=2))
    assert [b[0].tolist() for b in DataLoader(TensorDataset(torch.arange(72)), batch_sampler=other)] == whole[2:]


def test_lightning_finds_set_epoch():
    fabric = pytest.importorskip("lightning.fabric.utilities.data")
    sampler = StratifiedBatchSampler(binary(40, 5), 8)
    fabric._set_sampler_epoch(DataLoader(TensorDataset(torch.arange(45)), batch_sampler=sampler), 6)
    assert sampler.epoch == 6


def test_a_state_of_another_sampler_is_refused():
    saved = StratifiedBatchSampler(binary(40, 5), 8, seed=1).state_dict()
    with pytest.raises(ValueError, match="seed=1, this one seed=2"):
        StratifiedBatchSampler(binary(40, 5), 8, seed=2).load_state_dict(saved)
    with pytest.raises(ValueError, match="samples=45"):
        StratifiedBatchSampler(binary(41, 5), 8, seed=1).load_state_dict(saved)
    with pytest.raises(ValueError, match="batch=9"):
        StratifiedBatchSampler(binary(40, 5), 8).state_dict(batch=9)


def test_booleans_arrays_and_tensors_mean_the_same():
    target = binary(30, 6)
    wanted = list(StratifiedBatchSampler(target, 6))
    assert list(StratifiedBatchSampler(target.bool(), 6)) == wanted
    assert list(StratifiedBatchSampler(target.numpy().astype(np.uint8), np.int64(6))) == wanted
    assert list(StratifiedBatchSampler(target.flip(0).numpy()[::-1], 6, seed=np.int32(0))) == wanted


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.array([0.0, 1.0]), "integers or booleans in shape .*float64"),
        (np.array([[0], [1]]), r"shape \(n,\), got int64 \(2, 1\)"),
        (np.array([0, -1]), "the value -1"),
        (np.array([], np.int64), "target is empty"),
        (["a", "b"], "must be a torch.Tensor, got list"),
    ],
)
def test_arrays_that_hold_no_classes_are_refused(target, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        StratifiedBatchSampler(target, 4)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ([0, 1], {"positive_rate": 0.5, "min_per_class": 1}, "positive_rate and min_per_class contradict"),
        ([0, 1, 2], {"positive_rate": 0.5}, "needs two classes, the target has 3"),
        ([0, 1] * 50, {"positive_rate": 0.01}, "raise the share to at least 0.25 or batch_size to 100"),
        ([0, 1], {"positives_per_batch": 4}, r"must lie in 1\.\.3"),
        ([0, 0, 2], {"min_per_class": 1}, "class 1 has no members among 3"),
        ([0, 1, 2], {"min_per_class": 2}, "needs batches of at least 6, got batch_size=4"),
        ([0, 1], {"class_shares": (1, 2, 3)}, "holds 3 numbers, wanted 2"),
        ([0, 1], {"class_shares": (1, 0)}, "greater than 0"),
        ([0, 0], {}, "all 2 targets are of class 0"),
        ([0, 1], {"drop_last": True}, "leaves no batch of 4"),
        ([0, 1], {"num_replicas": 3, "rank": 0}, "cannot fill 3 batches"),
        ([0, 1], {"num_replicas": 2, "rank": 2}, "rank=2"),
    ],
)
def test_what_cannot_be_met_is_said(target, options, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        StratifiedBatchSampler(torch.tensor(target), 4, **options)


def test_balanced_batches_need_room_and_members_for_every_class():
    with pytest.raises(ValueError, match="batch_size=2 is smaller than the number of classes, 3"):
        ClassBalancedBatchSampler(torch.tensor([0, 1, 2]), 2)
    with pytest.raises(ValueError, match="class 1 has no members"):
        ClassBalancedBatchSampler(torch.tensor([0, 2]), 4)
    with pytest.raises(ValueError, match="epoch=-1"):
        ClassBalancedBatchSampler(torch.tensor([0, 1]), 4).set_epoch(-1)


def test_a_reversed_target_gives_the_batches_of_its_copy():
    target = np.array([0, 1, 1, 0, 2, 0, 0, 1, 2, 0])[::-1]
    shares = np.array([0.2, 0.3, 0.5])[::-1]
    for make in (
        lambda y: StratifiedBatchSampler(y, np.int64(5)),
        lambda y: StratifiedBatchSampler(y, 5, class_shares=shares),
        lambda y: ClassBalancedBatchSampler(y, 6),
    ):
        assert list(make(target)) == list(make(target.copy()))
