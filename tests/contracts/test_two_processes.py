"""Two gloo processes give what one process gives on the union, also where one of them has no data."""

import importlib
import warnings

import torch
from torch import distributed

from contracts.model import Loss, Measure
from contracts.registry import entered
from two_processes import in_two_processes, needs_two_processes

GATHERING = [entry for entry in entered(Loss) if entry.gather]


def _work(rank):
    warnings.simplefilter("ignore")
    wrong = []
    for entry in entered(Measure):
        if "two_processes" in entry.exempt:
            continue
        for share in ((2, 1), (3, 0)):
            batches = [entry.batch(24, seed) for seed in range(3)]
            mine = batches[: share[0]] if rank == 0 else batches[share[0] :]
            metric = entry.build()
            for batch in mine:
                metric.update(**batch)
            try:
                found = metric.compute()
                alone = entry.build(sync_on_compute=False)
                for batch in batches:
                    alone.update(**batch)
                alone._to_sync = False
                torch.testing.assert_close(found, alone.compute(), equal_nan=True)
            except Exception as error:
                wrong.append(f"{entry} with batches {share} on rank {rank}: {type(error).__name__}: {error}"[:600])
            distributed.barrier()
    # A function judges what it is given, whatever the other processes are doing.
    for entry in entered(Measure):
        if entry.functional is None:
            continue
        module, _, name = entry.functional.rpartition(".")
        function = getattr(importlib.import_module(module), name)
        alone = entry.build(sync_on_compute=False)
        alone.update(**entry.batch(24, seed=rank))
        try:
            torch.testing.assert_close(
                function(**entry.batch(24, seed=rank), **entry.settings), alone.compute(), equal_nan=True
            )
        except AssertionError as error:
            wrong.append(f"{entry.functional} on rank {rank}: {error}"[:600])
        distributed.barrier()
    for entry in GATHERING:
        batch = entry.batch(24)
        cut = slice(0, 9) if rank == 0 else slice(9, None)
        name = next(n for n, v in batch.items() if v.is_floating_point())
        mine = {key: value[cut].clone() for key, value in batch.items()}
        mine[name].requires_grad_()
        loss = entry.build(gather=True)(**mine)
        loss.backward()
        whole = {**batch, name: batch[name].clone().requires_grad_()}
        alone = entry.build()(**whole)
        alone.backward()
        try:
            torch.testing.assert_close(loss, alone)
            torch.testing.assert_close(mine[name].grad / 2, whole[name].grad[cut])
        except AssertionError as error:
            wrong.append(f"{entry} on rank {rank}: {error}"[:600])
    return wrong


@needs_two_processes
def test_two_processes_are_as_one():
    first, second = in_two_processes(_work)
    wrong = first + second
    assert not wrong, "\n".join(wrong)
