import time

import pytest
import torch

from equipoise.dense import bipartite_square_loss


def pair_sum(scores, labels, gamma):
    pos, neg = scores[labels == 1], scores[labels == 0]
    return ((gamma - (pos[:, None] - neg[None])) ** 2).mean()


def test_moments_give_the_sum_over_pairs_with_its_gradient():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(60, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = (torch.rand(60, generator=generator) < 0.3).long()
    groups = torch.randint(0, 4, (60,), generator=generator)
    found = bipartite_square_loss(scores, labels, 0.7, groups)
    wanted = torch.stack([pair_sum(scores[groups == g], labels[groups == g], 0.7) for g in range(4)])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(each.sum(), scores, retain_graph=True)[0] for each in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_a_group_of_one_class_is_zero_with_a_zero_gradient():
    scores = torch.tensor([0.3, 0.4, 0.9], requires_grad=True)
    found = bipartite_square_loss(scores, torch.tensor([1, 1, 0]), 1.0, torch.tensor([0, 0, 2]))
    assert found.tolist() == [0.0, 0.0, 0.0]
    found.sum().backward()
    assert scores.grad.tolist() == [0.0, 0.0, 0.0]


def test_equal_scores_far_from_zero_lose_no_digits():
    scores = torch.full((5000,), 1e4)
    labels = torch.arange(5000) % 2
    assert float(bipartite_square_loss(scores, labels)) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.slow
def test_moments_are_far_faster_than_pairs_on_a_frame_of_64_by_64():
    scores, labels = torch.rand(4096), (torch.rand(4096) < 0.4).long()

    def fastest(function):
        times = []
        for _ in range(5):
            start = time.process_time()
            function()
            times.append(time.process_time() - start)
        return min(times)

    torch.testing.assert_close(
        float(bipartite_square_loss(scores, labels)), float(pair_sum(scores, labels, 1.0)), rtol=1e-6, atol=0
    )
    moments = fastest(lambda: bipartite_square_loss(scores, labels))
    assert fastest(lambda: pair_sum(scores, labels, 1.0)) > 5 * moments
