"""What `spectrum` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class SpectrumRequest(Request):
    """Options of `measure_spectrum`.

    Attributes:
        activation: Of the blocks that are compared: relu, leaky_relu, gelu, gelu_tanh, silu, tanh, sigmoid, erf or
            identity.
        rows: At most so many samples, drawn at random.
        target: The column of a table, or the array of an .npz file, to predict the loss on; a random one if absent.
        params: Patterns of the names of parameters that count, such as "*mlp*"; all that are trainable if absent.
        pool: How a text becomes one vector: mean of its tokens, or its last one.
        max_length: Tokens of a text that are read.
        outputs: Random directions of that vector whose kernels are summed.
        step: The step of gradient descent as a share of 2/lambda_max of the block with the larger one, below 1.
        hidden: Width of the plain block that stands on the vectors of a text model; four times theirs if absent.
        memory: MiB that passes may take beside the model and the kernels.
        seed: Of the weights, the rows and the random target.
        output: The folder to write: spectrum.csv, layers.csv, metrics.json, report.html.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    activation: str = "relu"
    rows: int = 256
    target: str | None = None
    params: tuple[str, ...] | None = None
    pool: str = "mean"
    max_length: int = 64
    outputs: int = 1
    step: float = 0.05
    hidden: int | None = None
    memory: int = 512
    seed: int = 0
    output: Path = Path("equipoise-spectrum")
    overwrite: bool = False
