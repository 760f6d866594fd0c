"""Two gloo processes give what one process gives on the union, also where one of them has no data."""

import importlib
import os
import socket
import warnings

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from contracts.model import Loss, Measure
from contracts.registry import entered

GATHERING = [entry for entry in entered(Loss) if entry.gather]


def _work(rank, port, queue):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.init_process_group("gloo", rank=rank, world_size=2)
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
    queue.put(wrong)
    distributed.destroy_process_group()


def _free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="gloo is not there")
def test_two_processes_are_as_one():
    context = mp.get_context("spawn")
    queue, port = context.SimpleQueue(), _free_port()
    workers = [context.Process(target=_work, args=(rank, port, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
    assert all(worker.exitcode == 0 for worker in workers), "a process did not end in time, or crashed"
    wrong = queue.get() + queue.get()
    assert not wrong, "\n".join(wrong)
