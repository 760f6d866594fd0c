import pytest
import torch

from equipoise.data import IdentityBatchSampler

TARGET = torch.tensor([0] * 13 + [1] * 4 + [2] * 7 + [3] * 1 + [4] * 9)


def test_a_batch_has_k_different_samples_of_p_classes_and_an_epoch_no_sample_twice():
    sampler = IdentityBatchSampler(TARGET, num_ids=3, num_per_id=2, seed=3)
    epochs = []
    for epoch in range(8):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        for batch in batches:
            labels, counts = TARGET[batch].unique(return_counts=True)
            assert len(labels) == 3
            assert counts.tolist() == [2, 2, 2]
        drawn = [i for batch in batches for i in batch]
        assert len(set(drawn)) == len(drawn)
        assert 3 not in TARGET[drawn].tolist()
        epochs.append(drawn)
    assert len({tuple(e) for e in epochs}) == 8
    assert set().union(*epochs) == set(range(len(TARGET))) - {24}


def test_there_are_as_many_batches_as_there_can_be():
    # Groups of two: 6, 2, 3, 0, 4 (15 in all); each batch takes three classes, so at most 15 // 3, and the frequent
    # class bounds nothing.
    assert len(IdentityBatchSampler(TARGET, 3, 2)) == 4
    # Two classes share all batches when one of them has nearly everything.
    assert len(IdentityBatchSampler(torch.tensor([0] * 20 + [1] * 4 + [2] * 4), 2, 2)) == 4


def test_ranks_share_the_epoch_and_a_place_is_resumed():
    shards = [IdentityBatchSampler(TARGET, 2, 2, num_replicas=2, rank=r) for r in (0, 1)]
    drawn = [[tuple(b) for b in shard] for shard in shards]
    assert len(drawn[0]) == len(drawn[1]) > 1
    assert not set(drawn[0]) & set(drawn[1])
    state = shards[0].state_dict(batch=1)
    resumed = IdentityBatchSampler(TARGET, 2, 2, num_replicas=2, rank=0)
    resumed.load_state_dict(state)
    assert [tuple(b) for b in resumed] == drawn[0][1:]
    with pytest.raises(ValueError, match="make the sampler with the arguments of the run"):
        IdentityBatchSampler(TARGET, 2, 3, num_replicas=2, rank=0).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_ids": 5, "num_per_id": 2}, "4 classes have 2 samples, wanted num_ids=5"),
        ({"num_ids": 4, "num_per_id": 4, "num_replicas": 9, "rank": 0}, "fewer batches than the 9 processes"),
    ],
)
def test_what_cannot_be_drawn_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        IdentityBatchSampler(TARGET, **options)
