import itertools

import pytest
import torch

from equipoise.crowd import ordinal_margin
from equipoise.crowd.embedding.margins import AnswerMap, as_answers, margins

DOUBLE = {"dtype": torch.float64}
QUADS = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 2], [3, 2, 1, 0], [1, 4, 4, 2], [0, 1, 2, 3], [2, 0, 1, 0]])


def _drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def _dense(quads, n):
    """The matrix A by definition, a row of n² entries for each answer."""
    rows = []
    for near_i, near_j, far_i, far_j in quads.tolist():
        row = torch.zeros(n, n, **DOUBLE)
        for i, j, sign in ((far_i, far_j, 1), (near_i, near_j, -1)):
            row[i, i] += sign
            row[j, j] += sign
            row[i, j] -= sign
            row[j, i] -= sign
        rows.append(row.flatten())
    return torch.stack(rows)


def test_margins_are_differences_of_squared_distances_in_either_form():
    x = _drawn(5, 3)
    wanted = torch.stack([(x[k] - x[m]).square().sum() - (x[i] - x[j]).square().sum() for i, j, k, m in QUADS.tolist()])
    for places, form in ((x, "embedding"), (x @ x.T, "gram")):
        found = ordinal_margin(places, *QUADS.unbind(1), form=form)
        torch.testing.assert_close(found.margin, wanted)
        assert float(found.error_rate) == pytest.approx(float((wanted <= 0).double().mean()))


def test_a_tie_is_an_error():
    x = torch.tensor([[0.0], [1.0], [-1.0]])
    near, far = torch.tensor([1]), torch.tensor([2])
    found = ordinal_margin(x, torch.tensor([0]), near, torch.tensor([0]), far)
    assert float(found.error_rate) == 1
    assert float(ordinal_margin(torch.zeros(3, 1), torch.tensor([0]), near, torch.tensor([0]), far).error_rate) == 1


def test_turning_shifting_and_centring_change_no_margin():
    x = _drawn(5, 3)
    turned = x @ torch.linalg.qr(_drawn(3, 3, seed=1)).Q + 7
    plain = ordinal_margin(x, *QUADS.unbind(1)).margin
    torch.testing.assert_close(ordinal_margin(turned, *QUADS.unbind(1)).margin, plain)
    gram = turned @ turned.T
    torch.testing.assert_close(ordinal_margin(gram, *QUADS.unbind(1), form="gram").margin, plain)


def test_margins_can_be_differentiated():
    x = _drawn(5, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ordinal_margin(x, *QUADS.unbind(1)).margin, x)
    gram = _drawn(5, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: margins(g, QUADS, gram=True), gram)


def test_the_map_and_its_transpose_are_those_of_the_matrix():
    answers, dense = AnswerMap(QUADS, 6), _dense(QUADS, 6)
    gram = _drawn(6, 6)
    torch.testing.assert_close(answers.of_gram(gram), dense @ gram.flatten())
    v = _drawn(len(QUADS))
    torch.testing.assert_close(answers.transposed(v), (dense.T @ v).view(6, 6))
    top = float(torch.linalg.eigvalsh(dense @ dense.T)[-1])
    assert top <= answers.squared_norm() <= 1.03 * top


def test_the_gradient_in_points_is_that_of_the_squared_distances():
    answers, x = AnswerMap(QUADS, 5), _drawn(5, 2).requires_grad_()
    weight = _drawn(len(QUADS), seed=2), _drawn(len(QUADS), seed=3)
    squared, between = answers.squared_of_points(x)
    value = (squared[answers.near] * weight[0] + squared[answers.far] * weight[1]).sum()
    found = answers.spread(answers.per_pair(*weight), between.detach())
    torch.testing.assert_close(found, torch.autograd.grad(value, x)[0])


def test_triplets_are_quadruples_of_one_anchor():
    quads, n = as_answers(torch.tensor([[0, 1, 2], [4, 0, 3]]), None)
    assert n == 5
    assert quads.tolist() == [[0, 1, 0, 2], [4, 0, 4, 3]]
    assert as_answers(QUADS, 9)[1] == 9


def test_every_order_of_the_ends_of_a_pair_is_one():
    x = _drawn(5, 2)
    for swap_near, swap_far in itertools.product((False, True), repeat=2):
        order = [1, 0] if swap_near else [0, 1]
        order += [3, 2] if swap_far else [2, 3]
        torch.testing.assert_close(AnswerMap(QUADS[:, order], 5).of_gram(x @ x.T), AnswerMap(QUADS, 5).of_gram(x @ x.T))


@pytest.mark.parametrize(
    ("quad", "message"),
    [
        ((0, 0, 1, 2), "row 0"),
        ((0, 1, 1, 0), "row 0"),
        ((0, 1, 0, 5), "row 0"),
        ((0, 1, 0, -1), "row 0"),
    ],
)
def test_bad_answers_are_named(quad, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        ordinal_margin(_drawn(5, 2), *torch.tensor([quad]).unbind(1))


def test_a_matrix_that_is_no_gram_matrix_is_named(plain_inputs):
    for bad, message in ((_drawn(5, 5), "must be symmetric"), (_drawn(5, 4), "must be square")):
        with pytest.raises(ValueError, match=message):
            ordinal_margin(bad, *QUADS.unbind(1), form="gram")
