"""What a user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from zipfile import BadZipFile


class InputError(ValueError):
    """A request that cannot be carried out as given; its message is one sentence that says how to mend it."""


@contextmanager
def mendable() -> Iterator[None]:
    """Turn what the checks of the lower floors raise into `InputError`.

    It is put around the reading and checking of a request only, so that a fault of ours still shows its traceback.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise InputError(str(error)) from error
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; run `pip install 'equipoise[all]'`") from error
