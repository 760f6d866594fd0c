import itertools
import math

import numpy as np
import pytest
import torch

from equipoise.generative import (
    attribute_centers,
    attribute_distances,
    equalized_odds_loss,
    equalized_quality_loss,
    equalized_radii,
    text_skew,
)


def _drawn(n=4, values=3, d=6, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=dtype), torch.randn(n, values, d, generator=g, dtype=dtype)


def _pictures(values=3, d=6, seed=1, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(2 + k, d, generator=g, dtype=dtype) for k in range(values)]


def _cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def _apart(a, b, distance):
    cosine = _cosine(a, b)
    return 1 - cosine if distance == "cosine" else math.sqrt(2 - 2 * cosine)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("target", [None, (0.5, 0.3, 0.2)])
def test_odds_are_the_mean_over_pairs(distance, target):
    text, centers = _drawn()
    each = []
    for t, row in zip(text, centers, strict=True):
        found = [_apart(t, mu, distance) for mu in row]
        if target:
            found = [x + math.log(p) / 30 for x, p in zip(found, target, strict=True)]
        each.append(2 / 6 * sum((x - y) ** 2 for x, y in itertools.combinations(found, 2)))
    loss = equalized_odds_loss(text, centers, target, distance, logit_scale=30.0)
    assert float(loss) == pytest.approx(sum(each) / 4, rel=1e-12)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_quality_is_the_double_loop(distance):
    text, images = _drawn(1)[1][0], _pictures()
    radii = [np.mean([_apart(t, v, distance) for v in rows]) for t, rows in zip(text, images, strict=True)]
    wanted = 2 / 6 * sum((x - y) ** 2 for x, y in itertools.combinations(radii, 2)) + 0.4 * np.mean(radii)
    assert float(equalized_quality_loss(text, images, 0.4, distance)) == pytest.approx(wanted, rel=1e-12)
    np.testing.assert_allclose(equalized_radii(text, images, distance), radii, rtol=1e-12)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_gradients_are_those_of_finite_differences(distance):
    text, centers = _drawn()
    images = _pictures()
    text.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t: equalized_odds_loss(t, centers, (0.2, 0.2, 0.6), distance, logit_scale=9.0), text
    )
    assert torch.autograd.gradcheck(lambda t: equalized_quality_loss(t, images, 0.3, distance), text[:3])


def test_norms_turns_and_the_order_of_values_do_not_matter():
    text, centers = _drawn()
    wanted = equalized_odds_loss(text, centers)
    turn = torch.linalg.qr(_drawn(6, seed=3)[0])[0]
    order = torch.tensor([2, 0, 1])
    for found in (
        equalized_odds_loss(text * 1e6, centers * 1e-6),
        equalized_odds_loss(text @ turn, centers @ turn),
        equalized_odds_loss(text, centers[:, order]),
        equalized_odds_loss(text.flip(0), centers.flip(0)),
    ):
        torch.testing.assert_close(found, wanted)


def test_extreme_norms_neither_overflow_nor_vanish():
    text, centers = _drawn(dtype=torch.float32)
    wanted = equalized_odds_loss(text, centers)
    for factor in (1e30, 1e-30):
        torch.testing.assert_close(equalized_odds_loss(text * factor, centers / factor), wanted)
    half = equalized_odds_loss(text.half(), centers.half())
    assert half.dtype is torch.float32
    torch.testing.assert_close(half, wanted, rtol=0.01, atol=1e-3)


def test_two_values_give_the_squared_difference():
    text, centers = _drawn(values=2)
    distances = attribute_distances(text, centers)
    torch.testing.assert_close(equalized_odds_loss(text, centers), (distances[:, 0] - distances[:, 1]).square().mean())


