"""What is decided about samples and identities: combined cleaners, leakage, separation, replacement."""

import itertools
import math

import pytest
import torch

from equipoise.generative import (
    calibrate_leakage_threshold,
    combine_cleaners,
    greedy_separation,
    identity_centres,
    leakage_check,
    replace_small_identities,
    similarity_histogram,
)
from equipoise.generative.curation import leakage, separation


def _rows(seed, n, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MEMBERS = list(range(8))
DECISIONS = [[0, 1, 2, 3], [1, 2, 5], [2, 3, 5, 7], [2, 0]]


@pytest.mark.parametrize("cleaners", [1, 2, 3, 4])
def test_modes_by_counting(cleaners):
    given = DECISIONS[:cleaners]
    votes = [sum(name in kept for kept in given) for name in MEMBERS]
    assert combine_cleaners(MEMBERS, *given) == [k for k in MEMBERS if votes[k] == cleaners]
    assert combine_cleaners(MEMBERS, *given, mode="union") == [k for k in MEMBERS if votes[k] > 0]
    if cleaners >= 3:
        assert combine_cleaners(MEMBERS, *given, mode="majority") == [k for k in MEMBERS if votes[k] > cleaners / 2]


def test_weighted_votes_and_what_they_contain():
    given = DECISIONS[:3]
    weights = (0.5, 0.25, 2.0)
    vote = [sum(a for a, kept in zip(weights, given, strict=True) if name in kept) for name in MEMBERS]
    for bound in (0.25, 0.75, 2.0, 2.75):
        found = combine_cleaners(MEMBERS, *given, mode="weighted", weights=weights, bound=bound)
        assert found == [k for k in MEMBERS if vote[k] >= bound]
    default = combine_cleaners(MEMBERS, *given, mode="weighted", weights=weights)
    assert default == [k for k in MEMBERS if vote[k] >= 1.375]
    equal = combine_cleaners(MEMBERS, *given, mode="weighted", weights=(1, 1, 1), bound=3)
    assert equal == combine_cleaners(MEMBERS, *given)


def test_names_tensors_and_the_empty_set_are_members():
    assert combine_cleaners(("b", "a"), ["a", "b"]) == ["b", "a"]
    assert combine_cleaners(torch.tensor([3, 1]), torch.tensor([1])) == [1]
    assert combine_cleaners([], []) == []


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: combine_cleaners([1, 2]), "decisions are missing"),
        (lambda: combine_cleaners([1, 1], [1]), "members hold 1 twice"),
        (lambda: combine_cleaners([1, 2], [3]), r"decisions\[0\] keeps 3, which is not among the members"),
        (lambda: combine_cleaners([1, 2], [1], [2], mode="majority"), "needs at least 3 decisions"),
        (lambda: combine_cleaners([1, 2], [1], mode="any"), "mode='any' is not known"),
        (lambda: combine_cleaners([1, 2], [1], mode="weighted"), "weights=None must be 1 finite numbers"),
        (lambda: combine_cleaners([1, 2], [1], mode="weighted", weights=(-1.0,)), "weights"),
        (lambda: combine_cleaners([1, 2], [1], weights=(1.0,)), "weights and bound are for mode='weighted'"),
    ],
)
def test_bad_decisions_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_leakage_by_the_whole_matrix():
    candidates, reference = _rows(0, 30), _rows(1, 20)
    whole = torch.nn.functional.cosine_similarity(candidates[:, None], reference[None], dim=2)
    found = leakage_check(candidates, reference, 0.8)
    torch.testing.assert_close(found.max_similarity, whole.amax(1))
    assert found.nearest.equal(whole.argmax(1))
    assert found.leaked.equal(whole.amax(1) >= 0.8)


def test_a_threshold_that_is_reached_is_a_leak():
    assert leakage_check(torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]]), 0.6).leaked.item()


