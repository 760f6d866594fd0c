"""Nearest targets by loops, and the first of equal ones."""

import pytest
import torch

from equipoise.generative import nearest_target_index


@pytest.mark.parametrize("shape", [(4,), (3, 4, 4)])
def test_it_is_brute_force(shape):
    images, targets = torch.randn(30, *shape), torch.randn(7, *shape)
    wanted = [min(range(7), key=lambda k: float((image - targets[k]).square().sum())) for image in images]
    assert nearest_target_index(images, targets).tolist() == wanted


def test_the_first_of_equal_targets_is_taken():
    targets = torch.randn(1, 5).repeat(3, 1)
    assert nearest_target_index(torch.randn(6, 5), targets).tolist() == [0] * 6
    assert nearest_target_index(torch.tensor([[0.0]]), torch.tensor([[2.0], [-1.0], [1.0]])).tolist() == [1]


def test_small_differences_far_from_zero_are_seen():
    images = torch.full((1, 100), 1000.0)
    targets = torch.stack([images[0] + 0.01, images[0] + 0.001])
    assert nearest_target_index(images, targets).tolist() == [1]


def test_no_images_and_half_precision():
    assert nearest_target_index(torch.zeros(0, 2), torch.zeros(1, 2)).shape == (0,)
    assert nearest_target_index(torch.zeros(2, 2).half(), torch.zeros(1, 2).half()).tolist() == [0, 0]


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused():
    for images, targets, said in (
        (torch.zeros(2, 3), torch.zeros(0, 3), "targets is empty"),
        (torch.zeros(2, 3), torch.zeros(2, 4), "targets must have shape"),
        (torch.zeros(2, 3), [[0.0] * 3], "targets must be a torch.Tensor"),
    ):
        with pytest.raises(ValueError, match=said):
            nearest_target_index(images, targets)
