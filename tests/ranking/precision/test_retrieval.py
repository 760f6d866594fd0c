import math

import pytest
import torch

from equipoise.ranking import RetrievalMetrics, SOPRCLoss, retrieval_metrics, soprc_query_loss
from equipoise.ranking.precision.auprc import soprc_interpolate
from equipoise.ranking.precision.retrieval import soprc_batch_loss

TARGET = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])


def _embeddings(seed=0, n=10):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _by_queries(similarity, target, v, priors, **options):
    queries = []
    for i in range(len(target)):
        own = (target == target[i]) & (torch.arange(len(target)) != i)
        if own.any() and (target != target[i]).any():
            queries.append(
                soprc_query_loss(
                    similarity[i][own],
                    similarity[i][target != target[i]],
                    v[target[i]],
                    float(priors[target[i]]),
                    **options,
                )
            )
    return torch.stack(queries).mean()


@pytest.mark.parametrize("order", [None, 3])
def test_the_batch_loss_is_the_mean_over_queries_in_any_order(order):
    target, x = TARGET, _embeddings()
    if order is not None:
        shuffle = torch.randperm(len(target), generator=torch.Generator().manual_seed(order))
        target, x = target[shuffle], x[shuffle]
    x = x / x.norm(dim=1, keepdim=True)
    v = torch.rand(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    priors = torch.tensor([0.1, 0.05, 0.02, 0.01], dtype=torch.float64)
    found = soprc_batch_loss(x @ x.T, target, v, priors, tau1=0.4, tau2=0.1)
    torch.testing.assert_close(found, _by_queries(x @ x.T, target, v, priors, tau1=0.4, tau2=0.1))


def test_gradients_reach_the_embeddings():
    loss = SOPRCLoss([3, 2, 4, 1], tau1=0.5, tau2=0.3, tpr_grad=True, num_v=5).double().eval()
    assert torch.autograd.gradcheck(lambda x: loss(x, TARGET), _embeddings().requires_grad_())


def test_v_takes_the_mean_over_the_anchors_of_a_class():
    loss = SOPRCLoss([3, 2, 4, 1], beta=0.25, num_v=6).double()
    before, x = loss.v.clone(), _embeddings()
    loss(x, TARGET)
    unit = x / x.norm(dim=1, keepdim=True)
    similarity = unit @ unit.T
    pictures = [soprc_interpolate(torch.stack([similarity[i, j] for j in range(3) if j != i]), 6) for i in range(3)]
    torch.testing.assert_close(loss.v[0], 0.75 * before[0] + 0.25 * torch.stack(pictures).mean(0))
    assert torch.equal(loss.v[3], before[3])
    loss.eval()
    kept = loss.v.clone()
    loss(x, TARGET)
    assert torch.equal(loss.v, kept)


def test_frequent_classes_have_the_larger_prior():
    assert SOPRCLoss([10, 40], prior_mul=0.2).priors.tolist() == pytest.approx([0.05, 0.2])


def _brute_force(x, target, ks):
    x = x / x.norm(dim=1, keepdim=True)
    closeness = x @ x.T
    precisions, hits = [], {k: [] for k in ks}
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        relevant = [j for j in others if target[j] == target[i]]
        if not relevant:
            continue
        at_least = {j: [o for o in others if closeness[i, o] >= closeness[i, j]] for j in relevant}
        precisions.append(
            sum(sum(o in relevant for o in at_least[j]) / len(at_least[j]) for j in relevant) / len(relevant)
        )
        best = max(closeness[i, j] for j in relevant)
        ahead = sum(closeness[i, o] >= best for o in others if o not in relevant)
        for k in ks:
            hits[k].append(float(ahead < k))
    return {"mAP": sum(precisions) / len(precisions)} | {f"recall@{k}": sum(h) / len(h) for k, h in hits.items()}


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_counting_one_by_one(seed):
    x = _embeddings(seed, 30)
    if seed % 2:
        # Few distinct directions: ties and duplicates of the query.
        x = torch.randint(-1, 2, (30, 3), generator=torch.Generator().manual_seed(seed)).double()
        x[x.abs().sum(1) == 0] = 1.0
        x = x * torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    target = torch.randint(0, 8, (30,), generator=torch.Generator().manual_seed(seed))
    found = retrieval_metrics(x, target, recall_at=(1, 3))
    wanted = _brute_force(x, target, (1, 3))
    assert {k: float(v) for k, v in found.items()} == pytest.approx(wanted)


def test_blocks_of_queries_change_nothing(monkeypatch):
    x, whole = _embeddings(4), retrieval_metrics(_embeddings(4), TARGET, recall_at=(1, 2))
    monkeypatch.setattr("equipoise.ranking.precision.retrieval_metrics._TABLE", 7)
    assert retrieval_metrics(x, TARGET, recall_at=(1, 2)) == whole
    monkeypatch.setattr("equipoise.ranking.precision.retrieval._TABLE", 7)
    v, priors = torch.zeros(4, 3, dtype=torch.float64), torch.full((4,), 0.1, dtype=torch.float64)
    torch.testing.assert_close(soprc_batch_loss(x @ x.T, TARGET, v, priors), _by_queries(x @ x.T, TARGET, v, priors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_neighbours_far_from_the_origin_are_the_same(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-300, 300, (60, 5), generator=generator).to(dtype) / 256
    target = torch.arange(60) % 6
    far, near = (retrieval_metrics(x + shift, target, similarity="euclidean") for shift in (8192.0, 0.0))
    assert far == near


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_equal_items_tie_wherever_they_stand(similarity):
    one = torch.randn(1, 37, generator=torch.Generator().manual_seed(0))
    target = torch.arange(67) % 2
    found = retrieval_metrics(one.expand(67, -1).contiguous(), target, similarity=similarity)
    # 34 of one class and 33 of the other; nobody is found before an item of the other class.
    wanted = (34 * 33 / 66 + 33 * 32 / 66) / 67
    assert float(found["mAP"]) == pytest.approx(wanted)
    assert float(found["recall@1"]) == 0


def test_a_gallery_is_ranked_for_queries_apart():
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.3]])
    found = retrieval_metrics(
        torch.tensor([[1.0, 0.1]]), torch.tensor([1]), gallery=gallery, gallery_target=torch.tensor([0, 1, 1])
    )
    # Closest first: 0 (other), 2 (own), 1 (own).
    assert found["mAP"].item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    near = retrieval_metrics(gallery, torch.tensor([0, 1, 0]), similarity="euclidean")
    assert near["recall@1"] == 1.0
    dots = retrieval_metrics(torch.tensor([[1.0], [1.0], [5.0]]), torch.tensor([0, 0, 1]), similarity="dot")
    assert dots["recall@1"] == 0.0