def test_centres_are_means_of_directions(monkeypatch):
    rows, identity = _rows(2, 40), torch.arange(40) % 7 * 3
    monkeypatch.setattr(leakage, "_ROWS", 9)
    found = identity_centres(rows, identity)
    unit = rows / rows.norm(dim=1, keepdim=True)
    assert found.identity.tolist() == [0, 3, 6, 9, 12, 15, 18]
    for centre, who in zip(found.centres, found.identity.tolist(), strict=True):
        wanted = unit[identity == who].mean(0)
        torch.testing.assert_close(centre, wanted / wanted.norm())
    with pytest.raises(ValueError, match="identity 4 cancel"):
        identity_centres(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), torch.tensor([4, 4]))


@pytest.mark.parametrize("block", [3, 7, 1000])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_calibrated_threshold_is_the_quantile_of_all_impostor_pairs(monkeypatch, block, rate):
    monkeypatch.setattr(leakage, "_ROWS", block)
    rows, identity = _rows(3, 40), torch.arange(40) % 13
    pairs = sorted(
        (
            float(torch.nn.functional.cosine_similarity(rows[i], rows[j], dim=0))
            for i, j in itertools.combinations(range(40), 2)
            if identity[i] != identity[j]
        ),
        reverse=True,
    )
    threshold = calibrate_leakage_threshold(rows, identity, rate)
    assert threshold == pytest.approx(pairs[int(rate * len(pairs)) - 1])
    assert sum(each >= threshold - 1e-12 for each in pairs) <= rate * len(pairs)


def test_equal_cosines_match_together_or_not_at_all():
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, -0.8], [-1.0, 0.0]])
    threshold = calibrate_leakage_threshold(rows, torch.tensor([0, 1, 1, 2, 3]), 0.25)
    # Two of nine pairs may match; three have the cosine .6.
    assert 0.6 < threshold < 0.6001


@pytest.mark.usefixtures("plain_inputs")
def test_too_few_pairs_and_useless_rates_are_refused():
    rows, identity = _rows(3, 6), torch.arange(6)
    with pytest.raises(ValueError, match="reference has 15 pairs of different identities, too few"):
        calibrate_leakage_threshold(rows, identity, 1e-3)
    with pytest.raises(ValueError, match="which is no threshold"):
        calibrate_leakage_threshold(-torch.eye(3) + 0.5 * torch.ones(3, 3), torch.arange(3), 0.5)


def test_a_histogram_counts_everybody():
    values = torch.rand(500, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = similarity_histogram(values, 16)
    assert int(found.counts.sum()) == 500
    assert found.counts.tolist() == torch.histc(values, 16, -1, 1).long().tolist()


@pytest.mark.parametrize("block", [1, 4, 1024])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("others", [0, 5])
def test_separation_is_first_come_first_kept(monkeypatch, block, threshold, others):
    monkeypatch.setattr(separation, "_ROWS", block)
    rows, existing = _rows(4, 50), _rows(5, others)
    unit, fixed = (each / each.norm(dim=1, keepdim=True) for each in (rows, existing))
    kept = []
    for i in range(50):
        against = [*fixed, *unit[kept]]
        if all(float(unit[i] @ other) < threshold for other in against):
            kept.append(i)
    assert greedy_separation(rows, threshold, existing=existing).tolist() == kept
    if not others:
        assert greedy_separation(rows, threshold).tolist() == kept


def test_separation_of_nothing_and_of_copies():
    assert greedy_separation(torch.zeros(0, 3), 0.5).tolist() == []
    assert greedy_separation(torch.ones(9, 3), 0.99).tolist() == [0]


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: leakage_check(torch.ones(2, 3), torch.ones(2, 4)), "reference must have shape .* d = 3"),
        (lambda: leakage_check(torch.ones(3), torch.ones(2, 3)), "candidates must have shape"),
        (lambda: leakage_check(torch.ones(2, 3), torch.ones(0, 3)), "reference is empty"),
        (lambda: leakage_check(torch.ones(2, 3), torch.zeros(2, 3)), "row 0 of reference is zero"),
        (lambda: leakage_check(torch.full((2, 3), math.nan), torch.ones(2, 3)), "row 0 of candidates holds NaN"),
        (lambda: leakage_check(torch.ones(2, 3), torch.ones(2, 3), 1.0), "threshold=1.0"),
        (lambda: leakage_check(torch.ones(2, 3), torch.ones(2, 3), 0.0), "threshold=0.0"),
        (lambda: greedy_separation(torch.zeros(2, 3), 0.5), "row 0 of identity_embeddings is zero"),
        (lambda: greedy_separation(torch.ones(2, 3), 0.5, existing=torch.ones(1, 2)), "existing must have shape"),
        (lambda: greedy_separation(torch.ones(2, 3), 1.5), "threshold=1.5"),
    ],
)
def test_bad_embeddings_and_thresholds_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


