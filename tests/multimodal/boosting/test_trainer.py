"""The trainer: the algorithm by hand, the cache, schedules, resumption, missing modalities, and what is refused."""

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equipoise.multimodal import (
    LateFusionTrainer,
    ReconBoostTrainer,
    ReconcilementLoss,
    memory_consolidation_loss,
    reconcilement_loss,
)
from multimodal.boosting.worlds import Counted, data, head, learners, slow_data, trainer, weights

HERE = Path(__file__).parent
DOUBLE = torch.float64


def _plain(names, dtype=DOUBLE):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {name: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype) for name in names}


@pytest.mark.parametrize("rectify", [0, 2])
@pytest.mark.parametrize("warm", [0, 1])
def test_full_batches_are_the_algorithm_written_out(rectify, warm):
    names = ("easy", "hard", "odd")
    inputs, y = data(dtype=DOUBLE)
    given = {"epochs_per_stage": 2, "rectify_epochs": rectify, "warm_start_epochs": warm}
    done = ReconBoostTrainer(_plain(names), 3, **given, lr=0.1, rectify_lr=0.05, batch_size=96, cache=False)
    done.ensemble.double()
    done.fit((inputs, y), max_stages=4)

    parts, rate = _plain(names), torch.ones((), dtype=DOUBLE, requires_grad=True)
    optimizer_of = lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=5e-4)  # noqa: E731

    def minimised(parameters, lr, loss, epochs):
        optimizer = optimizer_of(list(parameters), lr)
        for _ in range(epochs):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    for name in names if warm else ():
        minimised(parts[name].parameters(), 0.1, lambda n=name: cross_entropy(parts[n](inputs[n]), y), 1)
    turns = []
    for stage in range(4):
        k = names[stage % 3]
        known = [n for n in names if n != k and (warm or (rectify and turns) or n in turns)]
        with torch.no_grad():
            logits = {n: parts[n](inputs[n]) for n in known}
            others = rate * sum(logits.values()) if known else None
        before = logits[turns[-1]] if turns else None

        def loss(k=k, others=others, before=before):
            mine = parts[k](inputs[k])
            total = reconcilement_loss(mine, y, others)
            return total if before is None else total + memory_consolidation_loss(mine, before)

        minimised(parts[k].parameters(), 0.1, loss, 2)
        every = [*(p for part in parts.values() for p in part.parameters()), rate]
        minimised(every, 0.05, lambda: cross_entropy(rate * sum(parts[n](inputs[n]) for n in names), y), rectify)
        turns.append(k)
    for name in names:
        torch.testing.assert_close(weights(done.ensemble.learner(name)), weights(parts[name]), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(done.ensemble.boost_rate.detach(), rate.detach())
    assert [stage.modality for stage in done.history] == turns


@pytest.mark.parametrize("shared", ["none", "still", "moving"])
@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_what_is_computed_once_a_turn_is_what_is_computed_for_each_batch(shared, alpha):
    given = {"alpha": alpha, "rectify_epochs": 1}
    found = []
    for cache in (True, False):
        own = {"shared_head": head(DOUBLE), "update_shared_head": shared == "moving"} if shared != "none" else {}
        done = trainer(DOUBLE, **given, **own, cache=cache)
        done.ensemble.double()
        found.append(done.fit(data(dtype=DOUBLE), max_stages=5))
    torch.testing.assert_close(*(weights(each.ensemble) for each in found), rtol=1e-9, atol=1e-11)
    for one, other in zip(*(each.history for each in found), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-9)
        assert one.consolidation == pytest.approx(other.consolidation, rel=1e-9)
        assert (one.consolidation > 0) == (alpha > 0 and one.stage > 0)


def test_a_head_that_moves_during_the_turn_moves_what_the_others_say():
    ended = {}
    for moves in (True, False):
        done = trainer(shared_head=head(), update_shared_head=moves, rectify_epochs=0, warm_start_epochs=1)
        before = weights(done.ensemble.shared_head)
        done.fit(data(), max_stages=1)
        ended[moves] = weights(done.ensemble.shared_head)
        assert not ended[moves].equal(before)
    # The warm start is the same; a head that rests keeps its statistics, too.
    assert not ended[True].equal(ended[False])
    still = trainer(shared_head=head(), update_shared_head=False, rectify_epochs=0)
    before = weights(still.ensemble.shared_head)
    still.fit(data(), max_stages=2)
    assert weights(still.ensemble.shared_head).equal(before)


def test_a_head_that_moves_speaks_for_the_others_in_evaluation_mode():
    shared = Counted(head())
    trainer(shared_head=shared, rectify_epochs=0, warm_start_epochs=1).fit(data(), max_stages=1)
    assert shared.without == 96 * 2 * 2
    assert shared.modes == {False}


@pytest.mark.parametrize("epochs", [1, 4])
def test_the_others_are_run_once_a_turn_and_in_evaluation_mode(epochs):
    counts = {}
    for cache in (True, False):
        made = learners()
        ReconBoostTrainer(made, 3, epochs_per_stage=epochs, rectify_epochs=0, warm_start_epochs=1, cache=cache).fit(
            data(), max_stages=1
        )
        assert made["easy"].without == 0
        assert made["easy"].with_gradient == 96 * (epochs + 1)
        assert made["hard"].with_gradient == 96
        assert made["hard"].modes == {False}
        counts[cache] = made["hard"].without + made["odd"].without
    assert counts == {True: 96 * 2, False: 96 * 2 * epochs}


def test_a_sample_that_is_left_over_is_trained_on_in_the_batch_before():
    sizes = []

    def noted(inputs, generator):
        sizes.append(len(inputs["easy"]))
        return inputs

    trainer(augment=noted, epochs_per_stage=1, rectify_epochs=0).fit(data(41), max_stages=1)
    assert sizes == [20, 21]
    sizes.clear()
    LateFusionTrainer(learners(), 3, augment=noted, batch_size=20).fit(data(61), epochs=1)
    assert sizes == [20, 20, 21]
    sizes.clear()
    LateFusionTrainer(_plain(("easy", "hard", "odd"), torch.float32), 3, augment=noted, batch_size=1).fit(
        data(2), epochs=1
    )
    assert sizes == [1, 1]


def test_augmented_batches_and_shared_weights_are_never_cached():
    seen = []

    def augment(inputs, generator):
        seen.append(set(inputs))
        return {name: x + 0.1 * torch.randn(x.shape, generator=generator) for name, x in inputs.items()}

    made = learners()
    given = {"epochs_per_stage": 3, "rectify_epochs": 0, "warm_start_epochs": 1}
    ReconBoostTrainer(made, 3, **given, augment=augment).fit(data(), max_stages=1)
    assert made["hard"].without == 96 * 3
    assert {"easy", "hard", "odd"} in seen
    twins = learners(("easy",))["easy"]
    done = ReconBoostTrainer({"easy": twins, "hard": twins}, 3, **given)
    inputs, y = data()
    done.fit(({name: inputs[name] for name in ("easy", "hard")}, y), max_stages=1)
    assert twins.without == 96 * 3
    assert twins.modes == {False}


def test_every_stage_has_a_fresh_optimizer_of_what_it_trains():
    made = []

    def factory(parameters, lr):
        made.append((len(parameters), lr))
        return torch.optim.Adam(parameters, lr)

    done = trainer(optimizer_factory=factory, lr=0.08, rectify_lr=0.04, lr_decay=0.5, lr_milestones=(1, 2))
    done.fit(data(), max_stages=3)
    one, all_of_them = 6, 3 * 6 + 1
    assert made == [
        (one, 0.08), (all_of_them, 0.04), (one, 0.04), (all_of_them, 0.02), (one, 0.02), (all_of_them, 0.01)
    ]  # fmt: skip
    assert [stage.learning_rate for stage in done.history] == [0.08, 0.04, 0.02]


def test_schedules_are_cyclic_random_by_seed_or_ones_own():
    def order(**given):
        return [stage.modality for stage in trainer(epochs_per_stage=1, **given).fit(data(), max_stages=6).history]

    assert order() == ["easy", "hard", "odd"] * 2
    drawn = order(schedule="random")
    assert drawn == order(schedule="random")
    assert drawn != order(schedule="random", seed=4)
    assert order(schedule=lambda stage, history: "odd" if stage < 2 else history[-1].modality) == ["odd"] * 6


def test_the_history_says_what_happened():
    done = trainer()
    stages = []
    done.fit(data(), data(60, 1), max_stages=4, progress=stages.append)
    assert stages == done.history
    assert [stage.stage for stage in stages] == [0, 1, 2, 3]
    last = stages[-1]
    assert set(last.by_modality) == {"easy", "hard", "odd"}
    assert 0 < last.rectification < 2
    assert last.boost_rate != 1
    best = max(stage.accuracy for stage in stages)
    assert done.history[done.best_stage].accuracy == best
    assert done.evaluate(data(60, 1)).accuracy == best
    blind = trainer(rectify_epochs=0).fit(data(), max_stages=1)
    assert math.isnan(blind.history[0].accuracy)
    assert math.isnan(blind.history[0].rectification)
    assert blind.history[0].boost_rate == 1


def test_the_best_stage_is_kept_and_training_stops_without_a_better_one():
    done = trainer(learners=_plain(("easy", "hard", "odd"), torch.float32), lr=1e-9)
    done.fit(data(), data(60, 1), max_stages=9, patience=2)
    assert len(done.history) == 3
    assert done.best_stage == 0
    macro = trainer(monitor="macro_accuracy").fit(data(), data(61, 1), max_stages=3)
    assert macro.history[macro.best_stage].macro_accuracy == max(each.macro_accuracy for each in macro.history)


@pytest.mark.parametrize("cut", [1, 3])
def test_a_state_taken_up_goes_on_bit_for_bit(cut, tmp_path):
    given = {"warm_start_epochs": 1, "schedule": "random"}
    whole = trainer(**given).fit(data(), data(40, 1), max_stages=5)
    first = trainer(**given).fit(data(), data(40, 1), max_stages=cut)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed = trainer(**given)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for done in (resumed, first):
        done.fit(data(), data(40, 1), max_stages=5)
        assert done.history == whole.history
        assert done.best_stage == whole.best_stage
        assert weights(done.ensemble).equal(weights(whole.ensemble))
        for name, value in whole.state_dict()["weights"].items():
            assert value.equal(done.state_dict()["weights"][name])


def test_an_interrupted_stage_is_trained_anew():
    calls = []

    def factory(parameters, lr):
        calls.append(len(parameters))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=5e-4)

    done, whole = trainer(optimizer_factory=factory), trainer()
    with pytest.raises(KeyboardInterrupt):
        done.fit(data(), max_stages=3)
    assert len(done.history) == 1
    done.fit(data(), max_stages=3)
    assert weights(done.ensemble).equal(weights(whole.fit(data(), max_stages=3).ensemble))


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path):
    path = tmp_path / "state.pt"
    code = f"import sys; sys.path.insert(0, {str(HERE.parents[1])!r}); "
    code += f"from multimodal.boosting import worlds; worlds.run_slowly({str(path)!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9
    resumed, whole, left = trainer(schedule="random"), trainer(schedule="random"), []
    resumed.fit(slow_data(), data(40, 1), max_stages=6, checkpoint=path, progress=left.append)
    whole.fit(slow_data(), data(40, 1), max_stages=6)
    assert 0 < len(left) < 6
    assert resumed.history == whole.history
    assert weights(resumed.ensemble).equal(weights(whole.ensemble))


