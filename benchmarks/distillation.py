"""How much memory and time divergences of next-token distributions take.

`python benchmarks/distillation.py [--quick] [--peers FOLDER]`. The folder holds TRL and liger-kernel, which are run
beside; `pip install --no-deps --target FOLDER trl datasets dill xxhash multiprocess liger-kernel` fills it. Each piece
of work runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, table

from equipoise.core.token_divergence.families import AlphaBeta, JensenShannon
from equipoise.core.token_divergence.fused import LinearHead
from equipoise.language import fused_divergence_loss, token_divergence_loss

_VOCABULARY, _WIDTH, _TEACHER_WIDTH = 151_936, 512, 1_024
_MIB = 2**20


def _logits(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(3 * torch.randn(rows, _VOCABULARY, generator=generator).bfloat16() for _ in range(2))  # type: ignore[return-value]


def _hidden(rows: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((rows, _WIDTH), (_VOCABULARY, _WIDTH), (rows, _TEACHER_WIDTH), (_VOCABULARY, _TEACHER_WIDTH))
    hidden, head, wide, wide_head = (torch.randn(*size, generator=generator).bfloat16() for size in sizes)
    return [hidden, 0.1 * head, wide, 0.1 * wide_head]


def _plain_ab(student: Tensor, teacher: Tensor) -> Tensor:
    alpha, beta = 0.2, 0.7
    log_q, log_p = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
    s = alpha + beta
    terms = (alpha * log_p + beta * log_q).exp() - alpha / s * (s * log_p).exp() - beta / s * (s * log_q).exp()
    return -(terms.sum(-1) / (alpha * beta)).mean()


def _unfused_jsd(hidden: Tensor, head: Tensor, wide: Tensor, wide_head: Tensor) -> Tensor:
    log_q, log_p = (hidden @ head.T).float().log_softmax(-1), (wide @ wide_head.T).float().log_softmax(-1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
    return ((log_p.exp() * (log_p - log_m)).sum(-1) + (log_q.exp() * (log_q - log_m)).sum(-1)).mean() / 2


def _trl_jsd(hidden: Tensor, head: Tensor, wide: Tensor, wide_head: Tensor) -> Tensor:
    from trl.experimental.gkd import GKDTrainer

    return GKDTrainer.generalized_jsd_loss(hidden @ head.T, wide @ wide_head.T)


def _liger_jsd(hidden: Tensor, head: Tensor, wide: Tensor, wide_head: Tensor) -> Tensor:
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=False, chunk_size=64)
    return loss(hidden, head, wide, wide_head, torch.zeros(len(hidden), dtype=torch.long))


def _fused_jsd(hidden: Tensor, head: Tensor, wide: Tensor, wide_head: Tensor) -> Tensor:
    return fused_divergence_loss(hidden, LinearHead(head), wide, LinearHead(wide_head), "jsd")


_WORKS: dict[str, tuple[Callable[..., Tensor], Callable[[int], object], int]] = {
    "ab": (lambda student, teacher: token_divergence_loss(student, teacher, AlphaBeta(0.2, 0.7)), _logits, 1),
    "plain ab": (_plain_ab, _logits, 1),
    "fused jsd": (_fused_jsd, _hidden, 2),
    "unfused jsd": (_unfused_jsd, _hidden, 2),
    "trl": (_trl_jsd, _hidden, 2),
    "liger": (_liger_jsd, _hidden, 2),
}


def _peak() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def _work(name: str, rows: int, repeats: int) -> None:
    """Print value, peak memory above the inputs in MiB, and times of a piece of work."""
    loss, inputs, leaves = _WORKS[name]
    torch.set_num_threads(1)
    few: list[Tensor] = list(inputs(2))  # type: ignore[call-overload]
    loss(*(each.requires_grad_(place < leaves) for place, each in enumerate(few))).backward()
    del few
    given: list[Tensor] = list(inputs(rows))  # type: ignore[call-overload]
    for leaf in given[:leaves]:
        leaf.requires_grad_()
    times, value = [], 0.0
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, peak = _peak(), 0.0
    for _ in range(repeats):
        for leaf in given[:leaves]:
            leaf.grad = None
        start = process_time()
        result = loss(*given)
        result.backward()
        times.append(process_time() - start)
        peak, value = peak or _peak() - before, float(result.detach())
    print(json.dumps({"value": value, "peak": peak, "times": times}))


def _run(name: str, rows: int, repeats: int, peers: str | None) -> dict[str, object] | None:
    command = [sys.executable, __file__, "--work", name, "--rows", str(rows), "--repeats", str(repeats)]
    done = subprocess.run([*command, *(["--peers", peers] if peers else [])], capture_output=True, text=True)
    if done.returncode:
        print(done.stderr.splitlines()[-1] if done.stderr else f"{name}: failed", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def rows(quick: bool, peers: str | None = None) -> list[Row]:
    """The table, beside TRL and liger-kernel where a folder of them is named."""
    tokens, rounds = (16, 1) if quick else (512, 3)
    found: dict[str, list[dict]] = {name: [] for name in _WORKS}
    for _ in range(rounds):  # in turns, so that what else the machine does falls on all
        for name in _WORKS:
            if name in ("trl", "liger") and peers is None:
                continue
            one = _run(name, tokens, 1 if quick else 2, peers)
            if one is not None:
                found[name].append(one)

    def time(name: str) -> float:
        return median(min(one["times"]) for one in found[name])

    def peak(name: str) -> float:
        return median(one["peak"] for one in found[name])

    size = f"{tokens} rows, V = {_VOCABULARY:,}, bfloat16"
    copy = tokens * _VOCABULARY * 2 / _MIB
    table_ = [
        Row(
            f"α-β loss and gradient, {size}: extra memory at its peak",
            f"the gradient, {copy:.0f} MiB",
            peak("ab") / copy,
            1.2,
            larger_is_better=False,
            note=f"plain autograd {peak('plain ab') / copy:.1f}×",
        ),
        Row(f"α-β loss and gradient, {size}", "plain autograd", time("plain ab") / time("ab"), 1.5),
        Row(
            f"output layers and Jensen–Shannon, {size}, widths {_WIDTH} and {_TEACHER_WIDTH}: extra memory at its peak",
            "unfused",
            peak("fused jsd"),
            400,
            larger_is_better=False,
            unit=" MiB",
            note=f"unfused {peak('unfused jsd'):.0f} MiB; the gradients themselves "
            f"{_VOCABULARY * _WIDTH * 2 / _MIB:.0f} MiB",
        ),
        Row("the same: time", "unfused", time("unfused jsd") / time("fused jsd")),
    ]
    hidden, head, wide, wide_head = (each.double() for each in _hidden(min(tokens, 32)))
    exact = float(token_divergence_loss(hidden @ head.T, wide @ wide_head.T, JensenShannon(0.5)))
    ours = float(_fused_jsd(*_hidden(min(tokens, 32))))
    table_.append(
        Row(
            "the same on 32 rows: relative error",
            "float64",
            abs(ours / exact - 1),
            1e-3,
            larger_is_better=False,
            unit="",
            note=f"bfloat16 unfused {abs(float(_unfused_jsd(*_hidden(min(tokens, 32)))) / exact - 1):.2g}",
        )
    )
    for name, title in (("trl", "TRL"), ("liger", "liger-kernel")):
        work = f"output layers and Jensen–Shannon: memory beside {title}"
        if not found[name]:
            table_.append(Row(work, title, None, note=f"{title} not there"))
            continue
        values = [found[each][0]["value"] for each in (name, "fused jsd")]
        note = f"theirs {peak(name):.0f} MiB, value {values[0]:.6g} beside {values[1]:.6g}"
        table_.append(Row(work, title, peak(name) / peak("fused jsd"), note=note))
        table_.append(Row(f"the same: time beside {title}", title, time(name) / time("fused jsd")))
    return table_


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers")
    parser.add_argument("--work", choices=list(_WORKS))
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    if given.peers:
        sys.path.append(given.peers)
    if given.work:
        _work(given.work, given.rows, given.repeats)
    else:
        print(table(rows(given.quick, given.peers)))
