"""A trained detector of rare mistakes: from segments of new recordings to probabilities, in memory and on disk.

It keeps what training standardised the embeddings with. Frozen encoders are not written: they are large and have a home
of their own. Their hashes are, so that a detector is not loaded with others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.solvers.perturbation import evaluation_mode
from equipoise.core.types import BinaryTarget, Count, Real
from equipoise.core.validate import check_finite
from equipoise.longtail.mistakes.branch_collaboration import (
    CollaborationGate,
    ContextBranch,
    DetailBranch,
    TwoBranchCollaboration,
)
from equipoise.longtail.mistakes.dual_stage import DualStageMoE
from equipoise.longtail.mistakes.video_features import model_hash

Method: TypeAlias = Literal["experts", "collaboration"]
VIEWS = ("coarse", "fine", "large")
_BATCH = 512
_SETTINGS, _WEIGHTS = "detector.json", "detector.safetensors"


@checked
@dataclass(frozen=True)
class Segments:
    """Marked segments of recordings, as raw input of encoders or as embeddings.

    Attributes:
        coarse: (n, ...), the whole recording of each segment.
        fine: (n, ...), the segment.
        target: (n,), 1 for a mistake; absent where it is not known yet.
        large: (n, ...), the segment as the large encoder sees it; `fine` if absent.
        recording: (n,), for a split that keeps recordings together.
        kind: (n,), any labels by which mistakes are reported apart.
    """

    coarse: Tensor
    fine: Tensor
    target: BinaryTarget | None = None
    large: Tensor | None = None
    recording: Integer[Tensor, " n"] | None = None
    kind: Integer[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and len(value) != len(self):
                raise ValueError(f"{name} has {len(value)} rows for {len(self)} segments")

    def __len__(self) -> int:
        return len(self.fine)

    def view(self, name: str) -> Tensor:
        """A view by its name; the large one is the segment where there is no other."""
        found: Tensor | None = getattr(self, name)
        return self.fine if found is None else found


@torch.no_grad()
def embed(encoder: nn.Module, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """Ask a frozen encoder, in evaluation mode and in batches.

    Raises:
        ValueError: if embeddings are not of shape (n, D), or hold NaN.

    >>> embed(torch.nn.Flatten(), torch.ones(3, 2, 2)).shape
    torch.Size([3, 4])
    """
    with evaluation_mode(encoder):
        found = torch.cat([encoder(part) for part in inputs.split(batch_size)])
    if found.ndim != 2:
        raise ValueError(f"an encoder must give (n, D), got {tuple(found.shape)}; for raw video pass an encoder")
    check_finite("embedding", found)
    return found


@dataclass(frozen=True)
class Embedding:
    """How a view becomes a standardised embedding.

    Attributes:
        encoder: frozen; None where the view is an embedding already.
        mean: (D,) over the training set.
        scale: (D,) standard deviation there.
    """

    encoder: nn.Module | None
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    @classmethod
    def fit(cls, encoder: nn.Module | None, inputs: Tensor) -> Embedding:
        """From the training set."""
        found = embed(encoder or nn.Identity(), inputs)
        return cls(encoder, found.mean(0), found.std(0).clamp(min=1e-6))

    def __call__(self, inputs: Tensor) -> Float[Tensor, "n d"]:
        """The standardised embeddings, (n, D)."""
        return (embed(self.encoder or nn.Identity(), inputs) - self.mean) / self.scale


def build_model(
    method: Method, widths: Mapping[str, int], dim: int, hidden: int, fine_encoder: nn.Module | None = None
) -> DualStageMoE | TwoBranchCollaboration:
    """The untrained model of a method.

    Args:
        method: "experts" or "collaboration".
        widths: of the embeddings by view.
        dim: width of the mixed features ("experts").
        hidden: width of heads and branches.
        fine_encoder: of segments, trained with the rest ("experts").
    """
    if method == "experts":
        fine = nn.Identity() if fine_encoder is None else fine_encoder
        return DualStageMoE(
            nn.Identity(), fine, dim, coarse_dim=widths["coarse"], fine_dim=widths["fine"], hidden=hidden
        )
    small = ContextBranch(nn.Identity(), widths["fine"], hidden=hidden)
    large = DetailBranch(widths["large"], hidden=hidden)
    return TwoBranchCollaboration(small, large, CollaborationGate(TwoBranchCollaboration.gate_width(small, large)))


@checked
@dataclass(frozen=True)
class MistakeDetector:
    """What `detect_mistakes` has trained.

    Attributes:
        method: "experts" or "collaboration".
        model: the trained model, on standardised embeddings; with "experts" it holds a fine encoder that was trained.
        embeddings: how each view is embedded, by name; a view that the model encodes itself is not among them.
        widths: of the embeddings, by view.
        dim: as in `detect_mistakes`.
        hidden: as there.
        threshold: probability from which a segment is reported, chosen on validation data.
    """

    method: Method
    model: nn.Module
    embeddings: Mapping[str, Embedding]
    widths: Mapping[str, int]
    dim: Count
    hidden: Count
    threshold: Real = 0.5

    def probabilities(self, segments: Segments) -> Float[Tensor, " n"]:
        """(n,) probabilities of a mistake."""
        return self.judge(segments)[0]

    def predict(self, segments: Segments) -> Bool[Tensor, " n"]:
        """(n,) whether each segment is reported."""
        return self.probabilities(segments) >= self.threshold

    @torch.no_grad()
    def judge(self, segments: Segments) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"] | None]:
        """(n,) probabilities and, with "collaboration", (n,) weights of the small branch."""
        views = [
            self.embeddings[name](segments.view(name)) if name in self.embeddings else segments.view(name)
            for name in VIEWS[: 3 if self.method == "collaboration" else 2]
        ]
        with evaluation_mode(self.model):
            outs = [self.model(*parts) for parts in zip(*(view.split(_BATCH) for view in views), strict=True)]
        trust = torch.cat([out["weight"] for out in outs]) if "weight" in outs[0] else None
        return torch.cat([out["prob"][:, 1] for out in outs]).clamp(0, 1), trust

    def save(self, folder: str | Path) -> None:
        """Write `detector.json` and `detector.safetensors`, without frozen encoders."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "method": self.method,
            "widths": dict(self.widths),
            "dim": self.dim,
            "hidden": self.hidden,
            "threshold": self.threshold,
            "encoders": {name: _hash(each.encoder) for name, each in self.embeddings.items()},
        }
        tensors = {f"model.{name}": value.contiguous() for name, value in self.model.state_dict().items()}
        for name, each in self.embeddings.items():
            tensors |= {f"{name}.mean": each.mean, f"{name}.scale": each.scale}
        save_file({name: value.detach().cpu().clone() for name, value in tensors.items()}, folder / _WEIGHTS)
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        coarse_encoder: nn.Module | None = None,
        fine_encoder: nn.Module | None = None,
        large_encoder: nn.Module | None = None,
    ) -> MistakeDetector:
        """Read what `save` wrote, with the encoders that it was trained with.

        A fine encoder that was trained takes its trained weights from the folder.

        Raises:
            FileNotFoundError: if the folder holds no detector.
            ValueError: if an encoder is missing or is not the one that the detector was trained with, or a file is
                damaged.
        """
        folder = Path(folder)
        for name in (_SETTINGS, _WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} holds no {name}; name the folder that `save` wrote")
        try:
            settings: dict[str, Any] = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
            tensors = load_file(folder / _WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"{folder} is damaged, save the detector again: {str(error).splitlines()[0]}") from error
        given = {"coarse": coarse_encoder, "fine": fine_encoder, "large": large_encoder}
        embeddings = {}
        for name, wanted in settings["encoders"].items():
            if _hash(given[name]) != wanted:
                raise ValueError(
                    f"{name}_encoder is missing or is not the one that the detector was trained with; give the same "
                    "model and weights"
                )
            embeddings[name] = Embedding(given[name], tensors[f"{name}.mean"], tensors[f"{name}.scale"])
        live = None if "fine" in embeddings else fine_encoder
        if "fine" not in embeddings and live is None:
            raise ValueError("fine_encoder is missing; its trained weights are in the folder, its architecture is not")
        method, widths, dim, hidden = (settings[name] for name in ("method", "widths", "dim", "hidden"))
        model = build_model(method, widths, dim, hidden, live)
        prefix = "model."
        model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        return cls(method, model.eval(), embeddings, widths, dim, hidden, settings["threshold"])


def _hash(encoder: nn.Module | None) -> str | None:
    return None if encoder is None else model_hash(encoder)