@pytest.mark.parametrize("changed", ["seed", "lr", "loss", "learners", "inputs", "val"])
def test_a_checkpoint_of_another_run_is_refused(changed, tmp_path, plain_inputs):
    path = tmp_path / "state.pt"
    trainer().fit(data(), data(40, 1), max_stages=1, checkpoint=path)
    changes = {"seed": {"seed": 4}, "lr": {"lr": 0.06}, "loss": {"loss": ReconcilementLoss(4.0)}}.get(changed, {})
    other, inputs, val = trainer(**changes), data(), data(40, 1)
    if changed == "learners":
        nn.init.zeros_(other.ensemble.learner("odd").module[-1].bias)
    elif changed == "inputs":
        inputs[0]["odd"][0, 0] += 1e-3
    elif changed == "val":
        val = data(40, 2)
    with pytest.raises(ValueError, match="of other data or settings"):
        other.fit(inputs, val, max_stages=2, checkpoint=path)
    more = trainer().fit(data(), data(40, 1), max_stages=2, checkpoint=path)
    assert len(more.history) == 2
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no checkpoint of a training"):
        trainer().fit(data(), data(40, 1), max_stages=2, checkpoint=path)


def test_modalities_may_be_missing_when_it_predicts():
    done = trainer().fit(data(), max_stages=3)
    inputs, y = data(50, 1)
    whole = done.predict_proba(inputs)
    torch.testing.assert_close(whole.sum(1), torch.ones(50))
    torch.testing.assert_close(done.predict_proba(inputs, batch_size=7), whole)
    one = done.predict_proba({"easy": inputs["easy"], "hard": None})
    torch.testing.assert_close(one, done.predict_proba(inputs, exclude=["hard", "odd"]))
    alone = done.evaluate((inputs, y)).by_modality
    assert float((one.argmax(1) == y).double().mean()) == pytest.approx(alone["easy"])
    assert done.predict(inputs).equal(whole.argmax(1))
    assert not whole.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_as_well(dtype):
    dtypes = set()

    class Seen(nn.Module):
        def forward(self, x):
            dtypes.add(x.dtype)
            return x

    made = {name: nn.Sequential(one, Seen()) for name, one in learners().items()}
    done = trainer(learners=made, autocast=dtype, lr=0.05).fit(data(), max_stages=6)
    assert dtypes == {dtype}
    assert all(value.dtype is torch.float32 for value in done.ensemble.parameters())
    assert done.evaluate(data(90, 1)).accuracy > 0.8


