import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killed_run import train
from torch import nn

from equipoise.core.phases import Phased
from equipoise.ranking import PairwiseAUCLoss, auroc
from equipoise.training import HeldOut, Plan, ScoringModule, fit_module
from equipoise.training.networks import Standardize, mlp


def _weights(run):
    return {name: w.clone() for name, w in run.module.state_dict().items()}


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def _data(n=150):
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(n, generator=generator) < 0.3).long()
    return torch.randn(n, 3, generator=generator) + target[:, None], target


def test_a_run_that_is_killed_and_started_again_ends_with_the_same_weights(tmp_path):
    unbroken = train(tmp_path / "unbroken")
    broken = tmp_path / "broken"
    script = "import sys; sys.path.insert(0, sys.argv[2]); import killed_run; killed_run.run_slowly(sys.argv[1])"
    arguments = [sys.executable, "-c", script, str(broken), str(Path(__file__).parent)]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    checkpoint = broken / "resume.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # into the middle of a later epoch
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = torch.load(checkpoint, weights_only=True)["epoch"]
    assert 0 <= reached < 7
    resumed = train(broken)
    assert resumed.epochs == unbroken.epochs
    assert (resumed.best, resumed.best_epoch) == (unbroken.best, unbroken.best_epoch)
    assert _same(_weights(resumed), _weights(unbroken))
    logs = [(run / "logs" / "metrics.csv").read_text() for run in (broken, tmp_path / "unbroken")]
    assert logs[0] == logs[1]


def test_a_checkpoint_holds_no_pickled_objects_and_logs_are_csv(tmp_path):
    train(tmp_path)
    assert torch.load(tmp_path / "resume.ckpt", weights_only=True)["state_dict"]
    header, *rows = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()
    assert {"epoch", "loss", "held_out"} <= set(header.split(","))
    assert len(rows) == 8


def _small_run(folder=None, epochs=3, nudge=0.0, flipped=0, loss=None, seed=0, judge=auroc, start=0, patience=2, n=150):
    features, target = _data()
    features[7, 1] = torch.nextafter(features[7, 1], features[7, 1] + nudge)
    target[0] ^= flipped
    with torch.random.fork_rng():
        torch.manual_seed(start)
        network = mlp(3, 1, (4,))
    return fit_module(
        network,
        PairwiseAUCLoss() if loss is None else loss,
        features[:n],
        target[:n],
        Plan(epochs=epochs, batch_size=50, seed=seed, patience=patience),
        held_out=HeldOut(features[-60:], target[-60:], judge),
        folder=folder,
    )


class _Tempered(nn.Module):
    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, logits, target):
        return nn.functional.binary_cross_entropy_with_logits(logits / self.temperature, target.float())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"nudge": 1.0}, "features"),
        ({"flipped": 1}, "target"),
        ({"n": 149}, "features, target"),
        ({"seed": 1}, "plan"),
        ({"epochs": 4}, "plan"),
        ({"loss": _Tempered(2.0)}, "loss"),
        ({"start": 1}, "network"),
        ({"judge": lambda scores, target: auroc(scores, target)}, "held_out"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changed, named):
    _small_run(tmp_path, loss=None if "loss" not in changed else _Tempered(1.0))
    before = (tmp_path / "resume.ckpt").read_bytes()
    with pytest.raises(ValueError, match=f"of a run with another {named}"):
        _small_run(tmp_path, **changed)
    assert (tmp_path / "resume.ckpt").read_bytes() == before


