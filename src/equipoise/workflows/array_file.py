"""Files of several arrays, as numpy writes them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from equipoise.workflows.errors import InputError


@contextmanager
def opened_arrays(path: Path) -> Iterator[NpzFile]:
    """The arrays of an .npz file by name; what is read inside the block is told in a sentence as well.

    Raises:
        InputError: if there is no such file, it is damaged or something else, or an array holds Python objects.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, wanted an .npz file")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} cannot be read as arrays: it is no .npz file, or a part of one")
        with np.load(path, allow_pickle=False) as held:
            yield held
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        said = "an array holds objects; save text as numpy.array(list_of_text)" if "pickle" in str(error) else error
        raise InputError(f"{path} cannot be read as arrays: {str(said).splitlines()[0]}") from error