def test_one_modality_and_a_list_of_learners_are_enough():
    inputs, y = data()
    one = ReconBoostTrainer([learners()["easy"]], 3, lr=0.05).fit(({"0": inputs["easy"]}, y), max_stages=2)
    assert one.names == ("0",)
    assert one.history[1].consolidation == 0


def test_the_callers_random_state_and_data_are_left_alone():
    inputs, y = data()
    kept, state = {name: x.clone() for name, x in inputs.items()}, torch.get_rng_state()
    done = trainer(schedule="random").fit((inputs, y), max_stages=2)
    assert torch.get_rng_state().equal(state)
    assert all(inputs[name].equal(x) for name, x in kept.items())
    assert not done.ensemble.training
    assert all(parameter.grad is None for parameter in done.ensemble.parameters())


def _without(name):
    inputs, y = data()
    return {key: x for key, x in inputs.items() if key != name}, y


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (lambda: data()[0], "train must be"),
        (lambda: _without("odd"), "train needs 'odd'"),
        (lambda: ({**data()[0], "smell": torch.zeros(96)}, data()[1]), "train has 'smell', which is no modality"),
        (lambda: (data()[0], data()[1][:90]), r"train has 'easy' of shape \(96, 3\), its target has 90 samples"),
        (lambda: (data()[0], data()[1] + 1), "target holds the value 3"),
        (lambda: (data()[0], data()[1] - 1), "target holds the value -1"),
        (lambda: (data()[0], data()[1].float()), "target must hold integers"),
        (lambda: ({name: x[:0] for name, x in data()[0].items()}, data()[1][:0]), "target is empty"),
        (lambda: ({**data()[0], "odd": data()[0]["odd"] / 0}, data()[1]), "'odd' of train holds"),
        (lambda: ({**data()[0], "odd": [0.0]}, data()[1]), "train needs 'odd' as a torch.Tensor"),
        (lambda: ({**data()[0], "odd": lambda rows: rows.numpy()}, data()[1]), "'odd' must give a torch.Tensor"),
        (lambda: ({**data()[0], "odd": lambda rows: torch.zeros(3, 3)}, data()[1]), r"'odd' must give .* got \(3, 3\)"),
    ],
)
def test_bad_data_are_refused(train, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        trainer().fit(train(), max_stages=1)
    with pytest.raises(ValueError, match=message.replace("train", "val")):
        trainer().fit(data(), train(), max_stages=1)


def test_inputs_that_cannot_be_predicted_from_are_refused(plain_inputs):
    done, inputs = trainer(), data(6)[0]
    for bad, message in (
        (inputs["hard"] / 0, "'hard' of inputs holds"),
        (inputs["hard"][:0], "inputs has no samples of 'hard'"),
        (inputs["hard"][:2], "inputs has 2 samples of 'hard' and 6 of 'easy'"),
        ([0.0], "inputs needs 'hard' as a torch.Tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            done.predict_proba({**inputs, "hard": bad})


def test_a_checkpoint_that_could_not_be_written_is_refused_before_the_training(tmp_path, plain_inputs):
    done = trainer()
    with pytest.raises(ValueError, match="there is no folder"):
        done.fit(data(), max_stages=1, checkpoint=tmp_path / "none" / "state.pt")
    assert not done.history


def test_bad_settings_are_refused(plain_inputs):
    for settings, message in (
        ({"schedule": "backwards"}, "schedule='backwards' is not known"),
        ({"alpha": -1.0}, "alpha"),
        ({"lr": 0.0}, "lr"),
        ({"epochs_per_stage": 0}, "epochs_per_stage"),
        ({"autocast": torch.float64}, "autocast"),
        ({"monitor": "auroc"}, "monitor"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(**settings)
    with pytest.raises(ValueError, match="patience needs val"):
        trainer().fit(data(), max_stages=1, patience=1)
    with pytest.raises(ValueError, match="schedule gave 'smell'"):
        trainer(schedule=lambda stage, history: "smell").fit(data(), max_stages=1)
    with pytest.raises(ValueError, match=r"the learner of 'easy' gives shape \(20, 4\), wanted \(n, 3\)"):
        trainer(learners=learners(outputs=4)).fit(data(), max_stages=1)
    with pytest.raises(ValueError, match="loss must give a scalar"):
        trainer(loss=ReconcilementLoss(reduction="none")).fit(data(), max_stages=1)
    frozen = trainer()
    frozen.ensemble.learner("easy").requires_grad_(False)
    with pytest.raises(ValueError, match="the learner of 'easy' has no parameter to train"):
        frozen.fit(data(), max_stages=1)
    done = trainer().fit(data(), max_stages=1)
    with pytest.raises(ValueError, match="none of the modalities"):
        done.predict_proba({})
    with pytest.raises(ValueError, match=r"samples of 'hard'"):
        done.predict_proba({"easy": torch.zeros(3, 3), "hard": torch.zeros(2, 3)})


def test_a_training_that_runs_away_says_so():
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        trainer(learners={name: nn.Linear(3, 3) for name in ("easy", "hard", "odd")}, lr=1e30).fit(data(), max_stages=5)
