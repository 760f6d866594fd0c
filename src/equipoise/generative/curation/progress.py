"""Finished identities of a build, a line each, so that a build that stopped can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
        rejects: why a synthetic one was drawn again → how often.
    """

    rows: tuple[ManifestRow, ...]
    centre: Tensor | None
    rejects: Mapping[str, int] = field(default_factory=dict)


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
        # Names may hold characters at which text is split into lines, too.
        *lines, rest = self.path.read_bytes().split(b"\n")
        if not lines:
            whole = json.dumps({"build": state}).encode()
            if not whole.startswith(rest):
                raise ValueError(f"progress={str(path)!r} is no file of a build; name a new file")
            with self.path.open("wb"):
                pass  # stopped before the first line was whole
            self._append({"build": state})
            return
        try:
            first = json.loads(lines[0])["build"]
        except (ValueError, KeyError, TypeError):
            first = None
        if first != state:
            raise ValueError(f"progress={str(path)!r} is of another source or other settings; name a new file")
        for number, line in enumerate(lines[1:], start=2):
            try:
                held = json.loads(line)
                centre = None if held["centre"] is None else torch.tensor(held["centre"], dtype=torch.float64)
                self.finished[held["identity"]] = Finished(
                    tuple(map(row_from_json, held["rows"])), centre, dict(held.get("rejects", {}))
                )
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"progress={str(path)!r}, line {number}, holds no identity; name a new file"
                ) from error
        with self.path.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in lines))  # what was cut off when the build was stopped

    def write(self, identity: str, found: Finished) -> None:
        """Add an identity."""
        rows = [json_ready(asdict(row)) for row in found.rows]
        centre = None if found.centre is None else found.centre.tolist()
        self._append({"identity": identity, "rows": rows, "centre": centre, "rejects": dict(found.rejects)})

    def _append(self, value: object) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
