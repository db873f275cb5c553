"""Hours in milliseconds: an event loop whose time passes only when there is nothing else to do.

Everything is in one process. What would be a process of ours is a set of tasks that know which one
they belong to; when it is killed, none of them ever runs again, as after SIGKILL: no `finally`, no
`except`. Only the locks that it holds are free.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, MutableSet
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from datetime import datetime, tzinfo
from typing import Any, Generic, TypeVar

import pytest

from flows import locks

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
SHORT = 0.01
"""Seconds that work off the loop takes to be told of."""
LEAST = 1e-6
"""Seconds from one idle moment to the next: shorter ones are lost in a float of the time of day."""
STILL = 10_000
"""Turns of the loop without any time passing, of which something must be wrong."""
PATCHED = ("blocks.", "flows.", "trainer.", "gateway.", "tests.")


class Ours:
    """What stands for a process of ours."""

    count = itertools.count(1)

    def __init__(self) -> None:
        self.number = next(self.count)
        self.is_dead = False
        self.is_over = False
        self.own: dict[int, Any] = {}
        """What modules keep in mind, by the id of the thing that stands for it; see `Apart`."""
        self.descriptors: set[int] = set()
        """Of the locks that it holds."""


WHO: ContextVar[Ours | None] = ContextVar("the process of ours that runs", default=None)


class _Apart(Generic[T]):
    """What a module keeps in mind, once for each process of ours."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._common = make()

    def _mine(self) -> T:
        who = WHO.get()
        if who is None:
            return self._common
        mine: T = who.own.setdefault(id(self), self._make())
        return mine

    def __iter__(self) -> Iterator[Any]:
        return iter(self._mine())  # type: ignore[call-overload]

    def __len__(self) -> int:
        return len(self._mine())  # type: ignore[arg-type]

    def __contains__(self, key: object) -> bool:
        return key in self._mine()  # type: ignore[operator]


class DictApart(_Apart[dict[K, V]], MutableMapping[K, V]):
    """A dictionary of a module."""

    def __init__(self) -> None:
        super().__init__(dict)

    def __getitem__(self, key: K) -> V:
        return self._mine()[key]

    def __setitem__(self, key: K, value: V) -> None:
        self._mine()[key] = value

    def __delitem__(self, key: K) -> None:
        del self._mine()[key]


class SetApart(_Apart[set[K]], MutableSet[K]):
    """A set of a module."""

    def __init__(self) -> None:
        super().__init__(set)

    def add(self, value: K) -> None:
        self._mine().add(value)

    def discard(self, value: K) -> None:
        self._mine().discard(value)


