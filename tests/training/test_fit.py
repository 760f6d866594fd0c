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
    script = Path(__file__).with_name("killed_run.py")
    process = subprocess.Popen([sys.executable, str(script), str(broken)], stderr=subprocess.DEVNULL)
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


def test_a_checkpoint_holds_no_pickled_objects_and_logs_are_csv(tmp_path):
    train(tmp_path)
    assert torch.load(tmp_path / "resume.ckpt", weights_only=True)["state_dict"]
    header, *rows = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()
    assert {"epoch", "loss", "held_out"} <= set(header.split(","))
    assert len(rows) == 8


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
