import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from equipoise.language import ConditionMonitor
from equipoise.training.conditioning import ConditionCallback


class _Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, index):
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# Lightning warns of its own dependencies.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_probe_is_measured_before_training_and_after_epochs(tmp_path):
    x = torch.randn(24, 3)
    callback = ConditionCallback(ConditionMonitor(x[:6], ["model.*"]), every=2)
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = _Module()
    trainer.fit(module, DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=12))
    history = callback.monitor.history
    assert [row["step"] for row in history] == [0, 4, 8, 10]
    assert float(trainer.callback_metrics["ntk/lambda_max"]) == pytest.approx(history[-1]["lambda_max"], rel=1e-5)
    assert history[0]["lambda_max"] != history[-1]["lambda_max"]
    with pytest.raises(ValueError, match="every=0"):
        ConditionCallback(callback.monitor, every=0)
