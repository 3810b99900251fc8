"""Processes that share what the test session has imported, and nothing they change."""

import multiprocessing
import os
import sys
import time
import traceback
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401 an optimizer imports it: here, not in each process
from tiny_task import environment

FORK = multiprocessing.get_context("fork")


def forked(folder: Path, *functions) -> None:
    """Call the functions at the same time, each in a process of its own.

    Args:
        folder: For what they print.
        functions: Called without arguments.
    """
    logs = [folder / f"forked{index}.log" for index in range(len(functions))]
    processes = [
        FORK.Process(target=_call, args=(function, log), daemon=True)
        for function, log in zip(functions, logs)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 300
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    failed = [
        log.read_text()[-3000:]
        for process, log in zip(processes, logs)
        if process.exitcode != 0
    ]
    for process in processes:
        process.kill()
    assert not failed, "\n".join(failed)


def _call(function, log: Path) -> None:
    os.environ.update(environment())
    torch.set_num_threads(1)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        try:
            function()
        except BaseException:
            traceback.print_exc()
            raise
