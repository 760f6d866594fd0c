"""The sum of logits, by name and place; the ensemble with missing modalities and a shared head; and what is refused."""

import pytest
import torch
from torch import nn

from equipoise.multimodal import ModalityEnsemble, ensemble_logits


def _parts(seed=0):
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


_NAMES = ("audio", "video", "text")


def _named(parts):
    return dict(zip(_NAMES, parts, strict=True))


@pytest.mark.parametrize(
    ("exclude", "left"),
    [(None, [0, 1, 2]), (1, [0, 2]), ([0, 2], [1]), ((), [0, 1, 2]), ([1, 1], [0, 2])],
)
def test_the_sum_by_place_is_the_sum_by_name(exclude, left):
    parts = _parts()
    wanted = 0.7 * sum(parts[k] for k in left)
    torch.testing.assert_close(ensemble_logits(parts, 0.7, exclude), wanted)
    torch.testing.assert_close(ensemble_logits(_named(parts), 0.7, exclude), wanted)
    if exclude is not None:
        names = [_NAMES[k] for k in ([exclude] if isinstance(exclude, int) else exclude)]
        torch.testing.assert_close(ensemble_logits(_named(parts), 0.7, names), wanted)


def test_the_boost_rate_is_learned_and_half_precision_is_summed_in_single():
    parts, rate = _parts(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    ensemble_logits(parts, rate).sum().backward()
    torch.testing.assert_close(rate.grad, parts.sum())
    for given in (parts.half(), _named(parts.half())):
        assert ensemble_logits(given).dtype is torch.float32
        assert ensemble_logits(given, exclude=[0, 1]).dtype is torch.float32


@pytest.mark.parametrize(
    ("parts", "given", "message"),
    [
        (torch.zeros(5, 4), {}, "per_modality_logits"),
        (torch.zeros(0, 5, 4), {}, "is empty"),
        (torch.zeros(2, 5, 1), {}, "at least 2 classes"),
        ({"a": torch.zeros(5, 1)}, {}, "at least 2 classes"),
        ({}, {}, "is empty"),
        ({"a": torch.zeros(5, 4), "b": torch.zeros(5, 3)}, {}, r"\['b'\] has shape \(5, 3\), that of 'a' is \(5, 4\)"),
        ({"a": torch.zeros(5)}, {}, "must have shape"),
        ({"a": torch.zeros(0, 4)}, {}, "none of them 0"),
        ({"a": torch.full((5, 4), torch.nan)}, {}, "holds 20 NaN"),
        ({"a": torch.zeros(5, 4).long()}, {}, "floating point"),
        ({"a": [[0.0, 1.0]]}, {}, "must be a torch.Tensor"),
        (torch.zeros(2, 5, 4), {"boost_rate": torch.tensor(torch.nan)}, "boost_rate"),
        (torch.zeros(2, 5, 4), {"boost_rate": float("inf")}, "boost_rate"),
        (torch.zeros(2, 5, 4), {"exclude": 2}, "exclude holds 2"),
        (torch.zeros(2, 5, 4), {"exclude": -1}, "exclude holds -1"),
        (torch.zeros(2, 5, 4), {"exclude": "audio"}, "exclude holds 'audio'"),
        (torch.zeros(2, 5, 4), {"exclude": [0, 1]}, "leaves no modality"),
        ({"a": torch.zeros(5, 4)}, {"exclude": "a"}, "leaves no modality"),
        ({"a": torch.zeros(5, 4)}, {"exclude": "b"}, "exclude holds 'b'"),
        ({"a": torch.zeros(5, 4)}, {"exclude": 1.5}, "exclude"),
    ],
)
def test_bad_logits_are_refused(parts, given, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        ensemble_logits(parts, **given)


def _ensemble(**settings):
    return ModalityEnsemble({"audio": nn.Linear(2, 4), "keys": nn.Linear(3, 4), "a.b": nn.Linear(1, 4)}, **settings)


def _inputs():
    return {"audio": torch.randn(5, 2), "keys": torch.randn(5, 3), "a.b": torch.randn(5, 1)}


def test_the_ensemble_adds_what_its_learners_say():
    ensemble, inputs = _ensemble(boost_rate=0.5), _inputs()
    total, parts = ensemble(inputs, return_parts=True)
    assert list(parts) == ["audio", "keys", "a.b"]
    for name, learner in zip(ensemble.names, ensemble.learners, strict=True):
        assert parts[name].equal(learner(inputs[name]))
        assert learner is ensemble.learner(name)
    torch.testing.assert_close(total, 0.5 * sum(parts.values()))
    total.sum().backward()
    assert all(parameter.grad is not None for parameter in ensemble.parameters())
    assert float(ensemble.boost_rate.grad) == pytest.approx(2 * float(total.detach().sum()), rel=1e-4)


def test_missing_and_excluded_modalities_are_left_out():
    ensemble, inputs = _ensemble(), _inputs()
    wanted = ensemble(inputs, exclude="keys")
    torch.testing.assert_close(ensemble(inputs, exclude=1), wanted)
    torch.testing.assert_close(ensemble({**inputs, "keys": None}), wanted)
    torch.testing.assert_close(ensemble({name: inputs[name] for name in ("a.b", "audio")}), wanted)
    torch.testing.assert_close(ensemble({"a.b": inputs["a.b"]}), ensemble.learner("a.b")(inputs["a.b"]))


def test_a_head_may_be_shared():
    head = nn.Linear(4, 2)
    ensemble, inputs = _ensemble(shared_head=head), _inputs()
    _, parts = ensemble(inputs, return_parts=True)
    torch.testing.assert_close(parts["keys"], head(ensemble.learner("keys")(inputs["keys"])))
    assert sum(parameter is head.weight for parameter in ensemble.parameters()) == 1


def test_learners_may_come_as_a_list_and_weights_can_be_loaded():
    made = ModalityEnsemble([nn.Linear(2, 4), nn.Linear(3, 4)])
    assert made.names == ("0", "1")
    twin = ModalityEnsemble([nn.Linear(2, 4), nn.Linear(3, 4)])
    twin.load_state_dict(made.state_dict())
    x = {"0": torch.randn(5, 2), "1": torch.randn(5, 3)}
    assert twin(x).equal(made(x))


@pytest.mark.parametrize(
    ("inputs", "given", "message"),
    [
        ({"smell": torch.zeros(5, 2)}, {}, "inputs has 'smell', which is no modality"),
        ({}, {}, "none of the modalities"),
        ({"audio": None}, {}, "none of the modalities"),
        ({"audio": torch.zeros(5, 2)}, {"exclude": "keys"}, "exclude holds 'keys'"),
        ({"audio": torch.zeros(5, 2)}, {"exclude": 1}, "exclude holds 'keys'"),
        ({"audio": torch.zeros(5, 2)}, {"exclude": "audio"}, "leaves no modality"),
        ({"audio": torch.zeros(0, 2)}, {}, "none of them 0"),
        ({"audio": torch.zeros(5, 2), "keys": torch.zeros(4, 3)}, {}, "the same samples and classes"),
    ],
)
def test_bad_inputs_are_refused(inputs, given, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        _ensemble()(inputs, **given)


def test_bad_ensembles_are_refused(plain_inputs):
    with pytest.raises(ValueError, match="learners is empty"):
        ModalityEnsemble({})
    with pytest.raises(ValueError, match="boost_rate"):
        _ensemble(boost_rate=float("nan"))
    with pytest.raises(ValueError, match="learners must be modules by name"):
        ModalityEnsemble({"audio": torch.zeros(2)})
    odd = ModalityEnsemble({"audio": nn.Linear(2, 4), "keys": nn.Linear(3, 5)})
    with pytest.raises(ValueError, match="the same samples and classes"):
        odd({"audio": torch.zeros(5, 2), "keys": torch.zeros(5, 3)})