def test_a_checkpoint_with_one_flipped_byte_is_refused_or_gives_the_same(tmp_path):
    whole = _weights(_small_run(tmp_path))
    path = tmp_path / "resume.ckpt"
    sound, refused = path.read_bytes(), 0
    for place in range(11, len(sound), len(sound) // 40):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 16]) + sound[place + 1 :])
        try:
            # Padding between the parts of the file may differ without harm.
            assert _same(_weights(_small_run(tmp_path)), whole)
        except ValueError as error:
            if "damaged" not in str(error):
                raise
            refused += 1
    assert refused > 10


def test_a_finished_run_that_is_started_again_is_as_it_was(tmp_path):
    def judge(scores, target):
        return -scores.abs().mean()  # gets worse as training goes on, and better if it went on for longer

    first, again = (_small_run(tmp_path, epochs=50, judge=judge, patience=1) for _ in range(2))
    assert first.epochs < 50
    assert (again.epochs, again.best_epoch, again.best) == (first.epochs, first.best_epoch, first.best)
    assert _same(_weights(again), _weights(first))


def test_surplus_rows_are_refused():
    features, target = _data()
    network, plan = nn.Linear(3, 1), Plan(epochs=1)
    for wrong in ((features, target[:-5]), (features[:-5], target)):
        with pytest.raises(ValueError, match="target must have shape"):
            fit_module(network, PairwiseAUCLoss(), *wrong, plan)
        with pytest.raises(ValueError, match="target must have shape"):
            HeldOut(*wrong, auroc)


def test_the_best_weights_come_back(tmp_path):
    features, target = _data()
    values = iter([0.1, 0.9, 0.3, 0.2])
    kept = []

    def judge(scores, truth):
        kept.append(scores)
        return torch.tensor(next(values))

    run = fit_module(
        nn.Linear(3, 1),
        PairwiseAUCLoss(),
        features,
        target,
        Plan(epochs=10, batch_size=50, patience=2, learning_rate=0.1),
        held_out=HeldOut(features[:20], target[:20], judge),
    )
    assert (run.best_epoch, run.epochs) == (1, 4)
    with torch.no_grad():
        torch.testing.assert_close(run.module(features[:20]), kept[1])


def test_phases_follow_the_epochs_and_a_warm_up_is_never_kept():
    features, target = _data()
    seen = []

    class Watching(Phased):
        warmup_epochs = 3

        def forward(self, logits, target):
            seen.append((self.epoch, self.total_epochs))
            return PairwiseAUCLoss()(logits, target)

    run = fit_module(
        nn.Linear(3, 1),
        Watching(),
        features,
        target,
        Plan(epochs=5, batch_size=200),
        held_out=HeldOut(features, target, lambda scores, truth: torch.tensor(1.0)),
    )
    assert seen == [(epoch, 5) for epoch in range(5)]
    assert run.best_epoch == 3


def test_a_run_is_a_function_of_its_seed_and_leaves_the_callers_state():
    features, target = _data()

    def run(seed):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            network = mlp(3, 1, (8,), dropout=0.5)
        return _weights(fit_module(network, PairwiseAUCLoss(), features, target, Plan(3, 40, seed=seed)))

    state = torch.random.get_rng_state()
    first, again, other = run(1), run(1), run(2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert _same(first, again)
    assert not _same(first, other)


def test_a_module_works_under_a_trainer_of_ones_own():
    import lightning

    features, target = _data()
    module = ScoringModule(mlp(3, 1, (8,)), PairwiseAUCLoss(), learning_rate=0.05)
    before = auroc(module(features), target)
    trainer = lightning.Trainer(
        max_epochs=5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        log_every_n_steps=1,
    )
    rows = torch.utils.data.TensorDataset(features, target)
    loader = torch.utils.data.DataLoader(rows, batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(0))
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer.fit(module, loader)
    assert auroc(module(features), target) > before


def test_standardising_survives_constants_and_offsets():
    features = torch.tensor([[1e8, 5.0, 0.0], [1e8 + 16, 5.0, 2.0]])
    scaled = Standardize(features)(features)
    torch.testing.assert_close(scaled[:, 1], torch.zeros(2))
    torch.testing.assert_close(scaled[:, 2], torch.tensor([-1.0, 1.0]))
    assert torch.isfinite(scaled).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"epochs": 0}, "epochs=0"), ({"batch_size": 0}, "batch_size=0"), ({"learning_rate": 0.0}, "learning_rate=0.0")],
)
def test_a_plan_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Plan(**settings)
