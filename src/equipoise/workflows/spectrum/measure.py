"""Measure how well conditioned a model is, beside plain and gated blocks of as many parameters."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.core.validate import check_choice, check_fraction
from equipoise.language import (
    NTK,
    Spectrum,
    expected_gd_loss,
    loss_crossing_step,
    matched_glu_width,
    ntk_contributions,
    ntk_spectrum,
    two_layer_ntk,
)
from equipoise.language.gated.activations import ACTIVATIONS
from equipoise.report.spectrum_page import LayerRow, SpectrumReport, SpectrumRow, spectrum_page
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary
from equipoise.workflows.spectrum.inputs import Subject, read_subject
from equipoise.workflows.spectrum.request import SpectrumRequest

_log = logging.getLogger(__name__)
_MOST_ROWS = 4000
_CURVE_STEPS = 160
_LAST_STEP = 1_000_000
_NAMES = ("lambda_min", "lambda_max", "condition_number", "effective_rank", "top_share", "resolution")


@dataclass(frozen=True, kw_only=True)
class SpectrumOutcome:
    """What `measure_spectrum` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        spectra: kernel → its spectrum: of the model, and of the expected plain and gated blocks.
        crossing: step at which the gated block is predicted to overtake; None if it is not.
    """

    folder: Path
    report: SpectrumReport
    spectra: Mapping[str, Spectrum]
    crossing: int | None


def measure_spectrum(
    model: str,
    data: str | Path,
    request: SpectrumRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> SpectrumOutcome:
    """Write the spectrum of a model's tangent kernel, its layers' shares, and what plain and gated blocks would do.

    Args:
        model: widths of a net, "inputs-hidden-outputs", of which a plain and a gated one of as many weights are made;
            or a transformers model, by folder or by a name in the local cache.
        data: for a net CSV, Parquet, .npy or .npz with a row per sample; for a language model a text per line.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    _check(request)
    inputs = [data, *([model] if Path(model).exists() else [])]
    with staged_folder(request.output, overwrite=request.overwrite, inputs=inputs) as stage:
        progress("reading")
        subject = read_subject(model, Path(data), request)
        notes = list(subject.notes)
        measured, layers = _measured(subject, request, progress)
        progress("expected kernels")
        blocks = _blocks(subject, request)
        spectra = measured | {name: ntk_spectrum(kernels.ntk) for name, kernels in blocks.items()}
        n, dim = subject.features.shape
        if n <= dim + 1:
            notes.append(
                f"{n} samples are not more than the {dim} inputs plus one: the theory of condition numbers says "
                "nothing here; take more samples."
            )
        for name, found in spectra.items():
            if not found.resolved:
                notes.append(f"The least eigenvalue of the kernel of {name} is rounding; its condition is unbounded.")
        eta = 2 * request.step / max(spectra[name].lambda_max for name in blocks)
        crossing, steps, curves = _curves(blocks, subject.target, eta)
        for words in notes:
            notice(words)
        report = SpectrumReport(
            title=f"Conditioning of {subject.name}",
            facts=subject.facts,
            rows=[_row(name, found) for name, found in spectra.items()],
            spectra={name: found.eigenvalues.tolist() for name, found in spectra.items()},
            compared=tuple(blocks),
            layers=layers,
            steps=steps,
            curves=curves,
            crossing=crossing,
            eta=eta,
            notes=notes,
            provenance=provenance(command, request.seed, time.perf_counter() - started),
        )
        _write_spectra(stage / "spectrum.csv", spectra)
        _write_layers(stage / "layers.csv", layers)
        (stage / "report.html").write_text(spectrum_page(report), encoding="utf-8")
        write_summary(stage, _summary(request, spectra, crossing, eta, layers))
    return SpectrumOutcome(folder=request.output, report=report, spectra=spectra, crossing=crossing)


def _check(request: SpectrumRequest) -> None:
    with mendable():
        check_choice("activation", request.activation, ACTIVATIONS)
        check_choice("pool", request.pool, ("mean", "last"))
        check_fraction("step", request.step, one=False)
        if not 2 <= request.rows <= _MOST_ROWS:
            raise InputError(f"rows={request.rows} must be at least 2 and at most {_MOST_ROWS}")
        for name in ("max_length", "outputs", "memory", "hidden"):
            value = getattr(request, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value} must be at least 1")
        if request.seed < 0:
            raise InputError(f"seed={request.seed} must be at least 0")
        if request.params is not None and not request.params:
            raise InputError("name at least one pattern of parameters, or leave --params out for all of them")


