import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from equipoise.training.collapse import CollapseCallback


class _Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


def _fit(callback, folder):
    y = torch.arange(48) % 3
    x = 3 * torch.eye(3)[y] + 0.3 * torch.randn(48, 3)
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    callback.train = callback.test = [(x, y)]
    trainer = lightning.Trainer(
        max_epochs=6,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(_Module(), loader)
    return trainer


# Lightning warns of its own dependencies.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_every_epoch_is_measured_and_logged(tmp_path):
    callback = CollapseCallback(3, "model.2", [])
    trainer = _fit(callback, tmp_path)
    history = callback.monitor.history
    assert len(history) == 6
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert float(trainer.callback_metrics["collapse/p_min"]) == pytest.approx(history[-1]["p_min"], rel=1e-5)
    for every, epochs in ((3, [2, 5]), (4, [3, 5]), (7, [5])):
        rarely = CollapseCallback(3, "model.2", [], every=every)
        _fit(rarely, tmp_path)
        assert [row["epoch"] for row in rarely.monitor.history] == epochs


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_layer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no layer 'head'; it has model"):
        _fit(CollapseCallback(3, "head", []), tmp_path)
    with pytest.raises(ValueError, match="every=0"):
        CollapseCallback(3, "head", [], every=0)
