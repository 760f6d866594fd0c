"""The harness of tests with two processes: what comes back, what fails, and that nothing waits for ever."""

import os
import time

import pytest
import torch
from torch import distributed

from two_processes import in_two_processes, needs_two_processes

pytestmark = needs_two_processes


def _sum(rank, given, text):
    total = given + rank
    distributed.all_reduce(total)
    return {"sum": total, ("rank", rank): [text, distributed.get_world_size()]}


def _by_environment(rank):
    distributed.init_process_group("gloo")
    return int(os.environ["RANK"]), distributed.get_rank(), rank


def _wrong_in_the_second(rank):
    if rank == 1:
        raise ValueError("only here")
    distributed.barrier()


def _for_ever(rank):
    time.sleep(60)


def test_results_come_back_by_rank():
    first, second = in_two_processes(_sum, torch.ones(2), "word")
    assert first["sum"].tolist() == second["sum"].tolist() == [3, 3]
    assert (first["rank", 0], second["rank", 1]) == (["word", 2], ["word", 2])


def test_a_group_may_be_made_by_the_work():
    assert in_two_processes(_by_environment, own_group=True) == [(0, 0, 0), (1, 1, 1)]


def test_an_error_in_one_process_ends_both_and_is_told():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="ValueError: only here"):
        in_two_processes(_wrong_in_the_second)


def test_processes_that_hang_are_stopped():
    with pytest.raises(AssertionError, match="did not end in 8 seconds"):
        in_two_processes(_for_ever, seconds=8)