class FastLoop(asyncio.BaseEventLoop):
    """The loop; it may be run from within itself, by what must not wait."""

    def __init__(self) -> None:
        super().__init__()
        self._now = time.time()
        self._then, self._still = 0.0, 0
        self.kept: list[asyncio.Task[Any]] = []
        """Every task there ever was: to collect one of a dead process would run its `finally`."""
        self._ready: deque[asyncio.Handle] = deque()
        self._scheduled: list[asyncio.TimerHandle] = []
        self.set_task_factory(self._made)

    def time(self) -> float:
        return self._now

    def _made(self, loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        self.kept.append(task)
        return task

    def _is_dead(self, context: Context | None) -> bool:
        # An empty context is false, and no process of ours either.
        who = (copy_context() if context is None else context).get(WHO)
        return who is not None and who.is_dead

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._is_dead(context):
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_later(SHORT, callback, *args, context=context)

    def call_at(self, when: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._is_dead(context):
            heapq.heappush(self._scheduled, timer)
            timer._scheduled = True
        return timer

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """It is passed over when its time has come."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Do it here, and tell of it a little later: a process may die in between."""
        del executor
        future = self.create_future()

        def work() -> None:
            try:
                outcome = func(*args)
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                self.call_later(SHORT, _told, future, None, error)
            else:
                self.call_later(SHORT, _told, future, outcome, None)

        self.call_soon(work)
        return future

    def _run_once(self) -> None:
        while not self._ready:
            timer = heapq.heappop(self._scheduled)
            if not timer.cancelled():
                self._now = max(self._now + LEAST, timer.when())
                self._ready.append(timer)
        self._still = self._still + 1 if self._now == self._then else 0
        self._then = self._now
        if self._still > STILL:
            raise RuntimeError(f"time stands still: {list(self._ready)[:3]}")
        for _ in range(len(self._ready)):
            if not self._ready:  # it was run from within itself
                return
            handle = self._ready.popleft()
            if not handle.cancelled() and not self._is_dead(handle._context):  # type: ignore[attr-defined]
                handle._run()

    def pass_time(self, seconds: float) -> None:
        """Let everything happen that happens within so many seconds."""
        self.until(lambda: False, seconds)

    def until(self, done: Callable[[], bool], seconds: float = 1e9) -> bool:
        """Go on until something holds; return whether it does, after so many seconds."""
        end = self._now + seconds
        timer = self.call_at(end, str, context=Context())
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            while not done() and self._now < end:
                self._run_once()
        finally:
            asyncio._set_running_loop(before)
            timer.cancel()
        return done()

    def result(self, work: Any) -> Any:
        """Return what a coroutine gives, as of no process of ours; also from within the loop."""
        task = self.create_task(work, context=Context())
        self.until(task.done)
        return task.result()

    def begin(self, work: Any) -> Ours:
        """Start a process of ours; the task is the whole of it."""
        who, context = Ours(), Context()
        context.run(WHO.set, who)
        task = self.create_task(work, context=context)

        def ended(task: asyncio.Task[Any]) -> None:
            who.is_over = True
            self.kill(who)  # its helpers end with it
            if not task.cancelled() and (error := task.exception()):
                FAILED.append("".join(traceback.format_exception(error)))

        task.add_done_callback(ended, context=Context())
        return who

    def kill(self, who: Ours) -> None:
        """End a process as SIGKILL does."""
        if not who.is_dead:
            who.is_dead = True
            for descriptor in list(who.descriptors):
                os.close(descriptor)


FAILED: list[str] = []
"""What processes of ours ended with that was no answer."""


def _told(future: asyncio.Future[Any], outcome: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(outcome)
    else:
        future.set_exception(error)


class _Soon:
    """A thread that is none: its work is done at the loop's next turn."""

    def __init__(self, target: Callable[[], None], daemon: bool = False) -> None:
        del daemon
        self._target = target

    def start(self) -> None:
        asyncio.get_running_loop().call_soon(self._target)


def told_by(loop: FastLoop) -> type[datetime]:
    """Return a datetime whose `now` is the loop's."""

    class Told(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Told:
            return cls.fromtimestamp(loop.time(), tz)

    return Told


@contextmanager
def fast(patch: pytest.MonkeyPatch) -> Iterator[FastLoop]:
    """Yield the loop; until the end its time is that of everything here."""
    loop, started = FastLoop(), time.time()

    def sleep(seconds: float) -> None:
        loop.pass_time(seconds)

    for name in ("time", "monotonic"):
        patch.setattr(time, name, loop.time)
    patch.setattr(time, "clock_gettime", lambda clock: loop.time() - started + 1e5)
    patch.setattr(time, "sleep", sleep)
    patch.setattr("blocks.threads.Thread", _Soon)
    told = told_by(loop)
    for name, module in list(sys.modules.items()):
        if name.startswith(PATCHED) and getattr(module, "datetime", None) is datetime:
            patch.setattr(module, "datetime", told)
    _note_locks(patch)
    yield loop


def _note_locks(patch: pytest.MonkeyPatch) -> None:
    """Know which process holds which descriptor, so that it is closed when that is killed."""
    opened, close = locks._opened, os.close

    def noted(path: Any) -> int:
        descriptor = opened(path)
        if who := WHO.get():
            who.descriptors.add(descriptor)
        return descriptor

    def closed(descriptor: int) -> None:
        if who := WHO.get():
            who.descriptors.discard(descriptor)
        with suppress(OSError):
            close(descriptor)

    patch.setattr(locks, "_opened", noted)
    patch.setattr(os, "close", closed)
