"""The trainer: every method learns, a killed run ends as an unbroken one, and another run's checkpoint is refused."""

import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import nn

from equipoise.core.epochs import Trainer
from equipoise.semisup import (
    METHODS,
    ImageAugmentation,
    SemiSupervisedSettings,
    SemiSupervisedTrainer,
    SignalAugmentation,
    split_labelled,
)
from semisup.training.killed_run import trainer

HERE = Path(__file__).parent


def _waves(n=160, seed=0):
    """Signals of two frequencies (n, 1, 64) in noise, with any phase."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    phase = 6.28 * torch.rand(n, 1, generator=generator)
    x = (torch.linspace(0, 6.28, 64) * (2 + 2 * y[:, None]) + phase).sin()
    return (x + 0.3 * torch.randn(n, 64, generator=generator))[:, None], y


def _signal_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv1d(1, 8, 9, padding=4), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(8, 8, 5), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_signals_of_ones_own(method):
    x, y = _waves()
    labelled, _ = split_labelled(y, 6)
    target = torch.full_like(y, -1).index_copy(0, labelled, y[labelled])
    settings = {"epochs": 15, "batch_size": 12, "ratio": 3, "learning_rate": 0.1, "average": 0.9, "threshold": 0.6}
    # The weights of long trainings make targets collapse in a short one.
    settings["unlabelled_weight"] = min(METHODS[method].get("unlabelled_weight", 1.0), 1.0)
    done = SemiSupervisedTrainer(
        _signal_network(),
        x,
        target,
        weak=SignalAugmentation.weak(),
        strong=SignalAugmentation.strong(),
        settings=SemiSupervisedSettings.usual(method, **settings),
    )
    history = done.fit()
    assert len(history.losses) == 15
    assert not done.model.training
    with torch.no_grad():
        assert (done.model(x).argmax(1) == y).double().mean() > 0.85
    assert ("mask_rate" in done.statistics) == (method != "supervised")


def _weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_ends_as_an_unbroken_one(method, tmp_path):
    whole = trainer(method, threshold=0.3)
    wanted = whole.fit()
    broken = trainer(method, threshold=0.3)

    def stop(epoch, loss, value):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.fit(checkpoint=tmp_path / "state.pt", progress=stop)
    resumed = trainer(method, threshold=0.3)
    assert resumed.fit(checkpoint=tmp_path / "state.pt").losses == wanted.losses
    assert _weights(resumed.model).equal(_weights(whole.model))
    assert _weights(resumed.network).equal(_weights(whole.network))


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path):
    path = tmp_path / "state.pt"
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import killed_run; killed_run.run_slowly({str(path)!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    assert process.wait() == -9
    resumed, whole = trainer(), trainer()
    left = []
    history = resumed.fit(checkpoint=path, progress=lambda epoch, loss, value: left.append(epoch))
    assert 0 < len(left) < 6
    assert history.losses == whole.fit().losses
    assert _weights(resumed.model).equal(_weights(whole.model))


@pytest.mark.parametrize("changed", ["seed", "learning_rate", "inputs", "target", "network", "strong"])
def test_a_checkpoint_of_another_run_is_refused(changed, tmp_path, plain_inputs):
    path = tmp_path / "state.pt"
    trainer(epochs=1).fit(checkpoint=path)
    other = trainer(
        epochs=1, **({changed: 0.5 if changed != "seed" else 4} if changed in ("seed", "learning_rate") else {})
    )
    if changed == "inputs":
        other.inputs = other.inputs.clone()
        other.inputs[0, 0] += 1e-4
    elif changed == "target":
        other.target[30] = 1
    elif changed == "network":
        torch.nn.init.zeros_(other.network[-1].bias)
    elif changed == "strong":
        other.strong = ImageAugmentation()
    with pytest.raises(ValueError, match="of other data or settings"):
        other.fit(checkpoint=path)
    trainer(epochs=1).fit(checkpoint=path)


def test_the_callers_random_state_and_data_are_left_alone():
    done = trainer(epochs=2)
    inputs, state = done.inputs.clone(), torch.get_rng_state()
    done.fit()
    assert torch.get_rng_state().equal(state)
    assert done.inputs.equal(inputs)
    assert isinstance(done, Trainer)


def test_every_unlabelled_sample_is_met_once_an_epoch_and_labels_come_round():
    seen = []

    def noted(batch, generator):
        seen.append(batch.flatten().tolist())
        return batch

    x, target = torch.arange(30.0)[:, None], torch.where(torch.arange(30) < 4, torch.arange(30) % 2, -1)
    settings = SemiSupervisedSettings(batch_size=3, ratio=3, epochs=4, variants=2)
    done = SemiSupervisedTrainer(nn.Linear(1, 2), x, target, weak=noted, strong=lambda u, g: u, settings=settings)
    assert done.steps_per_epoch == 3
    done.epoch(), done.epoch()
    labelled, unlabelled = seen[::2], seen[1::2]
    first, second, flat = (list(chain(*part)) for part in (unlabelled[:3], unlabelled[3:], labelled))
    assert [len(each) for each in unlabelled] == [9, 9, 8] * 2
    assert sorted(first) == sorted(second) == list(range(4, 30))
    assert first != second
    assert len(flat) == 18
    assert all(sorted(flat[k : k + 4]) == [0, 1, 2, 3] for k in range(0, 16, 4))


def test_inputs_may_be_read_by_index():
    x, y = _waves(60)
    read = []
    settings = SemiSupervisedSettings(epochs=2, batch_size=10, ratio=2)
    target = torch.where(torch.arange(60) < 10, y, -1)
    views = {"weak": SignalAugmentation.weak(), "strong": SignalAugmentation.strong(), "settings": settings}

    def reader(rows):
        read.append(rows)
        return x[rows]

    first = SemiSupervisedTrainer(_signal_network(), reader, target, **views)
    second = SemiSupervisedTrainer(_signal_network(), x, target, **views)
    assert first.fit().losses == second.fit().losses
    assert read


def test_full_supervision_is_cross_entropy_on_every_label():
    x, y = _waves(60)
    settings = SemiSupervisedSettings.usual(
        "supervised", epochs=3, batch_size=60, average=None, learning_rate=0.1, weight_decay=0.0, schedule="constant"
    )
    network, twin = _signal_network(), _signal_network()
    done = SemiSupervisedTrainer(network, x, y, weak=lambda u, g: u, strong=lambda u, g: u, settings=settings)
    done.fit()
    assert done.model is network
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9, nesterov=True)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        optimizer.step()
    torch.testing.assert_close(_weights(network), _weights(twin), rtol=1e-4, atol=1e-6)


def test_the_weight_of_consistency_rises_and_rates_are_above_zero():
    settings = SemiSupervisedSettings.usual("mean_teacher")
    weights = [settings.weight(step, 100) for step in range(100)]
    assert weights == sorted(weights)
    assert weights[0] == pytest.approx(100 * 2.718281828**-5)
    assert weights[27:] == [100.0] * 73
    eman = SemiSupervisedSettings.usual("maxmatch_eman")
    rates = [eman.rate(step, 300) for step in range(300)]
    assert min(rates) > 0
    assert max(rates) == eman.learning_rate == rates[4]


def test_validation_sees_and_keeps_the_model_that_predicts():
    done, seen = trainer(), []

    def validate(model):
        seen.append((model, model.training, _weights(model)))
        return -len(seen)

    history = done.fit(validate=validate)
    assert all(model is done.model and not training for model, training, _ in seen)
    assert history.best_epoch == 0
    assert _weights(done.model).equal(seen[0][2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant_probs": (0.5, 0.4)}, "sum to 1"),
        ({"average": None, "average_predicts_targets": True}, "average_predicts_targets=True needs"),
        ({"two_pass": True, "aggregate": "mean"}, "two_pass=True needs"),
        ({"momentum": 0.0}, "nesterov=True needs"),
        ({"unlabelled_weight": -1.0}, "unlabelled_weight"),
        ({"threshold": 95}, r"did you mean 0\.95"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        SemiSupervisedSettings(**settings)


def test_bad_data_are_refused(plain_inputs):
    views = {"weak": lambda u, g: u, "strong": lambda u, g: u}
    x, y = torch.zeros(5, 2), torch.tensor([0, 1, -1, -1, -1])
    for inputs, target, message in (
        (x, torch.full((5,), -1), "target has no labels"),
        (x[:4], y, "inputs have 4 rows, target has 5"),
        (x / 0, y, "inputs holds 10 NaN"),
        (x, y - 1, "−1 marking"),
    ):
        with pytest.raises(ValueError, match=message):
            SemiSupervisedTrainer(nn.Linear(2, 2), inputs, target, **views)
    for method in ("maxmatch", "supervised"):
        settings = SemiSupervisedSettings.usual(method)
        with pytest.raises(ValueError, match="at least 2 classes"):
            SemiSupervisedTrainer(nn.Linear(2, 1), x, y, **views, settings=settings).fit()
        with pytest.raises(ValueError, match=r"target holds the value 2, wanted class indices from 0 to 1"):
            SemiSupervisedTrainer(nn.Linear(2, 2), x, 2 * y.clamp_min(0), **views, settings=settings).fit()
    with pytest.raises(ValueError, match="method='mixmatch' is not known"):
        SemiSupervisedSettings.usual("mixmatch")
    with pytest.raises(ValueError, match="per_class=3 is more than the 1 samples of class 1"):
        split_labelled(torch.tensor([0, 0, 0, 1]), 3)


def test_labels_are_split_by_class_and_seed():
    target = torch.tensor([0, 1, 2] * 20)
    labelled, rest = split_labelled(target, 4, seed=5)
    assert target[labelled].bincount().tolist() == [4, 4, 4]
    assert torch.cat([labelled, rest]).sort().values.tolist() == list(range(60))
    assert split_labelled(target, 4, seed=5)[0].equal(labelled)
    assert not split_labelled(target, 4, seed=6)[0].equal(labelled)
