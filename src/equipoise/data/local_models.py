"""Where a model of the hub stands on this machine: asked of the hub's cache, never of the network."""

from __future__ import annotations

from pathlib import Path


def local_model(name_or_path: str | Path, *, allow_download: bool = False) -> str:
    """What to give transformers' `from_pretrained`: a folder on this machine, or, if downloads are allowed, the name.

    A name alone would do with `local_files_only`, but where PEFT is installed transformers then still asks the network
    whether the model is an adapter.

    Raises:
        OSError: if it is no folder, is not in the hub's cache, and may not be downloaded.
    """
    if allow_download or Path(name_or_path).exists():
        return str(name_or_path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import HFValidationError

    try:
        return snapshot_download(str(name_or_path), local_files_only=True)
    except (OSError, HFValidationError) as error:
        raise OSError(
            f"{str(name_or_path)!r} is neither a folder nor in the cache of models on this machine; "
            "give the path of a folder, or allow_download=True"
        ) from error
