import logging
import math

import pytest
import torch
from torch.nn.functional import normalize

from equipoise.core.validate import reset_warnings
from equipoise.openworld.prompts.negative_texts import (
    class_image_prototypes,
    encode_names,
    foreign_words,
    grouped_negative_score,
    mcm_score,
    negative_log_odds,
    neglabel_select,
    select_negative_texts,
)


def _draw(seed, *counts, d=6):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=g, dtype=torch.float64) for n in counts]


def _cos(a, b):
    return float(a @ b / a.norm() / b.norm())


def _brute_selection(text, images, candidates, share=1.0):
    base = [_cos(t, v) for t, v in zip(text, images, strict=True)]
    passed = []
    for k, q in enumerate(candidates):
        similar = [_cos(q, v) for v in images]
        below = sum(s < b for s, b in zip(similar, base, strict=True))
        if below >= math.ceil(share * len(base) - 1e-9):
            passed.append((-sum(b - s for s, b in zip(similar, base, strict=True)) / len(base), k))
    return base, sorted(passed)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("chunk", [3, 8192])
def test_the_choice_is_that_of_a_double_loop(seed, chunk):
    text, _, candidates = _draw(seed, 3, 3, 40)
    images = text + 0.8 * _draw(seed + 50, 3)[0]
    base, passed = _brute_selection(text, images, candidates)
    found = select_negative_texts(text, images, candidates, min(5, len(passed)), chunk=chunk)
    assert found.indices.tolist() == [k for _, k in passed[:5]]
    assert found.deviation.tolist() == pytest.approx([-d for d, _ in passed[:5]])
    assert found.base_similarity.tolist() == pytest.approx(base)
    assert found.num_passing == len(passed)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_share_of_the_classes_relaxes_the_rule(share):
    text, images, candidates = _draw(3, 5, 5, 60)
    _, passed = _brute_selection(text, images, candidates, share)
    found = select_negative_texts(text, images, candidates, 7, min_share=share)
    assert found.num_passing == len(passed)
    assert found.indices.tolist() == [k for _, k in passed[:7]]


