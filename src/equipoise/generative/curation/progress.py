"""Finished identities of a build, a line each, so that a build that stopped can go on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from equipoise.generative.curation.manifest import ManifestRow, json_ready, row_from_json


@dataclass(frozen=True)
class Finished:
    """An identity that is done.

    Attributes:
        rows: of its samples.
        centre: (d,) its mean direction; None where nothing is kept.
    """

    rows: tuple[ManifestRow, ...]
    centre: Tensor | None


class ProgressFile:
    """Finished identities in a file of JSON lines, of which the first says which build they belong to.

    Args:
        path: of the file; made where there is none.
        state: fingerprint of source names and settings.

    Raises:
        ValueError: if the file is of another build, or none of this kind.
    """

    def __init__(self, path: str | Path, state: str) -> None:
        self.path = Path(path)
        self.finished: dict[str, Finished] = {}
        if not self.path.exists():
            self._append({"build": state})
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        try:
            first = json.loads(lines[0])["build"] if lines else None
        except (ValueError, KeyError, TypeError):
            first = None
        if first != state:
            raise ValueError(f"progress={str(path)!r} is of another source or other settings; name a new file")
        whole = 0
        for line in lines:
            if not line.endswith("\n"):
                break  # cut off when the build was stopped
            whole += len(line.encode())
            held = json.loads(line)
            if "identity" in held:
                centre = None if held["centre"] is None else torch.tensor(held["centre"], dtype=torch.float64)
                self.finished[held["identity"]] = Finished(tuple(map(row_from_json, held["rows"])), centre)
        with self.path.open("r+b") as file:
            file.truncate(whole)

    def write(self, identity: str, found: Finished) -> None:
        """Add an identity."""
        rows = [json_ready(asdict(row)) for row in found.rows]
        centre = None if found.centre is None else found.centre.tolist()
        self._append({"identity": identity, "rows": rows, "centre": centre})

    def _append(self, value: object) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
