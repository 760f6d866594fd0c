"""The baselines: what each minimises, how gradients are modulated, and what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equipoise.multimodal import LateFusionTrainer, modulation_factors
from multimodal.boosting.worlds import data, head, learners, weights


def _linear(names=("easy", "hard", "odd")):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {name: nn.Linear(3, 3) for name in names}


def _trainer(method="joint", **changes):
    given = {"lr": 0.05, "batch_size": 20, "seed": 3, **changes}
    return LateFusionTrainer(given.pop("learners", learners()), 3, method=method, **given)


@pytest.mark.parametrize("method", ["joint", "ogm", "independent"])
def test_full_batches_are_the_losses_written_out(method):
    inputs, y = data()
    done = _trainer(method, learners=_linear(), batch_size=96).fit((inputs, y), epochs=3)
    parts, rate = _linear(), torch.ones((), requires_grad=True)
    every = [*(p for part in parts.values() for p in part.parameters()), rate]
    optimizer = torch.optim.SGD(every, 0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        optimizer.zero_grad()
        logits = {name: part(inputs[name]) for name, part in parts.items()}
        if method == "independent":
            sum(cross_entropy(each, y) for each in logits.values()).backward()
        else:
            cross_entropy(rate * sum(logits.values()), y).backward()
        if method == "ogm":
            score = {name: float(each.detach().softmax(1)[range(96), y].sum()) for name, each in logits.items()}
            for name, part in parts.items():
                ratio = 2 * score[name] / (sum(score.values()) - score[name])
                for parameter in part.parameters():
                    parameter.grad *= 1 - math.tanh(0.5 * ratio) if ratio > 1 else 1
        optimizer.step()
    for name, part in parts.items():
        torch.testing.assert_close(weights(done.ensemble.learner(name)), weights(part), rtol=1e-4, atol=1e-6)
    assert (float(done.ensemble.boost_rate.detach()) == 1) == (method == "independent")


def test_independent_learners_do_not_feel_each_other():
    inputs, y = data()
    both = _trainer("independent").fit((inputs, y), data(40, 1), epochs=4)
    for place, name in enumerate(("easy", "hard", "odd")):
        changed = {key: x if key == name else torch.zeros_like(x) for key, x in inputs.items()}
        other = _trainer("independent").fit((changed, y), data(40, 1), epochs=4)
        assert weights(other.ensemble.learners[place]).equal(weights(both.ensemble.learners[place]))


@pytest.mark.parametrize("method", ["joint", "independent"])
def test_the_best_epoch_is_kept_of_independent_learners_each_its_own(method):
    val = data(60, 1)
    done = _trainer(method, lr=0.2).fit(data(), val, epochs=8)
    found = done.evaluate(val)
    if method == "joint":
        assert found.accuracy == max(each.accuracy for each in done.history)
    else:
        for name, value in found.by_modality.items():
            assert value == max(each.by_modality[name] for each in done.history)


def test_gradients_of_the_one_that_is_ahead_are_made_smaller():
    ahead, behind = torch.tensor([[4.0, 0.0, 0.0]] * 3), torch.zeros(3, 3)
    target = torch.zeros(3).long()
    factors = modulation_factors({"a": ahead, "b": behind, "c": behind}, target)
    ratio = float(ahead.softmax(1)[0, 0]) * 3
    assert factors["a"] == pytest.approx(1 - math.tanh(0.5 * ratio))
    assert factors["b"] == factors["c"] == 1
    assert modulation_factors({"a": ahead, "b": behind}, target, 0.0) == {"a": 1.0, "b": 1.0}
    assert modulation_factors({"a": ahead}, target) == {"a": 1.0}
    far = {"a": torch.tensor([[1e4, 0.0, 0.0]]), "b": torch.tensor([[-1e4, 0.0, 0.0]])}
    assert modulation_factors(far, target[:1]) == {"a": 0.0, "b": 1.0}


def test_noise_changes_gradients_and_comes_from_the_seed():
    ended = [weights(_trainer("ogm", noise=n, seed=s).fit(data(), epochs=2).ensemble) for n, s in
             ((True, 3), (True, 3), (False, 3), (True, 4))]  # fmt: skip
    assert ended[0].equal(ended[1])
    assert not ended[0].equal(ended[2])
    assert not ended[0].equal(ended[3])


def test_a_shared_head_is_trained_jointly_and_missing_modalities_are_left_out():
    done = _trainer(learners=learners(outputs=5), shared_head=head(), autocast=torch.bfloat16).fit(data(), epochs=6)
    inputs, y = data(90, 1)
    assert done.evaluate((inputs, y)).accuracy > 0.8
    assert done.predict_proba({"hard": inputs["hard"]}).shape == (90, 3)


def test_bad_settings_and_data_are_refused(plain_inputs):
    with pytest.raises(ValueError, match="shared_head joins the learners"):
        _trainer("independent", shared_head=head())
    for settings, message in (({"method": "early"}, "method"), ({"modulation": -1.0}, "modulation")):
        with pytest.raises(ValueError, match=message):
            _trainer(**settings)
    inputs, y = data()
    with pytest.raises(ValueError, match="train needs 'easy'"):
        _trainer().fit(({}, y), epochs=1)
    with pytest.raises(ValueError, match="no parameter to train"):
        _trainer("independent", learners={"easy": nn.Identity()}).fit(({"easy": inputs["easy"]}, y), epochs=1)
    parts = {"a": torch.zeros(3, 2)}
    for given, target, message in (
        ({}, torch.zeros(3).long(), "is empty"),
        (parts, torch.zeros(2).long(), "target has 2 samples, the logits have 3"),
        (parts, torch.full((3,), 2), "target holds the value 2"),
    ):
        with pytest.raises(ValueError, match=message):
            modulation_factors(given, target)
