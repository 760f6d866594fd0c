"""Models as an audit meets them: a service, a folder of pictures, a pipeline on this machine, or the painter.

A service is sent `POST` with the JSON object {"prompt": text, "seed": whole number} and answers with a picture, as an
image file or as the JSON object {"image": that file in base64}. A folder holds pictures that were made before, with
`pictures.csv` that names the file of every prompt and seed.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.models.generators import TextToImage
from equipoise.data.shapes import ATTACKS, Mistakes, RenderedTextToImage
from equipoise.generative import GeneratorError
from equipoise.workflows.audit.request import AuditRequest
from equipoise.workflows.distill.models import loading
from equipoise.workflows.errors import InputError

LIST = "pictures.csv"
LACKING = "the folder has no picture"
"""How the reason begins where a folder lacks a picture."""
_COLUMNS = ("prompt", "seed", "file")
_PAINTER = "shapes"
_MOST_BYTES, _PIECE = 64 << 20, 1 << 16
_USUAL = Mistakes(missing=0.08, recoloured=0.05, extra=0.15)


def open_model(model: str, request: AuditRequest) -> TextToImage:
    """The model that a user names: an address, a folder, a name of a pipeline, or "shapes" with or without an attack.

    Raises:
        InputError: if there is no such model.
    """
    if "://" in model:
        return ServedTextToImage(model, request.timeout, request.retries, request.parallel)
    name, _, attack = model.partition(":")
    if name == _PAINTER and not Path(model).exists():
        if attack and attack not in ATTACKS:
            raise InputError(f"{model!r} is no painter; name shapes, or shapes: with one of {', '.join(ATTACKS)}")
        return RenderedTextToImage(mistakes=_USUAL, attack=attack or None)
    folder = Path(model)
    if (folder / LIST).is_file():
        return PictureFolder(folder)
    if (folder / "model_index.json").is_file():
        from equipoise.integrations.diffusers import DiffusersTextToImage

        try:
            with loading(model, "pipeline") as place:
                return DiffusersTextToImage.from_pretrained(place)
        except ImportError as error:
            raise InputError(str(error)) from error
    raise InputError(
        f"{model!r} is no address, no folder with {LIST} and no folder of a pipeline of diffusers; "
        f"the built-in painter is {_PAINTER}"
    )


class ServedTextToImage:
    """Pictures from a service.

    Args:
        address: http:// or https://.
        timeout: seconds to wait for an answer, and for all of the picture in it.
        retries: how often a picture is asked for again.
        parallel: pictures that are asked for at a time.

    Raises:
        InputError: if the address cannot be used.
    """

    def __init__(self, address: str, timeout: float = 120.0, retries: int = 1, parallel: int = 4) -> None:
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError as error:
            raise InputError(f"the address {address!r} cannot be read: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"the address {address!r} must begin with http:// or https:// and name a host")
        if parts.username is not None:
            raise InputError("the address must hold no user name or password; it is written into the report")
        try:
            # What HTTP can carry: other letters of a path are to be written as %C3%A9.
            f"{parts.path}?{parts.query}".encode("ascii")
            parts.hostname.encode("idna")
        except UnicodeError as error:
            raise InputError(f"the address {address!r} cannot be asked: {error}") from error
        if any(sign.isspace() or not sign.isprintable() for sign in address):
            raise InputError(f"the address {address!r} must hold no spaces; write one as %20")
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.address, self.timeout, self.retries, self.parallel = address, timeout, retries, parallel

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Float[Tensor, "n 3 h w"]:
        """Pictures in [0, 1].

        Raises:
            GeneratorError: if the service gives no picture of a prompt, or pictures of several sizes.
        """
        with ThreadPoolExecutor(max(1, min(self.parallel, len(prompts)))) as workers:
            return _stacked(list(workers.map(self._one, prompts, seeds)))

    def _one(self, prompt: str, seed: int) -> Tensor:
        why = ""
        for _ in range(1 + self.retries):
            try:
                return self._asked(prompt, seed)
            except (OSError, HTTPException, GeneratorError) as error:
                why = f"{type(error).__name__}: {error}" if not isinstance(error, GeneratorError) else str(error)
        raise GeneratorError(f"{self.address} gave no picture of {prompt!r}: {why}")

    def _asked(self, prompt: str, seed: int) -> Tensor:
        kind = HTTPSConnection if self._secure else HTTPConnection
        until = time.monotonic() + self.timeout
        connection = kind(self._host, self._port, timeout=self.timeout)
        try:
            body = json.dumps({"prompt": prompt, "seed": seed})
            connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            line = connection.sock
            answer = connection.getresponse()
            # A timeout of a connection is of each piece, and an answer may come in as many as the service likes.
            pieces, size = [], 0
            while size <= _MOST_BYTES:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"its answer took more than {self.timeout:g} seconds")
                if line is not None:
                    line.settimeout(left)
                piece = answer.read1(_PIECE)
                if not piece:
                    break
                pieces.append(piece)
                size += len(piece)
            held = b"".join(pieces)
            if answer.length and size <= _MOST_BYTES:
                raise IncompleteRead(held, answer.length)
        finally:
            connection.close()
        if answer.status != 200:
            raise GeneratorError(f"it answered {answer.status} {answer.reason}")
        if len(held) > _MOST_BYTES:
            raise GeneratorError(f"its answer has more than {_MOST_BYTES >> 20} MiB")
        if "json" in (answer.getheader("Content-Type") or ""):
            try:
                held = base64.b64decode(json.loads(held)["image"], validate=True)
            except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
                raise GeneratorError("its JSON holds no image in base64") from error
        return read_picture(held)


class PictureFolder:
    """Pictures that were made before.

    Args:
        folder: holds `pictures.csv` with the columns prompt, seed and file, and the files.

    Attributes:
        wanted: (prompt, seed) of every picture that was asked for and is not there.

    Raises:
        InputError: if the list cannot be read, or names a file that is outside of the folder or not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wanted: dict[tuple[str, int], None] = {}
        self._files: dict[tuple[str, int], Path] = {}
        path = folder / LIST
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        for line, row in enumerate(rows, start=2):
            if any(row.get(column) in (None, "") for column in _COLUMNS):
                raise InputError(f"{path}, line {line}: every row needs {', '.join(_COLUMNS)}")
            try:
                seed = int(row["seed"])
            except ValueError:
                raise InputError(f"{path}, line {line}: the seed {row['seed']!r} is no whole number") from None
            name = PurePosixPath(row["file"].replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts:
                raise InputError(f"{path}, line {line}: {row['file']!r} lies outside of the folder")
            if not (folder / name).is_file():
                raise InputError(f"{path}, line {line}: {folder / name} is not there")
            self._files[row["prompt"], seed] = folder / name

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Float[Tensor, "n 3 h w"]:
        """Pictures in [0, 1].

        Raises:
            GeneratorError: if one is not there, cannot be read, or their sizes differ.
        """
        asked = list(zip(prompts, seeds, strict=True))
        missing = [one for one in asked if one not in self._files]
        if missing:
            self.wanted.update(dict.fromkeys(missing))
            raise GeneratorError(f"{LACKING} of {missing[0][0]!r} with seed {missing[0][1]}")
        pictures = []
        for one in asked:
            try:
                pictures.append(read_picture(self._files[one].read_bytes()))
            except OSError as error:
                raise GeneratorError(f"{self._files[one]} cannot be read: {error.strerror or error}") from error
            except GeneratorError as error:
                raise GeneratorError(f"{self._files[one]}: {error}") from error
        return _stacked(pictures)


def read_picture(held: bytes) -> Float[Tensor, "3 h w"]:
    """The picture of an image file, in [0, 1].

    Raises:
        GeneratorError: if it is no image that can be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(held)) as image:
            values = np.asarray(image.convert("RGB"))
    except Exception as error:  # a file that is broken on purpose fails in whatever way its decoder does
        # Pillow names the object in memory, which tells nobody anything.
        why = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise GeneratorError(f"what was given as a picture cannot be read: {why}") from error
    return torch.from_numpy(values.copy()).permute(2, 0, 1).float() / 255


def picture_bytes(image: Float[Tensor, "3 h w"]) -> bytes:
    """The picture as a PNG file."""
    from PIL import Image

    values = (255 * image.detach().float().cpu().clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(values.numpy()).save(stream, "PNG")
    return stream.getvalue()


def _stacked(pictures: Sequence[Tensor]) -> Tensor:
    if len({tuple(picture.shape) for picture in pictures}) > 1:
        raise GeneratorError("its pictures differ in size")
    return torch.stack(list(pictures))
