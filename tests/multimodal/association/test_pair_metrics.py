"""Verification and retrieval, beside scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn.functional import cosine_similarity

from equipoise.core.curves.average_precisions import average_precisions
from equipoise.multimodal import (
    CrossModalRetrievalMAP,
    VerificationAUC,
    cross_modal_retrieval_map,
    verification_auc,
)
from equipoise.multimodal.association import pairs


def _problem(seed, coarse):
    generator = torch.Generator().manual_seed(seed)
    query, gallery = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (17, 23))
    if coarse:
        query, gallery = query.round(), gallery.round()
    identity = torch.randint(0, 6, (40,), generator=generator)
    identity[0] = 99
    return query, gallery, identity[:17], identity[17:]


def _table(query, gallery, query_identity, gallery_identity):
    scores = cosine_similarity(query[:, None], gallery, dim=-1).mul(2**24).round().numpy()
    return scores, (query_identity[:, None] == gallery_identity).numpy()


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_both_are_those_of_scikit_learn(seed, coarse):
    problem = _problem(seed, coarse)
    scores, same = _table(*problem)
    assert float(verification_auc(*problem)) == pytest.approx(roc_auc_score(same.ravel(), scores.ravel()), abs=1e-12)
    wanted = np.mean([average_precision_score(y, s) for y, s in zip(same, scores, strict=True) if y.any()])
    assert float(cross_modal_retrieval_map(*problem)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_groups_leave_the_pairs_of_other_groups_out(seed):
    problem = _problem(seed, True)
    scores, same = _table(*problem)
    groups = problem[2] % 2, problem[3] % 2
    inside = (groups[0][:, None] == groups[1]).numpy()
    wanted = roc_auc_score(same[inside], scores[inside])
    assert float(verification_auc(*problem, *groups)) == pytest.approx(wanted, abs=1e-12)
    rows = zip(same, scores, inside, strict=True)
    wanted = np.mean([average_precision_score(y[k], s[k]) for y, s, k in rows if y.any()])
    assert float(cross_modal_retrieval_map(*problem, *groups)) == pytest.approx(wanted, abs=1e-12)


def test_blocks_of_queries_change_nothing(monkeypatch):
    problem = _problem(1, True)
    groups = problem[2] % 2, problem[3] % 2
    wanted = verification_auc(*problem, *groups), cross_modal_retrieval_map(*problem, *groups)
    monkeypatch.setattr(pairs, "_TABLE", 30)
    assert (verification_auc(*problem, *groups), cross_modal_retrieval_map(*problem, *groups)) == wanted


@pytest.mark.parametrize("metric", [verification_auc, cross_modal_retrieval_map])
def test_order_and_length_of_embeddings_do_not_matter(metric):
    query, gallery, query_identity, gallery_identity = _problem(2, False)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    found = metric(3 * query, gallery[order] / 7, query_identity, gallery_identity[order])
    torch.testing.assert_close(found, metric(query, gallery, query_identity, gallery_identity))


@pytest.mark.parametrize("metric", [VerificationAUC, CrossModalRetrievalMAP])
def test_an_empty_metric_is_nan_with_a_warning(metric):
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert bool(metric().compute().isnan())


@pytest.mark.parametrize("metric", [verification_auc, cross_modal_retrieval_map])
@pytest.mark.usefixtures("plain_inputs")
def test_what_cannot_be_judged_is_refused(metric):
    one, two = torch.randn(2, 3), torch.randn(3, 3)
    with pytest.raises(ValueError, match="no query has an item of its identity"):
        metric(one, two, torch.tensor([0, 1]), torch.tensor([2, 3, 4]))
    with pytest.raises(ValueError, match="no query has an item of another identity"):
        metric(one, two, torch.tensor([0, 0]), torch.tensor([0, 0, 0]))


def test_average_precisions_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (30, 20), generator=generator).float()
    relevant = torch.rand(30, 20, generator=generator) < 0.3
    relevant[:, 0] = True
    relevant[4] = False
    found = average_precisions(scores, relevant)
    assert bool(found[4].isnan())
    for row in range(30):
        if row != 4:
            wanted = average_precision_score(relevant[row].numpy(), scores[row].numpy())
            assert float(found[row]) == pytest.approx(wanted, abs=1e-12)
