"""Run an event loop outside the main thread, and leave the process at a signal without unwinding it.

In the main thread Prefect's engine would take SIGTERM for each flow that it executes, and raise it there.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

# Files, sockets and vaults of many runs are read in threads. asyncio's default on two cores is 6, and one
# slow disk or vault would let all other runs wait.
THREADS = 64


async def beside_main_thread(
    serve: Callable[[], Awaitable[None]],
    end: Callable[[], Awaitable[None]],
    patience: float,
) -> None:
    """Serve in a thread with a loop of its own; at SIGTERM or SIGINT end, and leave this process.

    Args:
        serve: does the work; when it fails, the process is left with exit code 1.
        end: brings to its end what must not be broken off, in that thread.
        patience: how many seconds that may take.
    """
    _allow_many_files()
    main = asyncio.get_running_loop()
    over = asyncio.Event()
    inner: list[asyncio.AbstractEventLoop] = []

    async def serving() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="worker"))
        inner.append(loop)
        await serve()

    def work() -> None:
        try:
            asyncio.run(serving())
        except BaseException:  # noqa: BLE001 - the thread's outer edge; the process is of no use then
            traceback.print_exc()
            leave(1)
        main.call_soon_threadsafe(over.set)

    def on_signal() -> None:
        # Whatever the loop of the runs is at, also when it hangs.
        main.call_later(patience, leave, 0)
        if inner:
            asyncio.run_coroutine_threadsafe(_end(end), inner[0])
        else:
            leave(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        main.add_signal_handler(number, on_signal)
    # The settings of the caller, such as the API's address, are variables of its context.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="runs", daemon=True).start()
    await over.wait()


async def _end(end: Callable[[], Awaitable[None]]) -> None:
    try:
        await end()
    finally:
        leave(0)


def leave(code: int) -> None:
    """Leave this process at once: unwinding would end flows, whose trainings are to go on."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _allow_many_files() -> None:
    # A run has its lock, its log, and often a connection; the usual limit of 1,024 is for one program.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
