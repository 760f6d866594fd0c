"""What `tune-encoder` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class TuneEncoderRequest(Request):
    """Options of `tune_encoder`.

    Attributes:
        factors: A CSV or TSV file with a column file and a column for each detail (colour, number, direction), which
            held-out pictures are asked about before and after.
        loss: What the encoder is tuned by: dcr, or to compare rec, con or con+rec.
        denoiser: own, trained on the pictures first, or tiny, the text-to-image model of the shapes world; tiny for the
            shapes world and own for a folder if absent.
        side: Side in pixels of what an own denoiser sees.
        denoiser_steps: Of training an own denoiser.
        align_steps: Of the first stage, in which a projector learns what the denoiser reads.
        steps: Of the second stage, in which the encoder is tuned.
        batch_size: Pictures of a batch, of which every two are contrasted.
        learning_rate: Of the second stage.
        temperature: Of the contrast.
        rank: Of the low-rank changes of all linear layers.
        chunk: Pictures whose predictions are held at once, 1 for least memory; all of a batch if absent.
        vertical_flip: Let views be turned upside down, where up and down mean nothing.
        test_size: Share of the pictures that are held out to judge by.
        seed: Of the split and all draws.
        output: The folder to write: encoder, metrics.json, report.html.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    factors: Path | None = None
    loss: str = "dcr"
    denoiser: str | None = None
    side: int = 16
    denoiser_steps: int = 1500
    align_steps: int = 500
    steps: int = 200
    batch_size: int = 16
    learning_rate: float = 1e-4
    temperature: float = 0.1
    rank: int = 16
    chunk: int | None = None
    vertical_flip: bool = False
    test_size: float = 0.3
    seed: int = 0
    output: Path = Path("equipoise-tune-encoder")
    overwrite: bool = False