COUNTS = {"a": 12, "b": 4, "c": 50, "d": 9, "e": 10}


def test_small_identities_are_replaced_in_order():
    found = replace_small_identities(COUNTS, ["s1", "s2", "s3"])
    assert found.removed == ["b", "d"]
    assert found.order == ["s1", "s2", "a", "c", "e"]
    last = replace_small_identities(COUNTS, ["s1", "s2"], synthetic_first=False)
    assert last.order == ["a", "c", "e", "s1", "s2"]
    assert replace_small_identities(COUNTS, [], min_images=1).order == list("abcde")


def test_a_generator_draws_synthetic_identities():
    names = [f"s{k}" for k in range(30)]
    drawn = [replace_small_identities(COUNTS, names, generator=torch.Generator().manual_seed(k)) for k in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0].order[:2]) <= set(names)
    assert len(set(drawn[0].order)) == 5


def test_too_few_synthetic_identities_are_an_error_or_a_warning():
    with pytest.raises(ValueError, match="synthetic_identities has 1 names, and 2 identities are to be replaced"):
        replace_small_identities(COUNTS, ["s1"])
    with pytest.warns(UserWarning, match="synthetic_identities has 1 names"):
        assert replace_small_identities(COUNTS, ["s1"], allow_short=True).order == ["s1", "a", "c", "e"]


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("counts", "names", "words"),
    [
        ({}, ["s"], "image_counts is empty"),
        ({"a": 1.5}, ["s"], r"image_counts\['a'\]=1.5 must be a whole number"),
        ({"a": -1}, ["s"], "must be at least 0"),
        ({"a": 1}, ["a"], "synthetic_identities hold 'a', which is in image_counts"),
        ({"a": 1}, ["s", "s"], "synthetic_identities hold 's' twice"),
    ],
)
def test_bad_identities_are_refused(counts, names, words):
    with pytest.raises(ValueError, match=words):
        replace_small_identities(counts, names)


def test_a_share_that_is_a_whole_number_of_pairs_is_that_many():
    # Of 100 pairs .29 are 29, and 0.29 * 100 is a rounding less.
    angle = torch.linspace(0.1, 1.4, 10, dtype=torch.float64)
    rows = torch.cat([torch.stack([angle.cos(), angle.sin()], 1), torch.stack([angle.cos(), -angle.sin()], 1)])
    rows = rows + 1e-3 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    identity = torch.arange(2).repeat_interleave(10)
    threshold = calibrate_leakage_threshold(rows, identity, 0.29)
    unit = rows / rows.norm(dim=1, keepdim=True)
    assert int((unit[:10] @ unit[10:].T >= threshold - 1e-12).sum()) == 29


def test_a_bound_is_reached_by_weights_that_sum_to_it():
    assert combine_cleaners([0, 1], [0], [0], [1], mode="weighted", weights=[0.1, 0.7, 0.2], bound=0.8) == [0]
    assert combine_cleaners([0], [0], [0], [], mode="weighted", weights=[0.1, 0.7, 0.8]) == [0]
    assert combine_cleaners([0], [0], [0], [], mode="weighted", weights=[0.1, 0.7, 0.8], bound=0.8001) == []
