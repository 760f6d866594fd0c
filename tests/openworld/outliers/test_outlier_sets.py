"""The distance between feature sets, whole and streamed, and the ranking of candidates."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.openworld import DilationDistance, dilation_distance, select_outlier_set
from equipoise.openworld.outliers.outlier_sets import leading_singular_values


def _features(rows=8, width=5, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, width, generator=generator, dtype=torch.float64)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 50), st.sampled_from([1e-150, 1e-3, 1.0, 1e150]))
def test_the_singular_values_are_those_of_a_full_decomposition(rows, width, seed, scale):
    features, k = _features(rows, width, seed), min(rows, width)
    wanted = scale * torch.linalg.svdvals(features)
    torch.testing.assert_close(leading_singular_values(scale * features, k), wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (6, 6)])
def test_small_singular_values_keep_their_digits(shape):
    k = min(shape)
    left = torch.linalg.qr(_features(shape[0], k, 1)).Q
    right = torch.linalg.qr(_features(shape[1], k, 2)).Q
    values = 10.0 ** -torch.arange(k, dtype=torch.float64)
    torch.testing.assert_close(leading_singular_values((left * values) @ right.T, k), values, rtol=1e-8, atol=1e-14)


def test_a_single_direction_has_no_second_singular_value():
    found = leading_singular_values(torch.ones(4, 3), 3)
    torch.testing.assert_close(found, torch.tensor([12.0, 0.0, 0.0]).double().sqrt(), rtol=1e-12, atol=1e-12)
    assert leading_singular_values(torch.zeros(4, 3), 2).tolist() == [0.0, 0.0]


def test_the_distance_compares_the_leading_singular_values_only():
    first, second = _features(seed=1), _features(seed=2)
    for k in (1, 3, 5):
        apart = torch.linalg.svdvals(first)[:k] - torch.linalg.svdvals(second)[:k]
        torch.testing.assert_close(dilation_distance(first, second, k), apart.norm())


def test_the_distance_grows_with_the_mismatch_of_scale():
    features = _features()
    unit = float(dilation_distance(features, 2 * features, 4))
    for scale in (1.0, 1.5, 3.0, 7.0):
        found = float(dilation_distance(features, scale * features, 4))
        assert found == pytest.approx(abs(scale - 1) * unit, abs=1e-9)


def test_features_are_not_centred():
    features = _features()
    assert float(dilation_distance(features, features + 1, 2)) > 1e-3


def test_normalized_batches_may_differ_in_size():
    features = _features()
    twice = torch.cat([features, features])
    assert float(dilation_distance(features, twice, 4, normalize=True)) == pytest.approx(0, abs=1e-9)
    apart = torch.linalg.svdvals(features)[:4] - torch.linalg.svdvals(_features(6, 5, 3))[:4] * math.sqrt(8 / 6)
    found = dilation_distance(features, _features(6, 5, 3), 4, normalize=True)
    assert float(found) == pytest.approx(float(apart.norm()) / math.sqrt(8))


def test_batches_are_averaged_before_the_difference():
    distance = DilationDistance(3)
    for seed in range(4):
        distance.update_id(_features(seed=seed))
    for seed in range(4, 6):
        distance.update_ood(_features(seed=seed))
    means = [
        torch.stack([torch.linalg.svdvals(_features(seed=seed))[:3] for seed in seeds]).mean(0)
        for seeds in (range(4), range(4, 6))
    ]
    torch.testing.assert_close(distance.compute(), (means[0] - means[1]).norm())
    torch.testing.assert_close(distance.singular_values("id"), means[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype_is_worked_on_in_float64(dtype):
    features = _features(seed=1).to(dtype)
    found = dilation_distance(features, features * 2, 3)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.linalg.svdvals(features.double())[:3].norm())


@pytest.mark.usefixtures("plain_inputs")
def test_what_cannot_be_compared_is_named():
    features = _features()
    for first, second, k, message in (
        (features, features, 6, r"k=6 must lie in 1..5"),
        (features[:2], features[:2], 3, r"k=3 must lie in 1..2"),
        (features, features[:6], 3, "normalize=True"),
    ):
        with pytest.raises(ValueError, match=message):
            dilation_distance(first, second, k)
    distance = DilationDistance(3)
    distance.update_id(features)
    with pytest.raises(ValueError, match="width 4"):
        distance.update_ood(features[:, :4])


def test_a_side_without_batches_cannot_be_compared():
    distance = DilationDistance(2)
    with pytest.raises(RuntimeError, match="update_id"):
        distance.compute()
    distance.update_id(_features())
    with pytest.raises(RuntimeError, match="update_ood"):
        distance.compute()
    with pytest.raises(ValueError, match="side"):
        distance.singular_values("both")


def _loader(scale, rows=20, batch=8, seed=5):
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(_features(rows, 5, seed, scale), torch.zeros(rows)), batch_size=batch
    )


def test_candidates_are_ranked_by_their_distance():
    sets = {"wide": _loader(3.0), "near": _loader(1.5), "same": _loader(1.0)}
    ranking = select_outlier_set(_loader(1.0), sets, lambda x: x[:, :, None], k=3)
    assert [found.name for found in ranking] == ["same", "near", "wide"]
    assert ranking[0].distance == pytest.approx(0, abs=1e-9)
    wanted = torch.stack([leading_singular_values(_features(20, 5, 5)[i : i + 8], 3) for i in (0, 8)]).mean(0).norm()
    assert ranking[1].distance == pytest.approx(0.5 * float(wanted))
    reverse = select_outlier_set(_loader(1.0), sets, lambda x: x, k=3, prefer="largest")
    assert reverse == ranking[::-1]


def test_equal_candidates_keep_their_order():
    for prefer in ("smallest", "largest"):
        ranking = select_outlier_set(
            _loader(1.0), {"b": _loader(2.0), "a": _loader(2.0)}, lambda x: x, k=2, prefer=prefer
        )
        assert [found.name for found in ranking] == ["b", "a"]


def test_loaders_that_do_not_go_together_are_named():
    known, sets = _loader(1.0), {"one": _loader(2.0)}
    for loader, candidates, message in (
        (known, {}, "candidates is empty"),
        ([], sets, "id_loader gives no batch"),
        (known, {"one": _loader(1.0, batch=4)}, r"sizes \[4\], those of id_loader 8"),
        (known, {"one": _loader(1.0, batch=10)}, r"sizes \[10\], those of id_loader 8"),
        (known, {"one": []}, r"sizes \[\]"),
    ):
        with pytest.raises(ValueError, match=message):
            select_outlier_set(loader, candidates, lambda x: x, k=2)
