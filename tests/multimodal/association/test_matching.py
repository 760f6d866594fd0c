import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from equipoise.multimodal import MatchingAccuracy, gallery_matching_accuracy, matching_accuracy
from equipoise.multimodal.association.matching import chance_on_top

TIES = ("fractional", "optimistic", "pessimistic")


def _credit(own, others, ties):
    tied = sum(x == own for x in others)
    if max(others) > own:
        return 0.0
    return {"fractional": 1 / (1 + tied), "optimistic": 1.0, "pessimistic": float(tied == 0)}[ties]


def _all_lists(scores, n_way, ties):
    """The mean over queries of the mean over positives of the mean over every list of N − 1 negatives."""
    found = []
    for own, others in scores:
        if own and len(others) >= n_way - 1:
            lists = list(itertools.combinations(others, n_way - 1))
            found.append(np.mean([np.mean([_credit(s, each, ties) for each in lists]) for s in own]))
    return float(np.mean(found))


def _problem(seed=0, q=9, g=11, identities=4):
    """Coarse embeddings, so that scores tie."""
    generator = torch.Generator().manual_seed(seed)
    query, gallery = (torch.randint(-1, 2, (n, 2), generator=generator).double() for n in (q, g))
    return query, gallery, torch.arange(q) % identities, (3 * torch.arange(g)) % (identities + 1)


def _scores(query, gallery, query_identity, gallery_identity, groups=None):
    table = (cosine_similarity(query[:, None], gallery, dim=-1) * 2**24).round() / 2**24
    found = []
    for i, row in enumerate(table):
        same = gallery_identity == query_identity[i]
        kept = torch.ones_like(same) if groups is None else groups[1] == groups[0][i]
        found.append((row[same].tolist(), row[~same & kept].tolist()))
    return found


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("n_way", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_mean_over_all_lists(n_way, ties, seed):
    problem = _problem(seed)
    found = gallery_matching_accuracy(*problem, n_way=(n_way,), ties=ties)[f"1:{n_way}"]
    assert float(found) == pytest.approx(_all_lists(_scores(*problem), n_way, ties), abs=1e-12)


def test_negatives_come_from_the_own_group():
    query, gallery, query_identity, gallery_identity = _problem(5, 12, 14)
    groups = query_identity % 2, gallery_identity % 2
    found = gallery_matching_accuracy(query, gallery, query_identity, gallery_identity, *groups, n_way=(2, 3))
    scores = _scores(query, gallery, query_identity, gallery_identity, groups)
    for n_way in (2, 3):
        assert float(found[f"1:{n_way}"]) == pytest.approx(_all_lists(scores, n_way, "fractional"), abs=1e-12)


@pytest.mark.parametrize("ties", TIES)
def test_the_chance_is_the_sum_over_the_number_of_tied(ties):
    for above, tied, below, n_way in itertools.product(range(3), range(4), range(5), range(2, 6)):
        total = above + tied + below
        if total < n_way - 1:
            continue
        lists = itertools.combinations([1] * above + [0] * tied + [-1] * below, n_way - 1)
        wanted = np.mean([_credit(0, each, ties) for each in lists])
        counts = (torch.tensor([x]) for x in (above, tied, total))
        assert float(chance_on_top(*counts, n_way, ties)) == pytest.approx(wanted, abs=1e-12)


def test_the_chance_keeps_its_digits_with_many_negatives():
    above, tied, negatives = (torch.tensor([x]) for x in (1000, 3, 1_000_000))
    lists, total = 10, 1_000_000
    exact = sum(
        math.comb(3, k) * math.comb(total - 1003, lists - 1 - k) / (k + 1) / math.comb(total, lists - 1)
        for k in range(4)
    )
    assert float(chance_on_top(above, tied, negatives, lists)) == pytest.approx(exact, rel=1e-9)


def test_a_perfect_and_a_blind_model():
    identity = torch.arange(30)
    one = torch.eye(30)
    assert float(gallery_matching_accuracy(one, one, identity, identity, n_way=(10,))["1:10"]) == 1
    constant = torch.ones(30, 4)
    found = gallery_matching_accuracy(constant, constant, identity, identity, n_way=(2, 10))
    assert found["1:2"] == pytest.approx(1 / 2)
    assert found["1:10"] == pytest.approx(1 / 10)


def test_listed_candidates_by_hand():
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    listed = torch.tensor(
        [[[2.0, 0.1], [1.0, 1.0], [3.0, 0.15]], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0]] * 3]
    )
    wanted = {"fractional": (1 / 2 + 0 + 1 / 3) / 3, "optimistic": 2 / 3, "pessimistic": 0.0}
    for ties in TIES:
        assert float(matching_accuracy(query, listed, ties=ties)) == pytest.approx(wanted[ties])
    assert float(matching_accuracy(query, listed, n_way=2)) == pytest.approx((1 + 0 + 1 / 2) / 3)


def test_equal_candidates_tie_in_every_place_and_a_zero_vector_scores_zero():
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(20, 33, generator=generator), torch.randn(1, 33, generator=generator)
    constant = gallery.expand(97, 33).contiguous()
    identity = torch.arange(97)
    assert gallery_matching_accuracy(query, constant, identity[:20], identity)["1:2"] == pytest.approx(0.5)
    zero = torch.zeros(97, 33)
    assert gallery_matching_accuracy(query, zero, identity[:20], identity)["1:2"] == pytest.approx(0.5)


def test_a_metric_takes_sides_of_different_length():
    query, gallery, query_identity, gallery_identity = _problem()
    metric = MatchingAccuracy(n_way=(2, 3))
    metric.update(query[:4], gallery[:1], query_identity[:4], gallery_identity[:1])
    metric.update(query[4:], gallery[1:], query_identity[4:], gallery_identity[1:])
    wanted = gallery_matching_accuracy(query, gallery, query_identity, gallery_identity, n_way=(2, 3))
    assert metric.compute() == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_identity": torch.tensor([7, 8])}, "no query has an item of its identity"),
        ({"gallery_identity": torch.tensor([0, 0, 0]), "query_identity": torch.tensor([0, 0])}, "of another identity"),
        ({"n_way": (4,)}, "n_way=4 needs 3 negatives for a query, the most that one has are 2"),
        ({"n_way": (1,)}, r"n_way\[0\]=1 must"),
        ({"query_group": torch.tensor([0, 1])}, "gallery_group is missing"),
        (
            {"query_group": torch.tensor([0, 1]), "gallery_group": torch.tensor([1, 1, 1])},
            "identity 0 has two groups",
        ),
        ({"gallery": torch.zeros(3, 5)}, "gallery must have shape"),
        ({"gallery_identity": torch.arange(2)}, "gallery_identity must have shape"),
        ({"ties": "half"}, "ties='half' is not known"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused(change, message):
    good = {
        "query": torch.randn(2, 4),
        "gallery": torch.randn(3, 4),
        "query_identity": torch.tensor([0, 1]),
        "gallery_identity": torch.tensor([0, 1, 2]),
    }
    with pytest.raises(ValueError, match=message):
        gallery_matching_accuracy(**{**good, **change})


@pytest.mark.usefixtures("plain_inputs")
def test_short_lists_are_refused():
    with pytest.raises(ValueError, match="candidates lists 1 for each query, wanted 2"):
        matching_accuracy(torch.ones(3, 2), torch.ones(3, 1, 2))
    with pytest.raises(ValueError, match="candidates lists 3 for each query, wanted 4"):
        matching_accuracy(torch.ones(3, 2), torch.ones(3, 3, 2), n_way=4)
