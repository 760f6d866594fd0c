"""A Lightning callback that watches neural collapse and margins while any module trains."""

from __future__ import annotations

import lightning
from torch import nn

from equipoise.longtail.collapse.monitor import Batches, TPTMonitor


class CollapseCallback(lightning.Callback):
    """Measures features, classifier and margins on training data after every epoch; see `TPTMonitor`.

    The data are moved to the module's device, and the module is judged in evaluation mode.

    Args:
        num_classes: C.
        classifier: name of the module's last linear layer, such as "model.head".
        train: batches (inputs, classes) of training data without augmentation.
        test: batches of test data, if their accuracy is wanted.
        every: measure after every so many epochs, and after the last.

    Attributes:
        monitor: the `TPTMonitor`, with `history`, `t0` and `summary()`; None before the fit begins.

    Raises:
        ValueError: if `every` is below 1.
    """

    def __init__(
        self, num_classes: int, classifier: str, train: Batches, test: Batches | None = None, *, every: int = 1
    ) -> None:
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        self.num_classes, self.classifier, self.every = num_classes, classifier, every
        self.train, self.test = train, test
        self.monitor: TPTMonitor | None = None

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Find the classifier.

        Raises:
            ValueError: if there is no layer of that name.
        """
        layers: dict[str, nn.Module] = dict(module.named_modules())
        if self.classifier not in layers:
            raise ValueError(f"the module has no layer {self.classifier!r}; it has {', '.join(filter(None, layers))}")
        self.monitor = TPTMonitor(self.num_classes, layers[self.classifier])

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Measure and log what the last row holds."""
        epoch = trainer.current_epoch
        if self.monitor is None or ((epoch + 1) % self.every and epoch + 1 != trainer.max_epochs):
            return
        on_device = [
            [(x.to(module.device), y.to(module.device)) for x, y in part or ()] for part in (self.train, self.test)
        ]
        row = self.monitor.on_epoch_end(module, on_device[0], on_device[1] or None, epoch=epoch)
        module.log_dict({f"collapse/{name}": value for name, value in row.items()})
