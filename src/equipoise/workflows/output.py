"""Output folders that are whole or not there, and never in place of something that is the user's.

The folder is claimed before the work begins: a lock beside it keeps a second run away, and the place is tried at once.
Everything is written into a folder beside it, which takes its place by one rename; what was there is put aside until
then, and put back if that fails. What a killed run has left is cleared up by the next run of that output.
"""

from __future__ import annotations

import glob
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from equipoise.workflows.errors import InputError
from equipoise.workflows.manifest import foreign_files, write_manifest

_ROOM = 16 << 20  # bytes that a place must have room for


@contextmanager
def staged_folder(path: str | Path, *, overwrite: bool, inputs: Sequence[str | Path] = ()) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` if the block ends well and vanishes if it does not.

    Args:
        path: the folder to write; a symbolic link stands for what it leads to.
        overwrite: replace a folder that this program wrote.
        inputs: files, folders and patterns that are read, which must not lie in it.

    Raises:
        InputError: if the folder cannot be written, holds what is not this program's, or is being written by another.
    """
    place = _check_place(path, overwrite, inputs)
    aside, backup = (place.with_name(f".{place.name}.equipoise-{end}") for end in ("new", "old"))
    made = [parent for parent in place.parents if not parent.exists()]
    try:
        with _told(path):
            place.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(path, place.with_name(f".{place.name}.equipoise-lock")):
            try:
                with _told(path):
                    _clear_up(place, aside, backup)
                    _check_place(path, overwrite, inputs)
                    aside.mkdir()
                    _try_room(aside / "room")
                yield aside
                with _told(path):
                    _finish(aside)
                try:
                    with _told(path):
                        _check_place(path, overwrite, inputs)
                        _swap(place, aside, backup)
                except InputError as error:
                    raise InputError(f"{error}; what was computed is in {_keep(place, aside)}") from error
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    finally:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def check_checkpoints(output: Path, checkpoints: Path | None) -> None:
    """Raise `InputError` if states of a run would lie in its output, or where a file is."""
    if checkpoints is None:
        return
    place, states = output.resolve(), checkpoints.resolve()
    if place in (states, *states.parents):
        raise InputError(f"checkpoints {checkpoints} lie in the output folder; name a folder beside it")
    if states.exists() and not states.is_dir():
        raise InputError(f"checkpoints {checkpoints} is a file; name a folder")


def _check_place(path: str | Path, overwrite: bool, inputs: Sequence[str | Path]) -> Path:
    """Where the folder really is, after a look at what is there."""
    with _told(path):
        place, here, home = (Path(name).resolve() for name in (path, ".", os.path.expanduser("~")))
        if place == here or place in here.parents:
            raise InputError(f"output {str(path)!r} is or holds the folder you work in; name a new folder")
        if place == home or place in home.parents:
            raise InputError(f"output {path} is or holds your home folder; name a new folder")
        if not place.exists():
            return place
        if not place.is_dir():
            raise InputError(f"output {path} is a file; name a folder")
        if os.path.ismount(place):
            raise InputError(f"output {path} is a mount point, which cannot be replaced; name a folder in it")
        for source in inputs:
            if any(place in (found, *found.parents) for found in _places(source)):
                raise InputError(f"output {path} holds the input {source}; name another folder")
        if not any(place.iterdir()):
            return place
        if not overwrite:
            raise InputError(f"output folder {path} is not empty; name another with --output, or pass --overwrite")
        foreign = foreign_files(place)
        if foreign is None:
            raise InputError(
                f"output folder {path} was not written by equipoise, so --overwrite leaves it; name another"
            )
        if foreign:
            raise InputError(
                f"output folder {path} holds {foreign[0]!r}, which equipoise did not write, so --overwrite leaves it; "
                "move it, or name another folder"
            )
        return place


def _places(source: str | Path) -> list[Path]:
    names = glob.glob(str(source), recursive=True) if glob.has_magic(str(source)) else []
    return [Path(name).resolve() for name in [str(source), *names]]


def _clear_up(place: Path, aside: Path, backup: Path) -> None:
    """What a killed run has left: nobody else is at work here, for the lock is ours."""
    if backup.exists() and not place.exists():
        backup.rename(place)
    for left in (aside, backup):
        if left.exists():
            shutil.rmtree(left)


def _try_room(file: Path) -> None:
    with file.open("wb") as stream:
        for _ in range(_ROOM >> 20):
            stream.write(bytes(1 << 20))
    file.unlink()


def _finish(folder: Path) -> None:
    """The list of files, and for all of them the rights that new files get: some writers make theirs private."""
    write_manifest(folder)
    probe = folder / "rights"
    probe.touch()
    rights = probe.stat().st_mode & 0o777
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_mode & 0o777 != rights:
            file.chmod(rights)


def _swap(place: Path, aside: Path, backup: Path) -> None:
    try:
        if place.exists():
            place.rename(backup)
        aside.rename(place)
    except BaseException:
        if backup.exists() and not place.exists():
            backup.rename(place)
        raise
    shutil.rmtree(backup, ignore_errors=True)


def _keep(place: Path, aside: Path) -> Path:
    """Where the finished folder stays when it cannot take its place."""
    free = next(name for k in count(2) if not (name := place.with_name(f"{place.name}-{k}")).exists())
    return aside.rename(free)


@contextmanager
def _only_one(path: str | Path, lock: Path) -> Iterator[None]:
    """Hold a lock that the system takes back when the process ends, however it ends."""
    with _told(path):
        stream = lock.open("a")
    with stream:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A run that has just ended may have removed the file that we hold.
            held = os.path.samestat(lock.stat(), os.fstat(stream.fileno()))
        except (BlockingIOError, PermissionError, FileNotFoundError):
            held = False
        except OSError:
            held = True  # a file system without locks
        if not held:
            raise InputError(f"output {path} is being written by another run; wait for it, or name another folder")
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()


@contextmanager
def _told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        why = f"{error.strerror} ({error.filename})" if isinstance(error, OSError) and error.filename else str(error)
        raise InputError(f"output {path} cannot be written: {why}") from error
