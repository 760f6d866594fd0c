"""The mixture's loss by loops, its gradients, and what the entropies are at their ends."""

import math

import pytest
import torch

from equipoise.generative import (
    WeightReallocationLoss,
    router_entropy,
    weight_reallocation_loss,
    weight_reallocation_terms,
)


def _drawn(k=3, n=4, shape=(2, 2)):
    return torch.randn(k, n, *shape).double(), torch.randn(n, k).double(), torch.randn(n, *shape).double()


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("shape", [(5,), (3, 2, 2)])
def test_the_loss_is_that_of_loops(weight, shape):
    outputs, logits, target = _drawn(shape=shape)
    k, n = len(outputs), len(target)
    error = spread = 0.0
    for b in range(n):
        whole = sum(math.exp(z) for z in logits[b].tolist())
        w = [math.exp(z) / whole for z in logits[b].tolist()]
        mixed = sum(w[m] * outputs[m, b] for m in range(k))
        error += float((mixed - target[b]).square().mean()) / n
        spread += sum((each - 1 / k) ** 2 for each in w) / n
    terms = weight_reallocation_terms(outputs, logits, target, weight=weight)
    assert float(terms.loss) == pytest.approx(error + weight * spread)
    assert float(terms.error) == pytest.approx(error)
    assert float(terms.spread) == pytest.approx(spread)
    assert float(weight_reallocation_loss(outputs, logits, target, weight=weight)) == pytest.approx(float(terms.loss))


def test_gradients_are_those_of_the_value():
    given = [each.requires_grad_() for each in _drawn(n=2)]
    assert torch.autograd.gradcheck(WeightReallocationLoss(0.7), given)


def test_the_order_of_samples_does_not_matter():
    outputs, logits, target = _drawn()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        weight_reallocation_loss(outputs[:, order], logits[order], target[order]),
        weight_reallocation_loss(outputs, logits, target),
    )


def test_a_higher_price_gives_weights_that_are_more_alike():
    outputs, logits, _ = _drawn(n=32)
    entropy = []
    for weight in (0.0, 1.0, 100.0):
        leaf = logits[:1].expand(32, -1).clone().requires_grad_()
        leaf.data[:] = torch.tensor([3.0, 0.0, 0.0])
        optimizer = torch.optim.Adam([leaf], lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            weight_reallocation_loss(outputs, leaf, outputs[0], weight=weight).backward()
            optimizer.step()
        entropy.append(float(router_entropy(leaf.detach().softmax(1)).mean()))
    assert entropy[0] < entropy[1] < entropy[2]
    assert entropy[2] == pytest.approx(math.log(3), abs=0.01)


def test_equal_and_extreme_weights():
    assert float(weight_reallocation_terms(*_drawn()[:1], torch.zeros(4, 3).double(), _drawn()[2]).spread) == 0
    extreme = weight_reallocation_terms(torch.ones(3, 2, 1), torch.tensor([[1e4, -1e4, 0.0]] * 2), torch.ones(2, 1))
    assert float(extreme.error) == 0
    assert float(extreme.spread) == pytest.approx(4 / 9 + 2 / 9)
    assert router_entropy(extreme.weights).tolist() == [0.0, 0.0]


def test_entropy_of_samples_and_of_their_mean():
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
    assert router_entropy(weights).tolist() == pytest.approx([0.0, 1.5 * math.log(2)])
    mean = [0.625, 0.125, 0.25]
    assert float(router_entropy(weights, mean_first=True)) == pytest.approx(-sum(p * math.log(p) for p in mean))
    assert float(router_entropy(torch.full((2, 4), 0.25), mean_first=True)) == pytest.approx(math.log(4))
    # Entropy is concave.
    drawn = torch.rand(50, 5).softmax(1)
    assert router_entropy(drawn, mean_first=True) >= router_entropy(drawn).mean()


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused():
    outputs, logits, target = _drawn()
    for call, said in (
        (lambda: weight_reallocation_loss(outputs, logits[:, :2], target), "router_logits must have shape"),
        (lambda: weight_reallocation_loss(outputs, logits, target[..., :1]), "target must have shape"),
        (lambda: weight_reallocation_loss(outputs, logits, target, weight=-1.0), "weight=-1"),
        (lambda: router_entropy(torch.tensor([[0.5, 0.4]])), "weights must sum to 1 in every row, but row 0 sums to"),
        (lambda: router_entropy(torch.tensor([[1.5, -0.5]])), "weights must not be negative"),
        (lambda: router_entropy(torch.tensor([0.5, 0.5])), "weights must have shape"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    assert router_entropy(torch.tensor([[0.3333, 0.3333, 0.3333]])).shape == (1,)