def _measured(
    subject: Subject, request: SpectrumRequest, progress: Callable[[str], None]
) -> tuple[dict[str, Spectrum], list[LayerRow]]:
    """Spectra of the models at hand, and the layers of each."""
    spectra, layers = {}, []
    for name, model in subject.models.items():
        progress(f"tangent kernel of the {name}")
        with mendable():
            parts = ntk_contributions(model.eval(), subject.inputs, request.params, memory_limit=request.memory << 20)
        total = torch.stack(list(parts.values())).sum(0) if len(parts) > 1 else next(iter(parts.values()))
        label = name if name == "model" else f"{name} net"
        spectra[label] = ntk_spectrum(total)
        trace = float(total.trace())
        modules = dict(model.named_modules())
        for layer, part in parts.items():
            found = torch.linalg.eigvalsh(part)
            count = sum(each.numel() for each in modules[layer].parameters(recurse=False))
            share = float(part.trace()) / trace if trace else math.nan
            layers.append(LayerRow(label, layer or "the model itself", count, share, float(found[-1])))
    return spectra, layers


def _blocks(subject: Subject, request: SpectrumRequest) -> dict[str, NTK]:
    """Expected kernels of a plain block, and of a gated one of as many weights."""
    with mendable():
        width = matched_glu_width(subject.features.shape[1], subject.hidden, subject.out)
        return {
            "plain, expected": two_layer_ntk(subject.features, subject.hidden, request.activation),
            "gated, expected": two_layer_ntk(subject.features, width, request.activation, gated=True),
        }


def _curves(blocks: Mapping[str, NTK], y: Tensor, eta: float) -> tuple[int | None, list[int], dict[str, list[float]]]:
    plain, gated = blocks.values()
    crossing = loss_crossing_step(plain, gated, y, eta, init_cov="zero", max_steps=_LAST_STEP)
    last = min(_LAST_STEP, max(1000, 20 * (crossing or 0)))
    grid = torch.logspace(0, math.log10(last), _CURVE_STEPS, dtype=torch.float64).round().long()
    steps = torch.cat([grid.new_zeros(1), grid]).unique().tolist()
    curves = {
        name: expected_gd_loss(kernels, y, eta, steps, init_cov="zero").tolist() for name, kernels in blocks.items()
    }
    return crossing, steps, curves


def _row(name: str, found: Spectrum) -> SpectrumRow:
    inner = found.without_mean
    assert inner is not None
    return SpectrumRow(
        name,
        found.lambda_min,
        found.lambda_max,
        found.condition_number,
        inner.condition_number,
        found.effective_rank,
        len(found.eigenvalues),
        found.top_share,
    )


def _write_spectra(path: Path, spectra: Mapping[str, Spectrum]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["kernel", "number", "eigenvalue", "without_mean"])
        for name, found in spectra.items():
            assert found.without_mean is not None
            inner = [f"{value:.9g}" for value in found.without_mean.eigenvalues.tolist()] + [""]
            for number, (value, without) in enumerate(zip(found.eigenvalues.tolist(), inner, strict=True), 1):
                writer.writerow([name, number, f"{value:.9g}", without])


def _write_layers(path: Path, layers: Sequence[LayerRow]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["net", "layer", "parameters", "share_of_trace", "lambda_max"])
        for each in layers:
            writer.writerow([each.net, each.name, each.parameters, f"{each.share:.6g}", f"{each.lambda_max:.6g}"])


def _summary(
    request: SpectrumRequest,
    spectra: Mapping[str, Spectrum],
    crossing: int | None,
    eta: float,
    layers: Sequence[LayerRow],
) -> dict[str, Any]:
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    return {
        "request": asked,
        "kernels": {
            name: {
                **{each: getattr(found, each) for each in _NAMES},
                "resolved": found.resolved,
                "without_mean": {each: getattr(found.without_mean, each) for each in _NAMES},
            }
            for name, found in spectra.items()
        },
        "eta": eta,
        "crossing_step": crossing,
        "layers": [asdict(layer) for layer in layers],
    }
