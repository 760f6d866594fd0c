"""The condition number of a net on the same few samples, again and again while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from equipoise.core.signature import checked
from equipoise.language.gated.empirical import empirical_ntk
from equipoise.language.gated.recording import Inputs, Readout
from equipoise.language.gated.spectrum import ntk_spectrum


class ConditionMonitor:
    """Spectra of the empirical tangent kernel on a fixed batch, with what they were before.

    Args:
        probe: inputs, as in `empirical_ntk`; the same at every measurement.
        params: patterns of names, such as "*.mlp.*"; all trainable parameters if absent.
        readout: from what the model returns to outputs (n, c).
        options: `chunk_size`, `memory_limit` and `dtype` of `empirical_ntk`.

    Attributes:
        history: a row per measurement: "step", "lambda_min", "lambda_max", "condition_number", "effective_rank",
            "top_share", and "centred_condition_number", that without the mean over samples.

    >>> monitor = ConditionMonitor(torch.eye(3))
    >>> row = monitor.measure(torch.nn.Linear(3, 1, bias=False), step=0)
    >>> row["effective_rank"] == 3
    True
    """

    @checked
    def __init__(
        self, probe: Inputs, params: Sequence[str] | None = None, *, readout: Readout | None = None, **options: Any
    ) -> None:
        self.probe, self._params, self._readout, self._options = probe, params, readout, options
        self.history: list[dict[str, float]] = []

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Measure a model in evaluation mode and add the row; its mode is put back.

        Args:
            model: the model.
            step: to note in the row.

        Raises:
            ValueError: as `empirical_ntk`.
        """
        modes = [(layer, layer.training) for layer in model.modules()]
        model.eval()
        try:
            kernel = empirical_ntk(model, self.probe, self._params, readout=self._readout, **self._options)
        finally:
            for layer, mode in modes:
                layer.training = mode
        found = ntk_spectrum(kernel)
        names = ("lambda_min", "lambda_max", "condition_number", "effective_rank", "top_share")
        row: dict[str, float] = {"step": step, **{name: getattr(found, name) for name in names}}
        assert found.without_mean is not None
        row["centred_condition_number"] = found.without_mean.condition_number
        self.history.append(row)
        return row
