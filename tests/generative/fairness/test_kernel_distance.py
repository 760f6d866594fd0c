import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from equipoise.generative import kernel_inception_distance
from equipoise.generative.fairness import kernel_distance


def _features(n, shift=0.0, seed=0, dtype=torch.float64):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype) + shift


@pytest.mark.parametrize(("degree", "gamma", "coef"), [(3, None, 1.0), (2, 0.7, 0.0), (1, 1.0, 2.0)])
def test_it_is_the_mean_over_pairs(degree, gamma, coef):
    x, y = _features(7).numpy(), _features(4, 0.3, 1).numpy()

    def mean(a, b, *, same):
        scale = gamma or 1 / 5
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
        return np.mean([(scale * a[i] @ b[j] + coef) ** degree for i, j in pairs])

    wanted = mean(x, x, same=True) + mean(y, y, same=True) - 2 * mean(x, y, same=False)
    found = kernel_inception_distance(torch.from_numpy(x), torch.from_numpy(y), degree, gamma, coef)
    assert float(found) == pytest.approx(wanted, rel=1e-12)


def test_it_is_that_of_torchmetrics_where_sets_are_of_one_size():
    x, y = _features(40), _features(40, 0.2, 1)
    torch.testing.assert_close(kernel_inception_distance(x, y), poly_mmd(x, y))


def test_blocks_give_what_the_whole_gives(monkeypatch):
    x, y = _features(23), _features(31, 0.2, 1)
    wanted = kernel_inception_distance(x, y)
    monkeypatch.setattr(kernel_distance, "_PART", 100)
    torch.testing.assert_close(kernel_inception_distance(x, y), wanted)


def test_it_is_unbiased():
    found = [
        float(kernel_inception_distance(_features(12, seed=2 * k), _features(9, seed=2 * k + 1))) for k in range(400)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20
    assert min(found) < 0


def test_half_precision_is_computed_in_float64():
    x, y = _features(10).half(), _features(10, 0.3, 1).half()
    found = kernel_inception_distance(x, y)
    assert found.dtype is torch.float64
    torch.testing.assert_close(found, kernel_inception_distance(x.double(), y.double()))


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernel_inception_distance(_features(1), _features(4)), "features holds 1 sample"),
        (lambda: kernel_inception_distance(_features(4), _features(1)), "reference holds 1 sample"),
        (lambda: kernel_inception_distance(_features(4) / 0, _features(4)), "NaN or infinite"),
        (lambda: kernel_inception_distance(_features(4), _features(4)[:, :2]), "reference must have shape"),
        (lambda: kernel_inception_distance(_features(4), _features(4), degree=0), "degree=0"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
