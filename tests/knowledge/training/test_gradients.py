"""Gradients of a batch in parts: those of the whole, in less memory than its scores."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from equipoise.knowledge import kg_cross_entropy, one_vs_all_backward
from knowledge.small_models import SMALL, Diagonal, random_triples

N, M, D, B = 11, 3, 4, 13


def _gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_parts_of_any_size_add_up_to_the_gradient_of_the_whole(name, weighted):
    triples = random_triples(B, N, 2 * M)
    triples[1] = triples[0]
    weight = torch.rand(N, dtype=torch.float64) if weighted else None
    model = SMALL[name](N, M, D)
    heads, relations, tails = triples.unbind(1)
    loss = kg_cross_entropy(model.score_t(heads, relations), tails, weight)
    loss.backward()
    wanted = _gradients(model)
    assert float(wanted["relation"].abs().max()) > 1e-3
    for rows in (None, 1, 5, B, 100):
        model = SMALL[name](N, M, D)
        found = one_vs_all_backward(model, triples, weight, score_rows=rows)
        torch.testing.assert_close(found, loss.detach(), rtol=1e-12, atol=0)
        for key, gradient in _gradients(model).items():
            if wanted[key] is None:
                assert gradient is None
            else:
                torch.testing.assert_close(gradient, wanted[key], rtol=1e-10, atol=1e-14)
        # A second batch is added.
        one_vs_all_backward(model, triples, weight, score_rows=rows)
        torch.testing.assert_close(model.relation.grad, 2 * wanted["relation"])


def test_large_scores_neither_overflow_nor_lose_the_gradient():
    model, triples = Diagonal(N, M, D), random_triples(B, N, M)
    with torch.no_grad():
        model.entity.mul_(200)
    loss = one_vs_all_backward(model, triples)
    assert float(loss) > 100
    assert all(bool(gradient.isfinite().all()) for gradient in _gradients(model).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    exact, model, triples = Diagonal(N, M, D), Diagonal(N, M, D).to(dtype), random_triples(B, N, M)
    wanted, found = one_vs_all_backward(exact, triples), one_vs_all_backward(model, triples)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6 if dtype is torch.float32 else 0.02)
    assert model.entity.grad.dtype is dtype
    error = 1e-6 if dtype is torch.float32 else 0.02
    torch.testing.assert_close(model.entity.grad.double(), exact.entity.grad, rtol=error, atol=error)


def _most_bytes(function):
    """The most memory that is held at once, over what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [each for each in profiler.profiler.kineto_results.events() if each.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("name", ["diagonal", "phases"])
def test_the_memory_of_a_step_is_below_one_matrix_of_its_scores(name):
    entities, batch = 3000, 400
    triples = random_triples(batch, entities, M)
    heads, relations, tails = triples.unbind(1)
    whole = batch * entities * 8
    model = SMALL[name](entities, M, 8)
    assert _most_bytes(lambda: model.score_t(heads, relations)) >= whole
    assert _most_bytes(lambda: kg_cross_entropy(model.score_t(heads, relations), tails).backward()) > 2 * whole
    model.zero_grad()
    assert _most_bytes(lambda: one_vs_all_backward(model, triples)) < 0.6 * whole
    model.zero_grad()
    # What is left are tables of the size of the model.
    assert _most_bytes(lambda: one_vs_all_backward(model, triples, score_rows=10)) < 0.15 * whole


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    model, triples = Diagonal(N, M, D), random_triples(B, N, M)
    with pytest.raises(IndexError, match=r"triples \(head, tail\) holds the index 40, wanted 0 to 10"):
        one_vs_all_backward(model, torch.tensor([[0, 0, 40]]))
    with pytest.raises(IndexError, match=r"triples \(relation\) holds the index -1, wanted 0 to 5"):
        one_vs_all_backward(model, torch.tensor([[0, -1, 0]]))
    with pytest.raises(ValueError, match="entity_weight has 3 rows, the model 11 entities"):
        one_vs_all_backward(model, triples, torch.ones(3))
    with pytest.raises(ValueError, match="entity_weight is 0 for all targets"):
        one_vs_all_backward(model, triples, torch.zeros(N))
    with pytest.raises(ValueError, match="score_rows=0"):
        one_vs_all_backward(model, triples, score_rows=0)
    with pytest.raises(ValueError, match="triples is empty"):
        one_vs_all_backward(model, triples[:0])
