import math
import random
from fractions import Fraction

import pytest
import torch

from equipoise.generative import mirror_match, mirror_verify, yes_no_probability
from equipoise.generative.audit.mirror_verify import mean


def _brute_match(asked, answers, same):
    asked = list(dict.fromkeys(name.strip().lower() for name in asked))
    seen = sorted({name.strip().lower() for answer in answers for name in answer})
    votes = {o: sum(o in [name.strip().lower() for name in answer] for answer in answers) for o in seen}
    votes = {o: v for o, v in votes.items() if Fraction(v, len(answers)) > Fraction(1, 2)}
    lost = [i for i in asked if all(not same(i, r) for r in votes)]
    new = [r for r in votes if all(not same(r, i) for i in asked)]
    return votes, [i for i in asked if i not in lost], new, lost


@pytest.mark.parametrize("votes", [1, 2, 4, 5])
def test_matching_by_brute_force(votes):
    draw = random.Random(votes)
    names = ["dog", "Dog ", "puppy", "cat", "CAT", "tree", "road"]
    pairs = {frozenset(("dog", "puppy")), frozenset(("tree", "road"))}
    for _ in range(60):
        asked = draw.sample(names, draw.randint(0, 4))
        answers = [draw.choices(names, k=draw.randint(0, 5)) for _ in range(votes)]
        found = mirror_match(asked, answers, lambda a, b: frozenset((a, b)) in pairs)
        wanted = _brute_match(asked, answers, lambda a, b: a == b or frozenset((a, b)) in pairs)
        assert (found.votes, list(found.safe), list(found.new), list(found.lost)) == wanted
        assert set(found.safe) | set(found.lost) == {name.strip().lower() for name in asked}
        assert found.deviates == bool(found.new or found.lost)


def test_a_majority_is_strict_and_an_answer_counts_once():
    assert mirror_match([], [["cat", "cat"], []]).votes == {}
    assert mirror_match([], [["cat"], ["cat"], [], []]).votes == {}
    assert mirror_match([], [["cat"], ["cat"], ["cat"], []]).votes == {"cat": 3}


def test_same_is_asked_in_both_orders_and_never_of_equal_names():
    asked = []

    def same(one, other):
        asked.append((one, other))
        return (one, other) == ("animal", "dog")

    assert not mirror_match(["dog"], [["animal"]], same).deviates
    assert not mirror_match(["animal"], [["dog"]], same).deviates
    asked.clear()
    assert not mirror_match(["dog"], [["dog"]], same).deviates
    assert asked == []


def test_what_matching_refuses(plain_inputs):
    for asked, answers, words in (
        (["dog"], [], "one or more answers"),
        (["dog"], "dog", "one or more answers"),
        (["dog"], [["cat", None]], "response_answers must hold strings, got None"),
        ([3], [["cat"]], "instruction_objects must hold strings, got 3"),
        ("dog", [["cat"]], "instruction_objects must be a list"),
        (["dog"], [None], "response_answers must be a list"),
    ):
        with pytest.raises(ValueError, match=words):
            mirror_match(asked, answers)


def test_stability_by_brute_force():
    p = torch.rand(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mirror_verify(["a", "b"], ["b", "c", "d"], p, threshold=0.6)
    wanted = {
        "new:a": p[0].mean(),
        "new:b": p[1].mean(),
        "lost:b": (1 - p[2]).mean(),
        "lost:c": (1 - p[3]).mean(),
        "lost:d": (1 - p[4]).mean(),
    }
    assert found.stability == pytest.approx({name: float(value) for name, value in wanted.items()})
    assert found.final_score == max(found.stability.values())
    assert found.flagged == (found.final_score >= 0.6)


def test_limits_of_verification():
    assert mirror_verify([], [], torch.zeros(0, 0)) == ({}, 0.0, False)
    assert mirror_verify([], [], torch.zeros(0, 3), threshold=1.0).flagged is False
    sure = mirror_verify(["cat"], ["dog"], torch.tensor([[1.0], [0.0]]), threshold=1.0)
    assert (sure.final_score, sure.flagged) == (1.0, True)
    assert mirror_verify(["cat"], [], torch.tensor([[0.999]], dtype=torch.float64)).flagged
    assert not mirror_verify(["cat"], [], torch.tensor([[1.0, 0.997]])).flagged


def test_what_verification_refuses(plain_inputs):
    p = torch.full((2, 3), 0.5)
    for changes, words in (
        ({"p_yes": torch.full((3, 3), 0.5)}, "p_yes has 3 rows, wanted one for each of 2"),
        ({"p_yes": p + 1}, "p_yes"),
        ({"p_yes": p - 1}, "p_yes"),
        ({"p_yes": p * math.nan}, "p_yes"),
        ({"p_yes": p[:, :0]}, "no columns"),
        ({"p_yes": p.tolist()}, "p_yes must be a torch.Tensor"),
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.5}, "threshold"),
        ({"new": ["a", "a"], "lost": []}, "every object once"),
        ({"new": [1]}, "new"),
    ):
        with pytest.raises(ValueError, match=words):
            mirror_verify(**{"new": ["a"], "lost": ["b"], "p_yes": p, **changes})


def test_the_probability_of_yes_is_a_softmax():
    logits = 30 * torch.randn(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = yes_no_probability(logits[:, 0], logits[:, 1])
    torch.testing.assert_close(p, logits.softmax(1)[:, 0])
    assert yes_no_probability(torch.tensor(1e4), torch.tensor(-1e4)) == 1
    half = yes_no_probability(torch.tensor([1.0]).half(), torch.tensor([0.0]).half())
    torch.testing.assert_close(half, torch.tensor([1.0]).sigmoid())
    inputs = (logits[:3, 0].requires_grad_(), logits[:3, 1].detach().requires_grad_())
    assert torch.autograd.gradcheck(yes_no_probability, inputs)


def test_a_bound_of_a_mean_is_a_bound():
    draw = random.Random(0)
    for _ in range(300):
        values = [draw.choice([1.0, 0.999, 0.9989999, 0.998, draw.random()]) for _ in range(5)]
        for known in range(6):
            assert mean(values[:known], 0.0, 5) <= mean(values) <= mean(values[:known], 1.0, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.9, 0.7, 0.999, 0.3])
def test_a_threshold_is_reached_by_equal_probabilities_in_every_type(dtype, p):
    assert mirror_verify(["a"], [], torch.full((1, 5), p, dtype=dtype), p).flagged
    lost = torch.full((1, 5), 1.0, dtype=dtype) - p
    assert mirror_verify([], ["a"], lost, float(1 - lost[0, 0])).flagged
    assert not mirror_verify(["a"], [], torch.full((1, 5), p, dtype=dtype), p + 1e-6).flagged
