"""A Lightning callback that watches the condition number of the tangent kernel while any module trains."""

from __future__ import annotations

import lightning

from equipoise.language.gated.monitor import ConditionMonitor


class ConditionCallback(lightning.Callback):
    """Measures the tangent kernel on a fixed batch before training and after epochs; see `ConditionMonitor`.

    The probe must lie on the module's device. The module is judged in evaluation mode; what it logs is
    "ntk/condition_number" and the other numbers of a row.

    Args:
        monitor: with the batch and the parameters that count.
        every: measure after every so many epochs, and after the last.

    Raises:
        ValueError: if `every` is below 1.
    """

    def __init__(self, monitor: ConditionMonitor, *, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        self.monitor, self.every = monitor, every

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Measure the untrained module, as step 0."""
        self.monitor.measure(module, trainer.global_step)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Measure and log the row."""
        epoch = trainer.current_epoch
        if (epoch + 1) % self.every and epoch + 1 != trainer.max_epochs:
            return
        row = self.monitor.measure(module, trainer.global_step)
        module.log_dict({f"ntk/{name}": value for name, value in row.items() if name != "step"})
