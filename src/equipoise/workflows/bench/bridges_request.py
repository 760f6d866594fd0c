"""What `bench bridges` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class BridgesRequest:
    """Options of `bench_bridges`.

    Attributes:
        task: The harmless task: super-resolution or inpainting.
        attacks: How many attacks are planted, 1 to 3.
        trigger_size: Side of the square that calls an attack, in pixels of 16.
        pictures: Training pictures.
        test: Test pictures.
        steps: Training steps of each expert; the one network has those of all experts together.
        merge_steps: Steps in which experts and router are trained together.
        repair_steps: Steps of training on clean pairs.
        learning_rate: Of experts and of the one network.
        reallocation: The price on uneven weights of the router.
        seed: Of pictures, networks and training.
        output: The folder to write: results.json, tables.md and the tables as CSV.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    task: str = "super-resolution"
    attacks: int = 3
    trigger_size: int = 4
    pictures: int = 4000
    test: int = 256
    steps: int = 400
    merge_steps: int = 250
    repair_steps: int = 200
    learning_rate: float = 5e-3
    reallocation: float = 1.0
    seed: int = 0
    output: Path = Path("equipoise-bridges")
    overwrite: bool = False
