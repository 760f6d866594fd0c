import numpy as np
import pytest
import torch

from equipoise.data import PairedIdentityBatchSampler


def _sides():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 20, (90,), generator=generator), torch.randint(3, 24, (70,), generator=generator)


def test_a_batch_holds_different_identities_and_a_row_of_each_modality():
    first, second = _sides()
    sampler = PairedIdentityBatchSampler(first, second, 4, seed=1)
    seen = []
    for batch in sampler:
        rows = torch.tensor(batch)
        assert rows.shape == (4, 2)
        assert first[rows[:, 0]].equal(second[rows[:, 1]])
        seen += first[rows[:, 0]].tolist()
    shared = set(first.tolist()) & set(second.tolist())
    assert len(seen) == len(set(seen)) == len(sampler) * 4 == len(shared) // 4 * 4
    assert set(seen) <= shared


def test_every_row_comes_up_in_some_epoch_and_an_epoch_can_be_repeated():
    first, second = _sides()
    sampler = PairedIdentityBatchSampler(first, second, 4)
    whole = list(sampler)
    assert list(sampler) == whole
    seen = set()
    for epoch in range(120):
        sampler.set_epoch(epoch)
        seen |= {row for batch in sampler for row, _ in batch}
    shared = np.intersect1d(first, second)
    assert seen == set(np.flatnonzero(np.isin(first, shared)).tolist())


def test_shards_are_disjoint_and_a_run_can_be_resumed():
    first, second = _sides()
    alone = list(PairedIdentityBatchSampler(first, second, 3, num_replicas=1, rank=0))
    shards = [list(PairedIdentityBatchSampler(first, second, 3, num_replicas=2, rank=rank)) for rank in (0, 1)]
    assert len(shards[0]) == len(shards[1]) == len(alone) // 2
    rows = [row for shard in shards for batch in shard for row, _ in batch]
    assert len(rows) == len(set(rows))
    sampler, other = (PairedIdentityBatchSampler(first, second, 3) for _ in range(2))
    other.load_state_dict(sampler.state_dict(2))
    assert list(other) == alone[2:]
    with pytest.raises(ValueError, match="make the sampler with"):
        PairedIdentityBatchSampler(first, second, 4).load_state_dict(sampler.state_dict())


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.tensor([0, 1]), torch.tensor([2, 3]), "share 0 identities, fewer than batch_size=2"),
        (torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), "first must hold integers"),
        (torch.tensor([0, 1]), np.array([0.5, 1.0]), "second must hold integers"),
        (np.array([-1, 1]), torch.tensor([0, 1]), "first holds the value -1"),
        (torch.tensor([0, 1]), torch.tensor([0, -1]), "second holds the value -1"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        PairedIdentityBatchSampler(first, second, 2)
