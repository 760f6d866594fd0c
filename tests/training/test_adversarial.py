import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from equipoise.core.solvers.saddle_solvers import AcceleratedDescentAscent
from equipoise.ranking import (
    DRAUCLoss,
    MinMaxAUCLoss,
    PGDAttack,
    RobustAUROC,
    WassersteinPerturbation,
    robust_auroc,
)
from equipoise.training import AdversarialScoringModule, ScoringModule

# What Lightning says of loaders, and of PyTorch's own newer names.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore::FutureWarning")


def _data():
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(120) % 4 == 0).long()
    return (torch.rand(120, 3, generator=generator) * 0.6 + 0.25 * y[:, None]).clamp(0, 1), y


def _network():
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    generator = torch.Generator().manual_seed(1)
    for p in network.parameters():
        nn.init.uniform_(p, -0.6, 0.6, generator=generator)
    return network


def _fit(module, epochs=4):
    x, y = _data()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=60))
    return module


ADVERSARIES = {
    "attack": lambda: (MinMaxAUCLoss(), PGDAttack(eps=0.1, step=0.04, steps=3)),
    "ball": lambda: (DRAUCLoss(), WassersteinPerturbation(eps=0.01, steps=3, lr=0.05, lambda_period=2)),
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_training_against_an_adversary_is_a_function_of_its_seed_and_ranks(name):
    runs = []
    for _ in range(2):
        loss, adversary = ADVERSARIES[name]()
        torch.manual_seed(len(runs))
        module = _fit(AdversarialScoringModule(_network(), loss, adversary, learning_rate=0.05, seed=3), epochs=40)
        runs.append(module)
    for left, right in zip(runs[0].state_dict().values(), runs[1].state_dict().values(), strict=True):
        assert torch.equal(left, right)
    x, y = _data()
    found = robust_auroc(runs[0].eval(), x, y, [0.05], PGDAttack(eps=0.05, step=0.02, steps=5))
    assert found[0.0] > 0.8
    assert runs[0].loss.a > runs[0].loss.b


class _Validated(AdversarialScoringModule):
    def on_validation_start(self):
        self.judge = RobustAUROC(PGDAttack(eps=0.05, step=0.02, steps=3), [0.05])

    def validation_step(self, batch, batch_index):
        self.judge.update(self, *batch)


def test_a_validation_loop_measures_auc_under_attack():
    module = _Validated(_network(), *ADVERSARIES["attack"]())
    x, y = _data()
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    lightning.Trainer(**options).validate(module, DataLoader(TensorDataset(x, y), batch_size=50), verbose=False)
    found = module.judge.compute()
    assert found[0.05] < found[0.0] == robust_auroc(module, x, y, [], module.judge.attack)[0.0]


def test_the_state_of_an_adversary_that_is_a_module_is_saved_with_the_weights():
    module = AdversarialScoringModule(_network(), *ADVERSARIES["ball"]())
    assert {"adversary.lambda_pos", "adversary.lambda_neg", "loss.alpha"} <= set(module.state_dict())


def test_a_loss_without_terms_is_refused():
    with pytest.raises(ValueError, match="BCEWithLogitsLoss has no `terms"):
        AdversarialScoringModule(_network(), nn.BCEWithLogitsLoss(), PGDAttack())


class _Accelerated(ScoringModule):
    def configure_optimizers(self):
        return AcceleratedDescentAscent(self, lr=0.5, dual_lr=0.1, m=50)


def test_the_accelerated_solver_trains_under_lightning():
    module = _Accelerated(_network(), MinMaxAUCLoss())
    x, y = _data()
    before = module.loss(module(x), y).item()
    _fit(module, epochs=30)
    assert module.loss(module(x), y).item() < before - 0.05
    assert module.loss.a > module.loss.b
