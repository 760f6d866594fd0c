import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from equipoise.dense import PyramidSegmenter


class _Halves(nn.Module):
    """Maps by averaging: each half the size of the one before, one channel more."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        fine = nn.functional.avg_pool2d(images, 2) * self.weight
        coarse = nn.functional.avg_pool2d(fine, 2)
        return [fine, torch.cat([coarse, coarse.mean(1, keepdim=True)], 1)]


def test_a_map_of_one_scale_is_a_head_upon_it():
    network = PyramidSegmenter(lambda x: [x], (3,), 2, width=5).eval()
    images = torch.rand(2, 3, 6, 8)
    expected = network.head(network.laterals[0](images))
    torch.testing.assert_close(network(images), expected)


def test_coarse_maps_reach_the_finest_size():
    network = PyramidSegmenter(_Halves(), (3, 4), 2, width=5).eval()
    images = torch.rand(2, 3, 12, 20)
    fine, coarse = _Halves()(images)
    up = interpolate(network.laterals[1](coarse), size=(6, 10), mode="bilinear", align_corners=False)
    expected = network.head(network.joints[0](network.laterals[0](fine) + up))
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(network.decode([fine, coarse]), expected)


def test_odd_sizes_are_taken():
    assert PyramidSegmenter(_Halves(), (3, 4), 2).eval()(torch.rand(1, 3, 14, 22)).shape == (1, 2, 7, 11)


def test_the_encoder_is_neither_trained_nor_saved():
    encoder = _Halves()
    network = PyramidSegmenter(encoder, (3, 4), 2)
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    assert encoder.weight.grad is None
    assert not any(name == "weight" for name in network.state_dict())
    assert len(network.state_dict()) == len(PyramidSegmenter(lambda x: [x], (3, 4), 2).state_dict())


def test_it_learns_to_tell_left_from_right_by_colour():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, 3, 8, 8, generator=generator)
    target = (nn.functional.avg_pool2d(images, 2)[:, 0] > nn.functional.avg_pool2d(images, 2)[:, 1]).long()
    network = PyramidSegmenter(_Halves(), (3, 4), 2, width=16, seed=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        loss = cross_entropy(network(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((network(images).argmax(1) == target).float().mean()) > 0.95


def test_the_first_weights_come_from_the_seed_alone():
    state = torch.random.get_rng_state()
    first, second, third = (PyramidSegmenter(_Halves(), (3, 4), 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, third.head.weight)


def test_other_maps_than_said_are_refused():
    with pytest.raises(ValueError, match=r"maps have \(3, 4\) channels, wanted \(3, 5\)"):
        PyramidSegmenter(_Halves(), (3, 5), 2)(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="channels is empty"):
        PyramidSegmenter(_Halves(), (), 2)
