"""What `embed` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class EmbedRequest(Request):
    """Options of `embed_triplets`.

    Attributes:
        methods: Losses to compare: dmoe, gnmds, ckl, ste, tste, soe.
        dims: Numbers of dimensions to compare.
        lams: Strengths of the penalty on the size of the map, of which each loss and dimension takes its best.
        folds: Parts of the answers that are held out in turn.
        escape_formulas: Put a quote before names that a spreadsheet would run as a formula.
        seed: Of the folds and the starts.
        output: The folder to write: coordinates.csv, accuracy.csv, map.png, metrics.json, report.html,
            model.safetensors.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    methods: Sequence[str] = ("dmoe", "gnmds", "ckl", "ste", "tste", "soe")
    dims: Sequence[int] = (1, 2, 3, 5)
    lams: Sequence[float] = (0.1, 1.0, 10.0)
    folds: int = 5
    escape_formulas: bool = False
    seed: int = 0
    output: Path = Path("equipoise-embed")
    overwrite: bool = False
