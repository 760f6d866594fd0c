"""A function run in two gloo processes at once, and what it gives in each."""

import gc
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

needs_two_processes = pytest.mark.skipif(
    not distributed.is_gloo_available() or sys.platform == "win32", reason="gloo over a file is not there"
)


def in_two_processes(work, *given, seconds=240, own_group=False):
    """What `work(rank, *given)` returns in each of two processes, the first one's first.

    Args:
        work: a function of a module. It may return tensors, numbers, texts, and tuples, lists and dicts of them.
        given: further arguments, which are pickled.
        seconds: most time for both.
        own_group: whether the work makes the group of processes itself, as trainers do, from the variables of the
            environment that `torchrun` sets.

    Raises:
        AssertionError: if they do not end in time.
        ProcessRaisedException: with the traceback, if one of them raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port() if own_group else None
        running = mp.spawn(_process, (Path(folder), port, work, given), nprocs=2, join=False)
        end = time.monotonic() + seconds
        try:
            while not running.join(max(0.1, end - time.monotonic())):
                assert time.monotonic() < end, f"the processes did not end in {seconds} seconds"
        finally:
            for process in running.processes:
                if process.is_alive():
                    process.kill()
                process.join()
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(2)]


def _process(rank, folder, port, work, given):
    torch.set_num_threads(1)
    if port is None:
        distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    else:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.save(work(rank, *given), folder / f"{rank}.pt")
    # A process that takes its group down with a wrapped model alive, or before the other is done, may wait for ever.
    gc.collect()
    distributed.barrier()
    distributed.destroy_process_group()


def _free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]