def test_where_the_loss_is_zero_the_softmax_is_the_target():
    shares, kappa = (0.7, 0.3), 20.0
    angle = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    centers = torch.eye(2, dtype=torch.float64)[None]
    optimizer = torch.optim.Adam([angle], lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        text = torch.stack([angle.cos(), angle.sin()])[None]
        loss = equalized_odds_loss(text, centers, shares, logit_scale=kappa)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-12
    torch.testing.assert_close(text_skew(text.detach(), centers, kappa)[0], torch.tensor(shares, dtype=torch.float64))


def test_a_text_on_its_centre_has_a_finite_gradient():
    text = torch.tensor([[0.6, 0.8]], requires_grad=True)
    equalized_odds_loss(text, torch.tensor([[[0.6, 0.8], [1.0, 0.0]]]), distance="euclidean").backward()
    assert text.grad.isfinite().all()


@pytest.mark.parametrize("target", [None, (0.9, 0.1)])
def test_coincident_centres_warn_once_and_give_zero(target):
    text = torch.tensor([[1.0, 2.0], [1.0, 0.0]], requires_grad=True)
    same = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    with pytest.warns(UserWarning, match="coincide"):
        loss = equalized_odds_loss(text, torch.stack([same, same]), target)
    assert float(loss.detach()) == 0
    loss.backward()
    assert text.grad.abs().sum() == 0
    mixed = torch.stack([same, torch.eye(2)])
    with pytest.warns(UserWarning, match="1 of 2 prompts"):
        found = equalized_odds_loss(text.detach(), mixed)
    torch.testing.assert_close(found, equalized_odds_loss(text.detach()[1:], mixed[1:]) / 2)


def test_centres_are_unit_means_of_unit_pictures():
    pictures = dict(zip("abc", _pictures(), strict=True))
    centers = attribute_centers(pictures)
    for row, rows in zip(centers, pictures.values(), strict=True):
        mean = np.mean([v / np.linalg.norm(v) for v in rows.numpy()], 0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-12)
    weights = {name: torch.arange(len(rows)) for name, rows in pictures.items()}
    repeated = {name: rows.repeat_interleave(weights[name], 0) for name, rows in pictures.items()}
    torch.testing.assert_close(attribute_centers(pictures, weights), attribute_centers(repeated))


_TEXT, _CENTERS = torch.ones(2, 3), torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: equalized_odds_loss(_TEXT, _CENTERS[:, :1]), "centers holds 1 attribute value, at least 2"),
        (lambda: equalized_odds_loss(_TEXT * 0, _CENTERS), "row 0 of text has norm zero"),
        (lambda: equalized_odds_loss(_TEXT, _CENTERS * torch.tensor([[[1.0]], [[0.0]]])), r"row \(1, 0\) of centers"),
        (lambda: equalized_odds_loss(_TEXT[:, :2], _CENTERS), "centers must have shape"),
        (lambda: equalized_odds_loss(_TEXT, _CENTERS, (0.5, 0.6)), "target=.* must sum to 1"),
        (lambda: equalized_odds_loss(_TEXT, _CENTERS, (1.0, 0.0)), "greater than 0"),
        (lambda: equalized_odds_loss(_TEXT, _CENTERS, (0.2, 0.3, 0.5)), "3 shares for 2 attribute values"),
        (lambda: equalized_odds_loss(_TEXT, _CENTERS, distance="manhattan"), "distance='manhattan' is not known"),
        (lambda: equalized_quality_loss(_TEXT, [_TEXT, _TEXT[:0]]), r"images\[1\] is empty"),
        (lambda: equalized_quality_loss(_TEXT, [_TEXT]), "pictures of 1 attributes, text has 2"),
        (lambda: equalized_quality_loss(_TEXT, [_TEXT, _TEXT[:, :2]]), r"images\[1\] is of width 2, text of 3"),
        (lambda: equalized_quality_loss(_TEXT, [_TEXT, _TEXT * 0]), r"row 0 of images.1. has norm zero"),
        (lambda: equalized_quality_loss(_TEXT[:1], [_TEXT]), "at least 2"),
        (lambda: equalized_quality_loss(_TEXT, [_TEXT, _TEXT], pull=-1), "pull=-1 must be"),
        (lambda: attribute_centers({"red": _TEXT}), "at least 2"),
        (lambda: attribute_centers({"red": _TEXT, "blue": _TEXT[:0]}), "no picture of 'blue'"),
        (lambda: attribute_centers({"red": _TEXT, "blue": _TEXT[:, :1]}), "different widths"),
        (lambda: attribute_centers({"red": _TEXT, "blue": _TEXT * 0}), "has norm zero"),
        (lambda: attribute_centers({"red": _TEXT, "blue": _TEXT / 0}), "NaN or infinite"),
        (lambda: attribute_centers({"red": _TEXT, "blue": _TEXT.long()}), "floating point"),
        (lambda: attribute_centers({"red": _TEXT, "blue": [[1.0]]}), "must be a torch.Tensor"),
        (lambda: attribute_centers({"red": _TEXT, "blue": _TEXT[0]}), "must have shape"),
        (lambda: attribute_centers({"red": _TEXT, "blue": torch.stack([_TEXT[0], -_TEXT[0]])}), "cancel out"),
        (lambda: attribute_centers({"red": _TEXT, "blue": _TEXT}, {"red": torch.ones(2)}), "weights are of"),
        *(
            (lambda w=w: attribute_centers({"red": _TEXT, "blue": _TEXT}, {"red": torch.ones(2), "blue": w}), words)
            for w, words in (
                (torch.ones(3), r"must have shape \(2,\)"),
                (torch.tensor([-1.0, 1.0]), "at least 0"),
                (torch.zeros(2), "no picture of 'blue' counts"),
            )
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
