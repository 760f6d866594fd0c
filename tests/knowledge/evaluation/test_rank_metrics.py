"""Metrics of ranks against their definitions, and their expectations against all orders there are."""

import itertools
import math

import numpy as np
import pytest
import torch

from equipoise.knowledge import rank_metrics
from equipoise.knowledge.evaluation.rank_metrics import rank_intervals

# Of the metrics of PyKEEN 1.11.1, run on these ranks and numbers of candidates.
_RANKS, _CANDIDATES = [1.0, 3.5, 2.0, 17.0, 8.0], [20, 10, 2, 17, 9]
_PYKEEN = {
    "mrr": 0.3939075630252101,
    "mean_rank": 6.3,
    "median_rank": 3.5,
    "geometric_mean_rank": 3.94209775582585,
    "adjusted_mean_rank": 0.9999999999999999,
    "adjusted_mean_rank_index": 0.0,
    "adjusted_mrr": 0.0705699629375589,
    "z_mean_rank": 0.0,
    "z_mrr": 0.41740583487263905,
    "hits@1": 0.2,
    "adjusted_hits@1": 0.043077163630677845,
    "z_hits@1": 0.2446692081088706,
    "hits@3": 0.4,
    "adjusted_hits@3": 0.01322154143824572,
    "z_hits@3": 0.0478711032417074,
    "hits@10": 0.8,
    "adjusted_hits@10": -0.09677419354838701,
    "z_hits@10": -0.12576654244509466,
}


def test_values_are_those_of_the_definitions():
    found = rank_metrics(torch.tensor([1, 2, 4, 20]), ks=(1, 3, 30))
    assert found == pytest.approx(
        {
            "mrr": (1 + 1 / 2 + 1 / 4 + 1 / 20) / 4,
            "hits@1": 1 / 4,
            "hits@3": 1 / 2,
            "hits@30": 1.0,
            "mean_rank": 27 / 4,
            "median_rank": 3.0,
            "geometric_mean_rank": 160**0.25,
        }
    )


def test_values_are_those_of_pykeen():
    found = rank_metrics(torch.tensor(_RANKS, dtype=torch.float64), torch.tensor(_CANDIDATES), (1, 3, 10))
    assert {name: found[name] for name in _PYKEEN} == pytest.approx(_PYKEEN, rel=1e-9)


def test_chance_is_what_all_orders_give():
    candidates = torch.tensor([2, 3, 4])
    orders = list(itertools.product(*(range(1, n + 1) for n in candidates.tolist())))
    found = [rank_metrics(torch.tensor(ranks), candidates, (1, 2)) for ranks in orders]
    for name in found[0]:
        values = np.array([each[name] for each in found])
        if name.startswith("adjusted"):
            assert values.mean() == pytest.approx(1 if name == "adjusted_mean_rank" else 0, abs=1e-12), name
        elif name.startswith("z_"):
            assert values.mean() == pytest.approx(0, abs=1e-12), name
            assert (values**2).mean() == pytest.approx(1), name
    best = rank_metrics(torch.ones(3), candidates, (1, 2))
    assert {best[f"adjusted_{name}"] for name in ("mrr", "hits@1", "hits@2", "mean_rank_index")} == {1.0}


def test_where_chance_cannot_fail_nothing_is_adjusted():
    found = rank_metrics(torch.tensor([1.0, 1.0]), torch.tensor([1, 1]), (1,))
    assert found["adjusted_mean_rank"] == 1
    assert all(math.isnan(found[name]) for name in ("adjusted_mean_rank_index", "adjusted_mrr", "z_mrr", "z_hits@1"))


def test_intervals_take_a_triple_as_the_unit():
    generator = torch.Generator().manual_seed(0)
    ranks = torch.randint(1, 30, (50, 2), generator=generator).double()
    candidates = torch.full((50, 2), 40)
    found = rank_intervals(ranks, candidates, (1, 10), 0.9)
    whole = rank_metrics(ranks.flatten(), candidates.flatten(), (1, 10))
    for name, interval in found.items():
        assert interval.estimate == pytest.approx(whole[name]), name
        assert interval.low <= interval.estimate <= interval.high, name
    means = (1 / ranks).mean(1)
    width = 1.6448536 * float(means.std()) / math.sqrt(50)
    assert found["mrr"].high - found["mrr"].estimate == pytest.approx(width)
    doubled = rank_intervals(ranks[:, [0, 0]], candidates, (1,), 0.9)["mrr"]
    single = rank_intervals(ranks[:, [0]], candidates[:, [0]], (1,), 0.9)["mrr"]
    assert (doubled.low, doubled.high) == pytest.approx((single.low, single.high))
    assert rank_intervals(ranks[:1], candidates[:1], (1,), 0.9)["mrr"].low == -math.inf


def test_bad_input_is_refused(plain_inputs):
    with pytest.raises(ValueError, match="ranks must be at least 1"):
        rank_metrics(torch.tensor([0.5]))
    with pytest.raises(ValueError, match="ranks holds 5 at index 1, where there are 4 candidates"):
        rank_metrics(torch.tensor([1.0, 5.0]), torch.tensor([4, 4]))
    with pytest.raises(ValueError, match="ranks is empty"):
        rank_metrics(torch.zeros(0))
    with pytest.raises(ValueError, match="ranks holds 1 NaN"):
        rank_metrics(torch.tensor([math.nan]))
    with pytest.raises(ValueError, match=r"ks\[0\]=0"):
        rank_metrics(torch.tensor([1.0]), ks=[0])
