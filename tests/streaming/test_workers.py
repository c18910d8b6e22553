"""A thread's share of the CPU: a caller that takes less of it leaves the rest to the workers."""

from __future__ import annotations

import torch

from tm_core.streaming.workers import few_threads, free_threads
from tm_core.talk import share_cpu

CPU = torch.device("cpu")


def test_one_thread_until_the_workers_start() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with few_threads():
            assert torch.get_num_threads() == 1 and free_threads() == 4
            assert share_cpu(CPU, CPU) == (2, 2)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