def test_batches_of_embeddings_are_judged_together():
    metric = RetrievalMetrics(recall_at=(1, 2))
    for rows in (slice(0, 4), slice(4, None)):
        metric.update(_embeddings()[rows], TARGET[rows])
    assert metric.compute() == retrieval_metrics(_embeddings(), TARGET, recall_at=(1, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SOPRCLoss([3, 0]), "class_counts.*at least 1"),
        (lambda: SOPRCLoss([3, 4], prior_mul=1.0), "prior_mul=1.0"),
        (
            lambda: SOPRCLoss([3, 4])(torch.ones(2, 2), torch.tensor([0, 2])),
            "value 2, wanted class indices from 0 to 1",
        ),
        (lambda: SOPRCLoss([3, 4])(torch.ones(2, 2), torch.tensor([0, 1])), "SOPRC needs >= 2 ids and >= 2 samples"),
        (lambda: SOPRCLoss([3, 4])(torch.ones(2, 2), torch.tensor([0, 0])), "SOPRC needs >= 2 ids and >= 2 samples"),
        (lambda: SOPRCLoss([3, 4])(torch.zeros(2, 2), torch.tensor([0, 0])), "embedding 0 has norm zero"),
        (lambda: SOPRCLoss([3, 4])(torch.full((2, 2), math.nan), torch.tensor([0, 0])), "NaN"),
        (lambda: SOPRCLoss([3, 4])(torch.ones(2, 2), torch.tensor([0])), r"target must have shape \(n,\) with n = 2"),
        (lambda: retrieval_metrics(torch.ones(2, 2), torch.tensor([0, 1])), "no query has anything"),
        (
            lambda: retrieval_metrics(torch.ones(3, 2), torch.tensor([0, 0, 1]), no_positive="error"),
            "query 2 has nothing",
        ),
        (lambda: retrieval_metrics(torch.ones(2, 2), torch.tensor([0, 0]), recall_at=(0,)), r"recall_at\[0\]=0"),
        (lambda: retrieval_metrics(torch.ones(2, 2), torch.tensor([0, 0]), gallery=torch.ones(1, 2)), "given together"),
    ],
)
def test_bad_input_is_named(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()
