"""Transferred statistics, by loops and by what they must become."""

import gc
import math

import pytest
import torch

from equipoise.dense import adain, gram_matrix, monge_color_transfer
from equipoise.dense.transfer.statistics import TextureMemory, channel_moments, monge_matrix


def _maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _covariance(maps):
    return torch.cov(maps.flatten(-2), correction=0)


def _spd(size, seed):
    root = _maps(size, size, seed=seed)
    return root @ root.T + 0.1 * torch.eye(size).double()


def test_adain_is_what_loops_over_pixels_give():
    content, style, eps = _maps(2, 3, 4), 2 * _maps(2, 5, 3, seed=1) + 1, 0.3
    found = adain(content, style, eps)
    for c in range(2):
        x, q = content[c].flatten().tolist(), style[c].flatten().tolist()
        mean_x, mean_q = sum(x) / len(x), sum(q) / len(q)
        var_x, var_q = sum((v - mean_x) ** 2 for v in x) / len(x), sum((v - mean_q) ** 2 for v in q) / len(q)
        for place, value in enumerate(x):
            wanted = (value - mean_x) / math.sqrt(var_x + eps) * math.sqrt(var_q + eps) + mean_q
            assert found[c].flatten()[place].item() == pytest.approx(wanted, rel=1e-12)


def test_adain_has_the_statistics_of_the_style_and_keeps_those_of_its_own_style():
    content, style = _maps(3, 8, 9), 3 * _maps(3, 7, 5, seed=1) - 2
    found = channel_moments(adain(content, style, eps=1e-12))
    wanted = channel_moments(style)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(adain(content, content), content)


@pytest.mark.parametrize("transfer", [adain, monge_color_transfer])
def test_a_constant_channel_becomes_the_mean_of_the_style(transfer):
    content = _maps(2, 4, 4)
    content[0] = 0.3
    style = _maps(2, 4, 5, seed=1)
    found = transfer(content, style)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[0].mean(), style[0].mean())
    flat = transfer(torch.full_like(content, 0.3), style)
    torch.testing.assert_close(flat, style.mean((-2, -1), keepdim=True).expand_as(flat))


@pytest.mark.parametrize("transfer", [adain, monge_color_transfer, gram_matrix])
def test_a_batch_is_its_images_one_by_one(transfer):
    batch, style = _maps(2, 2, 3, 4, 5), _maps(3, 4, 4, seed=1)
    of = (lambda x: gram_matrix(x)) if transfer is gram_matrix else (lambda x: transfer(x, style))
    torch.testing.assert_close(of(batch), torch.stack([torch.stack([of(x) for x in row]) for row in batch]))


@pytest.mark.parametrize(("normalize", "size"), [("chw", 24), ("hw", 12), ("none", 1)])
def test_gram_matrix_by_loops(normalize, size):
    maps = _maps(2, 3, 4)
    found = gram_matrix(maps, normalize)
    for a in range(2):
        for b in range(2):
            total = sum(maps[a, i, j].item() * maps[b, i, j].item() for i in range(3) for j in range(4))
            assert found[a, b].item() == pytest.approx(total / size)


def test_gram_matrix_does_not_know_where_and_is_differentiable():
    maps = _maps(2, 3, 4)
    shuffled = maps.flatten(1)[:, torch.randperm(12, generator=torch.Generator().manual_seed(1))].view_as(maps)
    torch.testing.assert_close(gram_matrix(shuffled), gram_matrix(maps))
    assert torch.autograd.gradcheck(gram_matrix, maps.requires_grad_())


def test_the_monge_map_takes_one_covariance_to_the_other_and_is_symmetric():
    own, wanted = _spd(3, 0), _spd(3, 1)
    matrix = monge_matrix(own, wanted, 1e-12)
    torch.testing.assert_close(matrix @ own @ matrix.T, wanted, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-10)
    assert (torch.linalg.eigvalsh(matrix) > 0).all()


