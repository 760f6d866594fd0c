"""What a cross-validated path has found so far, in a folder, so that an interrupted run need not find it again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.crowd.partial_ranking.path import SplitPath
from equipoise.crowd.partial_ranking.selection import FoldValues
from equipoise.data.comparisons.answers import Comparisons

_COLUMNS = ("annotator", "left", "right", "label", "weight")


class PathCheckpoint:
    """The path of all answers, and what was found on each fold.

    Args:
        folder: where they are kept; made if it is not there.
        comparisons: what they are of.
        settings: what they depend on.

    Raises:
        ValueError: if the folder holds what was found with other comparisons or settings.
    """

    def __init__(self, folder: str | Path, comparisons: Comparisons, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(f"{comparisons.num_annotators} {comparisons.num_items}".encode())
        for name in _COLUMNS:
            digest.update(getattr(comparisons, name).contiguous().numpy().tobytes())
        of = self._read("of.json")
        if of is not None and of != digest.hexdigest():
            raise ValueError(f"checkpoint {folder} is of other comparisons or settings; name another folder")
        self._write("of.json", digest.hexdigest())
        self._times: list[float] = []

    def path(self, time_ratio: float) -> SplitPath | None:
        """The path of all answers, if it is there.

        Raises:
            ValueError: if it ends later than `time_ratio` times its first time.
        """
        if not (self.folder / "path").exists():
            return None
        found = SplitPath.load(self.folder / "path")
        ratio = float(found.times[-1] / found.times[0])
        if ratio > (1 + 1e-9) * time_ratio:
            raise ValueError(
                f"checkpoint {self.folder} holds a path up to {ratio:g} times its first time, longer than "
                f"time_ratio={time_ratio:g}; name another folder"
            )
        self._times = found.times.tolist()
        return found

    def keep_path(self, path: SplitPath) -> None:
        """Write the path, whole or not at all."""
        place, new = self.folder / "path", self.folder / "path.new"
        shutil.rmtree(new, ignore_errors=True)
        path.save(new)
        shutil.rmtree(place, ignore_errors=True)
        new.rename(place)
        self._times = path.times.tolist()

    def fold(self, number: int) -> FoldValues | None:
        """What was found on a fold at the times of the path, if it is there."""
        found = self._read(f"fold-{number}.json")
        if found is None or found["times"] != self._times:
            return None
        return {name: (judged, losses) for name, (judged, losses) in found["values"].items()}

    def keep_fold(self, number: int, values: FoldValues) -> None:
        """Write what was found on a fold."""
        self._write(f"fold-{number}.json", {"times": self._times, "values": values})

    def _read(self, name: str) -> Any:
        file = self.folder / name
        try:
            return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        except ValueError as error:
            raise ValueError(f"{file} is damaged; remove it, or name another folder") from error

    def _write(self, name: str, content: Any) -> None:
        new = self.folder / f"{name}.new"
        new.write_text(json.dumps(content), encoding="utf-8")
        new.replace(self.folder / name)