def test_lengths_do_not_matter_and_precision_is_the_callers():
    text, images, candidates = _draw(1, 3, 3, 50)
    images = text + 0.3 * images
    found = select_negative_texts(text, images, candidates, 4)
    again = select_negative_texts(3 * text, 0.1 * images, 7 * candidates, 4)
    assert torch.equal(found.indices, again.indices)
    half = select_negative_texts(text.bfloat16(), images.bfloat16(), candidates.bfloat16(), 4)
    assert half.deviation.dtype == torch.float32
    assert half.deviation.tolist() == pytest.approx(found.deviation.tolist(), abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_text_is_never_its_own_negative(dtype):
    for seed in range(30):
        text, images, candidates = (x.to(dtype) for x in _draw(seed, 4, 4, 20, d=33))
        images = text + 0.1 * images
        found = select_negative_texts(text, images, torch.cat([text, candidates - text[0]]), 20, min_share=1.0)
        assert int(found.indices.min()) >= 4


def test_equal_deviations_keep_the_order_of_the_candidates():
    eye = torch.eye(4)
    found = select_negative_texts(eye[:2], eye[:2], torch.stack([eye[2], eye[3], eye[2], eye[0] + eye[2]]), 3)
    assert found.indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_two_pools_share_m_by_their_survivors(seed):
    text, images, candidates = _draw(seed, 2, 2, 50)
    images = text + 0.2 * images
    pools = torch.rand(50, generator=torch.Generator().manual_seed(seed)).lt(0.4).long()
    _, passed = _brute_selection(text, images, candidates)
    first, second = ([k for _, k in passed if pools[k] == p] for p in (0, 1))
    m = 9
    share = int(m * len(first) / len(passed))
    found = select_negative_texts(text, images, candidates, m, pools=pools)
    assert found.indices.tolist() == first[:share] + second[: m - share]


def test_many_pools_never_ask_for_more_than_they_have():
    eye = torch.eye(5, dtype=torch.float64)
    for m in range(1, 4):
        found = select_negative_texts(eye[:2], eye[:2], eye[2:], m, pools=torch.arange(3))
        assert len(found.indices) == len(set(found.indices.tolist())) == m


@pytest.mark.usefixtures("plain_inputs")
def test_too_few_survivors_are_all_taken_and_none_is_an_error():
    eye = torch.eye(3)
    reset_warnings()
    with pytest.warns(UserWarning, match="only 1 of 2"):
        found = select_negative_texts(eye[:2], eye[:2], eye[1:], 5)
    assert found.indices.tolist() == [1]
    with pytest.raises(ValueError, match="min_share"):
        select_negative_texts(eye[:2], eye[:2], eye[:2], 1)


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("classes", [1, 10, 20])
def test_the_baseline_takes_the_lowest_quantiles(quantile, classes):
    text, candidates = _draw(0, classes, 30)
    place = max(1, math.ceil(quantile * classes - 1e-9)) - 1
    closeness = [sorted(_cos(q, t) for t in text)[place] for q in candidates]
    expected = sorted(range(30), key=closeness.__getitem__)
    assert neglabel_select(text, candidates, 7, quantile=quantile, chunk=4).tolist() == expected[:7]
    assert len(neglabel_select(text, candidates, 99, quantile=quantile)) == 30


def _brute_score(x, text, negatives, scale, groups, order):
    negatives = [negatives[k] for k in order]
    size = len(negatives) // groups
    scores = []
    for image in x:
        known = [math.exp(scale * _cos(image, t)) for t in text]
        parts = []
        for g in range(groups):
            foreign = [math.exp(scale * _cos(image, q)) for q in negatives[g * size : (g + 1) * size]]
            parts.append(sum(known) / (sum(known) + sum(foreign)))
        scores.append(sum(parts) / groups)
    return scores


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_the_score_is_its_softmax_in_groups(groups):
    x, text, negatives = _draw(groups, 5, 3, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(groups))
    found = grouped_negative_score(x, text, negatives, scale=8.0, groups=groups, permutation=order)
    assert found.tolist() == pytest.approx(_brute_score(x, text, negatives, 8.0, groups, order), rel=1e-12)
    more = grouped_negative_score(x, text, negatives, scale=8.0, groups=70)
    torch.testing.assert_close(more, grouped_negative_score(x, text, negatives, scale=8.0, groups=7))


def test_one_group_does_not_see_the_order():
    x, text, negatives = _draw(0, 5, 3, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    same = grouped_negative_score(x, text, negatives, permutation=order)
    torch.testing.assert_close(same, grouped_negative_score(x, text, negatives))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_the_integer_type_of_an_order_does_not_matter(dtype):
    x, text, negatives = _draw(0, 5, 3, 7)
    order = torch.tensor([6, 0, 5, 2, 1, 4, 3])
    same = grouped_negative_score(x, text, negatives, groups=3, permutation=order.to(dtype))
    torch.testing.assert_close(same, grouped_negative_score(x, text, negatives, groups=3, permutation=order))


def test_scores_keep_their_gradient_and_stay_finite_at_any_scale():
    x, text, negatives = _draw(1, 4, 3, 5)
    assert torch.autograd.gradcheck(
        lambda a, b, c: grouped_negative_score(a, b, c, scale=3.0, groups=2),
        (x.requires_grad_(), text.requires_grad_(), negatives.requires_grad_()),
    )
    extreme = grouped_negative_score(x.float(), text.float(), negatives.float(), scale=1e6)
    assert bool(((extreme == 0) | (extreme == 1)).all())


@pytest.mark.parametrize("groups", [1, 2])
def test_log_odds_are_those_of_the_score_with_gradients(groups):
    x, text, negatives = (each.requires_grad_() for each in _draw(1, 4, 3, 5))
    options = {"scale": 5.0, "groups": groups, "permutation": torch.tensor([4, 0, 3, 1, 2])}
    share = grouped_negative_score(x, text, negatives, **options)
    torch.testing.assert_close(negative_log_odds(x, text, negatives, **options), share.logit())
    assert torch.autograd.gradcheck(lambda *rows: negative_log_odds(*rows, **options), (x, text, negatives))
    # In float32 as in float64, also where the score of float32 would be 1.
    options["scale"] = 100.0
    near = negative_log_odds(text.float() + 0.01, text.float(), negatives.float(), **options)
    far = negative_log_odds(text + 0.01, text, negatives, **options)
    assert float(far.detach().max()) > 40
    torch.testing.assert_close(near.double(), far, rtol=1e-4, atol=1e-4)


def test_the_surest_of_float32_features_do_not_tie():
    angle = torch.tensor([0.0, 0.1, 0.2])
    x = torch.stack([angle.cos(), angle.sin()], 1)
    for score in (
        grouped_negative_score(x, torch.eye(2)[:1], torch.eye(2)[1:], scale=30.0),
        mcm_score(x, torch.eye(2), scale=30.0),
    ):
        assert bool((score.float() == 1).all())
        assert bool((score.diff() < 0).all())


def test_groups_that_disagree_do_not_tie():
    # The negative of the first group is far, that of the second near, so that the score is a little above 1/2.
    angle = torch.tensor([0.95, 1.0, 1.05])
    x = torch.stack([angle.cos(), angle.sin()], 1)
    odds = negative_log_odds(x, torch.eye(2)[:1], torch.tensor([[-1.0, 0.0], [0.0, 1.0]]), scale=40.0, groups=2)
    wanted = 2 * (40 * (angle.cos() - angle.sin())).exp()
    torch.testing.assert_close(odds, wanted, rtol=1e-3, atol=0)


def test_more_negatives_only_lower_the_score_of_one_group():
    x, text, negatives = _draw(2, 6, 3, 9)
    assert bool((grouped_negative_score(x, text, negatives) <= grouped_negative_score(x, text, negatives[:4])).all())


def test_mcm_is_the_largest_probability():
    x, text = _draw(4, 6, 3)
    expected = (20 * normalize(x, dim=1) @ normalize(text, dim=1).T / 2).softmax(1).amax(1)
    torch.testing.assert_close(mcm_score(x, text, scale=20.0, temperature=2.0), expected)
    assert mcm_score(x, text[:1]).tolist() == [1.0] * 6


def test_without_negatives_the_score_is_mcm():
    x, text = _draw(5, 4, 3)
    reset_warnings()
    with pytest.warns(UserWarning, match="no negative texts"):
        found = grouped_negative_score(x, text, text[:0], scale=5.0)
    torch.testing.assert_close(found, mcm_score(x, text, scale=5.0))


def test_prototypes_are_mean_directions_whatever_the_lengths():
    (x,) = _draw(0, 12)
    target = torch.arange(12) % 3
    expected = normalize(torch.stack([normalize(x[target == c], dim=1).mean(0) for c in range(3)]), dim=1)
    lengths = torch.arange(1, 13)[:, None]
    torch.testing.assert_close(class_image_prototypes(lengths * x, target, 3), expected)
    torch.testing.assert_close(class_image_prototypes(x, target.to(torch.uint8), 3), expected)


def test_class_names_and_repetitions_are_left_out_and_counted(caplog):
    with caplog.at_level(logging.INFO):
        kept = foreign_words([["light", "odd", "odd"], [" LIGHT", "Grey  Seal", "stone"]], ["grey seal"])
    assert kept == [[1], [0, 2]]
    assert "3 of 6" in caplog.text


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    text, images, candidates = _draw(0, 3, 3, 8)
    candidates[5] = 0
    with pytest.raises(ValueError, match="row 5 of candidates"):
        select_negative_texts(text, images, candidates, 2, chunk=2)
    with pytest.raises(ValueError, match="permutation must hold every index from 0 to 7 once"):
        grouped_negative_score(text, text, candidates, permutation=torch.zeros(8, dtype=torch.long))
    with pytest.raises(ValueError, match="row 5 of image_features"):
        mcm_score(candidates, text)
    with pytest.raises(ValueError, match="class 1 has no image"):
        class_image_prototypes(text, torch.tensor([0, 2, 2]), 3)
    with pytest.raises(ValueError, match="0 to 1"):
        class_image_prototypes(text, torch.tensor([0, 1, 2]), 2)
    for templates in ([], ["no place"], "{} and {}"):
        with pytest.raises(ValueError, match="template"):
            encode_names(None, ["a"], templates)