def test_the_monge_map_moves_less_than_other_maps_with_the_same_covariance():
    own, wanted = _spd(3, 0), _spd(3, 1)
    chosen = monge_matrix(own, wanted, 1e-12)
    # Every linear map from one covariance to the other is L_q R L_x^-1 with a rotation R and Cholesky factors.
    left, right = torch.linalg.cholesky(wanted), torch.linalg.cholesky(own).inverse()

    def moved(matrix):
        step = matrix - torch.eye(3).double()
        return torch.trace(step @ own @ step.T)

    for seed in range(20):
        rotation = torch.linalg.qr(_maps(3, 3, seed=seed)).Q
        assert moved(chosen) <= moved(left @ rotation @ right) + 1e-12


def test_monge_gives_mean_and_covariance_of_the_style():
    content, style = _maps(3, 9, 8), torch.einsum("ij,jhw->ihw", _maps(3, 3, seed=2), _maps(3, 6, 7, seed=1)) + 1
    found = monge_color_transfer(content, style, eps=1e-12)
    torch.testing.assert_close(_covariance(found), _covariance(style))
    torch.testing.assert_close(found.mean((1, 2)), style.mean((1, 2)))


def test_monge_is_the_identity_on_its_own_colours_and_moments_where_channels_are_independent():
    content = _maps(3, 9, 8)
    torch.testing.assert_close(monge_color_transfer(content, content), content)
    grey, style = _maps(1, 9, 8), 2 * _maps(1, 5, 5, seed=1)
    torch.testing.assert_close(monge_color_transfer(grey, style, 1e-5), adain(grey, style, 1e-5))


def test_monge_survives_channels_that_are_copies_of_one_another():
    content = _maps(1, 6, 6).expand(3, 6, 6)
    found = monge_color_transfer(content, _maps(3, 5, 5, seed=1))
    assert torch.isfinite(found).all()


def test_monge_is_computed_in_float64_whatever_the_dtype():
    content, style = _maps(3, 9, 8), _maps(3, 6, 7, seed=1)
    wanted = monge_color_transfer(content, style)
    found = monge_color_transfer(content.float(), style.float())
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    half = monge_color_transfer(content.half(), style.half())
    assert half.dtype is torch.float32
    torch.testing.assert_close(half.double(), wanted, rtol=2e-2, atol=2e-2)


def test_monge_is_cut_where_asked():
    found = monge_color_transfer(_maps(3, 9, 8), 5 * _maps(3, 6, 7, seed=1), clip=True)
    assert found.min() == 0
    assert found.max() == 1


@pytest.mark.usefixtures("plain_inputs")
def test_bad_maps_are_refused():
    with pytest.raises(ValueError, match=r"style must have shape .*channels = 3 as in content"):
        adain(torch.zeros(3, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="eps=0 must be a number greater than 0"):
        monge_color_transfer(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), eps=0)
    huge = torch.tensor([[[1e200, -1e200]]], dtype=torch.float64)
    with pytest.raises(ValueError, match="covariance of the channels is not finite"):
        monge_color_transfer(huge, huge)
    with pytest.raises(ValueError, match="normalize='cwh' is not known"):
        gram_matrix(torch.zeros(3, 4, 4), "cwh")


def test_what_is_known_of_a_texture_is_computed_once_until_it_changes():
    memory, texture, calls = TextureMemory(), torch.zeros(2, 2), []

    def compute(given):
        calls.append(1)
        return given.sum().item()

    assert [memory.of(texture, compute) for _ in range(3)] == [0, 0, 0]
    assert len(calls) == 1
    texture += 1
    assert memory.of(texture, compute) == 4
    assert memory.of(texture, compute, "another") == 4
    assert len(calls) == 3
    del texture
    gc.collect()
    assert not memory._kept


def test_a_texture_with_a_gradient_is_not_remembered():
    memory, texture = TextureMemory(), torch.ones(2, requires_grad=True)
    assert memory.of(texture, torch.sum).requires_grad
    assert not memory._kept
    with torch.inference_mode():
        assert memory.of(torch.ones(2), torch.sum) == 2
