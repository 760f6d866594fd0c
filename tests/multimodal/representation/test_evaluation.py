"""Detail and classes in embeddings: pairs, clusters and linear probes, beside brute force and scikit-learn."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from equipoise.multimodal import (
    FactorProbe,
    cluster_embeddings,
    clustering_scores,
    pair_scores,
    paired_detail_accuracy,
)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_pair_counts_only_if_both_statements_prefer_their_own_image():
    scores = torch.randn(500, 2, 2, generator=_generator()).round(decimals=1)
    right = [bool(s[0, 0] > s[0, 1]) and bool(s[1, 1] > s[1, 0]) for s in scores]
    found = paired_detail_accuracy(scores)
    assert found.right.tolist() == right
    assert found.accuracy == np.mean(right)
    assert 0.15 < found.accuracy < 0.3
    assert found.by_category == {}


def test_ties_are_wrong_and_a_constant_preference_earns_nothing():
    assert paired_detail_accuracy(torch.zeros(3, 2, 2)).accuracy == 0
    prefers_first = torch.tensor([[[2.0, 1.0], [2.0, 1.0]]])
    assert paired_detail_accuracy(prefers_first).accuracy == 0
    # A difference that a softmax in float32 would round to one half is a difference.
    assert paired_detail_accuracy(torch.tensor([[[1.0, 1 - 6e-8], [0.0, 1.0]]])).accuracy == 1


def test_categories_count_alike():
    scores = torch.zeros(4, 2, 2)
    scores[0] = torch.eye(2)
    found = paired_detail_accuracy(scores, torch.tensor([5, 2, 2, 2]))
    assert found.by_category == {2: 0.0, 5: 1.0}
    assert found.accuracy == 0.5


def test_scores_of_pairs_are_cosines_of_statements_and_images():
    images, statements = torch.randn(3, 2, 4, generator=_generator()), torch.randn(3, 2, 4, generator=_generator(1))
    found = pair_scores(images, statements)
    for n, t, i in itertools.product(range(3), range(2), range(2)):
        wanted = torch.cosine_similarity(statements[n, t], images[n, i], dim=0)
        torch.testing.assert_close(found[n, t, i], wanted)


@pytest.mark.parametrize("seed", range(15))
def test_clusters_beside_permutations_and_scikit_learn(seed):
    generator = _generator(seed)
    clusters, classes, n = 1 + seed % 5, 1 + (seed // 3) % 5, 6 + seed
    assignment = torch.randint(clusters, (n,), generator=generator)
    label = torch.randint(-2, classes - 2, (n,), generator=generator)
    found = clustering_scores(assignment, label)
    values, kinds = assignment.unique().tolist(), label.unique().tolist()
    kinds += [None] * max(0, len(values) - len(kinds))
    best = max(
        sum(
            int(((assignment == one) & (label == kind)).sum())
            for one, kind in zip(values, order, strict=False)
            if kind is not None
        )
        for order in itertools.permutations(kinds)
    )
    assert found.accuracy == pytest.approx(best / n)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(label, assignment), abs=1e-12)
    assert found.ari == pytest.approx(adjusted_rand_score(label, assignment), abs=1e-12)


def test_names_of_clusters_do_not_matter():
    assignment, label = torch.tensor([0, 1, 1, 2, 0, 2]), torch.tensor([0, 1, 0, 2, 0, 1])
    renamed = torch.tensor([40, -3, 7])[assignment]
    assert clustering_scores(renamed, label) == clustering_scores(assignment, label)
    assert clustering_scores(torch.zeros(4).long(), torch.ones(4).long()) == (1.0, 1.0, 1.0)


def test_embeddings_in_clumps_are_found_by_direction():
    label = torch.arange(60) % 3
    embeddings = torch.eye(3)[label] + 0.05 * torch.randn(60, 3, generator=_generator())
    sizes = (4 * torch.randn(60, 1, generator=_generator(1))).exp()
    assert cluster_embeddings(sizes * embeddings, label) == (1.0, pytest.approx(1.0), 1.0)
    assert cluster_embeddings(sizes * embeddings, label, normalize=False).nmi < 0.95
    assert cluster_embeddings(embeddings, label, clusters=6).nmi < 0.9


def test_bad_clusters_are_refused(plain_inputs):
    with pytest.raises(ValueError, match="label must have shape"):
        clustering_scores(torch.zeros(3).long(), torch.zeros(4).long())
    with pytest.raises(ValueError, match="assignment is empty"):
        clustering_scores(torch.zeros(0).long(), torch.zeros(0).long())
    with pytest.raises(ValueError, match="fewer than the clusters=5"):
        cluster_embeddings(torch.randn(4, 2), torch.arange(4), clusters=5)
    with pytest.raises(ValueError, match="scores must have shape"):
        paired_detail_accuracy(torch.zeros(3, 2))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_the_probe_is_the_logistic_regression_of_scikit_learn(classes, strength):
    z = torch.randn(300, 5, generator=_generator(), dtype=torch.float64) * torch.tensor([1.0, 2, 3, 0.1, 1])
    factor = (z[:, :classes] + torch.randn(300, classes, generator=_generator(1))).argmax(1) * 10
    probe = FactorProbe(strength, standardize=False).fit(z, factor)
    wanted = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(z.numpy(), factor.numpy())
    ours = torch.softmax(z @ probe.weight_.T + probe.bias_, 1)
    if classes > 2:
        torch.testing.assert_close(ours, torch.tensor(wanted.predict_proba(z.numpy())), atol=1e-4, rtol=0)
    assert (probe.predict(z).numpy() == wanted.predict(z.numpy())).mean() > 0.98
    assert probe.predict(z).unique().tolist() == sorted(factor.unique().tolist())


def test_the_probe_standardises_and_a_constant_dimension_does_no_harm():
    z = torch.randn(200, 3, generator=_generator())
    z[:, 2] = 4.0
    colour = z[:, 0] > 0
    probe = FactorProbe().fit(z, colour)
    assert probe.score(z, colour) > 0.97
    far = FactorProbe().fit(z * 100 + 7, colour)
    assert far.predict(z * 100 + 7).equal(probe.predict(z))
    assert probe.predict(z).dtype is torch.bool
    assert repr(probe) == "FactorProbe(strength=1.0, standardize=True, max_steps=500)"


def test_bad_probes_are_refused(plain_inputs):
    z, one = torch.randn(4, 2), torch.zeros(4).long()
    with pytest.raises(ValueError, match="one value"):
        FactorProbe().fit(z, one)
    with pytest.raises(ValueError, match="factor must have shape"):
        FactorProbe().fit(z, one[:3])
    with pytest.raises(RuntimeError, match="call fit first"):
        FactorProbe().predict(z)
    probe = FactorProbe().fit(z, torch.arange(4) % 2)
    with pytest.raises(ValueError, match="embeddings have 3 dimensions"):
        probe.predict(torch.randn(2, 3))
