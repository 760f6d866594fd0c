"""What `debias` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class DebiasRequest(Request):
    """Options of `debias_pipeline`.

    Attributes:
        attribute: NAME=value1,value2 for each attribute; of several, all combinations of values are balanced.
        concept: What neutral prompts are about, such as doctor; all are balanced by one adapter.
        target: Wanted shares of the values, in their order; equal ones if absent.
        unseen: Further concepts whose pictures are judged, which the adapter has not seen.
        template: Texts with one {} for the concept; pictures are judged by the first. The pipeline's own if absent.
        keep_text: Unrelated texts that stay where they are; the pipeline's own if absent.
        clip: Of a diffusers pipeline, a folder with the CLIP model whose text encoder it has, such as
            clip-vit-large-patch14 of Stable Diffusion 1.
        references: Pictures of every concept and value that the text is balanced by.
        rank: Of the adapter.
        lambda_q: Weight of equal closeness to the own pictures.
        pull: Weight in it of the mean distance.
        keep: Weight of the term that keeps unrelated texts.
        steps: Of training the adapter.
        learning_rate: Of Adam; 0.002 for shapes and 0.0001 for diffusers if absent.
        switch: Share of sampling, from its end, that reads the debiased text; less changes less and costs less quality.
        pictures: Of every concept, before and after, that are judged.
        sampling_steps: Of a diffusers pipeline.
        guidance: Of a diffusers pipeline.
        seed: Of the adapter and of all pictures.
        output: The folder to write: adapter, sheet.png, counts.csv, metrics.json, report.html.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    attribute: tuple[str, ...] = ()
    concept: tuple[str, ...] = ()
    target: tuple[float, ...] | None = None
    unseen: tuple[str, ...] = ()
    template: tuple[str, ...] = ()
    keep_text: tuple[str, ...] = ()
    clip: Path | None = None
    references: int = 48
    rank: int = 4
    lambda_q: float = 0.5
    pull: float = 0.1
    keep: float = 1.0
    steps: int = 100
    learning_rate: float | None = None
    switch: float = 0.9
    pictures: int = 64
    sampling_steps: int = 50
    guidance: float = 7.5
    seed: int = 0
    output: Path = Path("equipoise-debias")
    overwrite: bool = False
