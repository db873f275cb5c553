"""What the local clouds share: a server, an account's instances, and trouble on demand.

A cloud is a subclass with routes. It says what its provider says and no more; behind every
instance is a real sshd, which is all that a booted machine is to a caller.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.clouds.faults import Fault as Fault
from tests.clouds.faults import Faults
from tests.clouds.machines import Profile, SshdMachine
from tests.clouds.openapi import Contract
from tests.clouds.rented import Rented as Rented
from tests.clouds.rented import free_port as free_port
from tests.clouds.rented import live, make_sshd
from tests.clouds.serving import Server, Wire


@dataclass
class Logged:
    """A request as it arrived, without its credentials."""

    method: str
    path: str
    query: str
    status: int = 0
    """0: it has not been answered, or never will be."""


class Cloud:
    """A provider with one account, on a port of loopback. As a context manager: it runs."""

    name: ClassVar[str]
    key_variable: ClassVar[str]
    """The variable that holds the key, such as RUNPOD_API_KEY."""
    url_variable: ClassVar[str]
    api_path: ClassVar[str] = ""
    """Where the API begins, such as /v2."""
    openapi: ClassVar[tuple[str, str]] = ("", "")
    """The file name of the OpenAPI document, and what its paths have before `api_path`'s."""
    states: ClassVar[Sequence[tuple[str, float]]] = ()
    """The provider's words while it boots, each with its share of `boot_seconds`; then the word
    for a machine that runs, with 0."""
    runs_first_words: ClassVar[bool] = False
    """Whether what is behind an instance runs the script of its order by itself."""
    lost_word: ClassVar[str] = ""
    """The provider's word for an instance that it took back."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.account: dict[str, Rented] = {}
        """Every instance there ever was, by its id, the oldest first."""
        self.machines: dict[str, SshdMachine] = {}
        self.made: list[SshdMachine] = []
        """Every machine that ever existed."""
        self.requests: list[Logged] = []
        self.errors: list[str] = []
        """What went wrong in the cloud itself; a test may want it to be empty."""
        self.faults = Faults()
        self.contract = Contract(*self.openapi, self.amend)

        self.key = secrets.token_hex(16)
        """The account's key."""
        self.expired = False
        self.no_funds = False
        self.boot_seconds = 0.2
        self.clock_rate = 1.0
        """Seconds billed per second."""
        self.list_lag = 0.0
        """Seconds for which a fresh instance is missing from the list."""
        self.look_lag = 0.0
        """Seconds for which a fresh instance is not found by its id either."""
        self.omits = 0
        """How many of the next lists leave every instance out."""
        self.never_boot = False
        self.sshd_delay = 0.0
        """Seconds between running, as the provider says, and sshd."""
        self.sshd_never = False
        self.crash_loop = False
        """The machine keeps crashing while the provider says that it runs."""
        self.bad_key: float | None = None
        """Seconds from the start of sshd until it accepts the key; `math.inf`: never."""
        self.no_capacity: bool | Collection[str] = False
        """Which offers are sold out when they are ordered; True: all."""
        self.stock: int | None = None
        """How many machines there may be at once; None: any number."""
        self.extra_fields = False
        self.missing_fields: set[str] = set()
        """Fields that are left out wherever they were."""
        self.null_fields: set[str] = set()
        """Fields that are null wherever they were."""
        self.unknown_status: str | None = None
        """A word in place of every status."""
        self.terminate_refuses = 0
        """How often a terminate is refused from now on."""
        self.terminate_ignored = 0
        """How often a terminate is accepted from now on without any effect."""
        self.profile = Profile()
        """What is on its machines, apart from their GPUs."""
        self.doors: list[tuple[int, int]] = []
        """(port that is reported, port of sshd) of the next machines, which are behind a proxy."""

        app = Starlette(routes=self.routes())
        self._wire = Wire(app, self)
        self._server = Server(self._wire, port)
        self._boots: set[asyncio.Task[None]] = set()

    # What a subclass says.

    @staticmethod
    def amend(document: Any) -> None:
        """Change the OpenAPI document to what the service does since it was written."""

    def routes(self) -> list[Route]:
        """Return the API."""
        raise NotImplementedError

    async def live(self, rented: Rented) -> None:
        """Take an instance from its order to its end."""
        await live(self, rented)

    async def gate(self, request: Request) -> Response | None:
        """Return a refusal, such as of a wrong key, or None; called before every route."""

    def named(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[str, str]:
        """Return method and path by which a request is logged and troubled."""
        del headers, body
        return method, path

    def machine_for(self, rented: Rented) -> SshdMachine:
        """Return what is behind an instance, before it is started."""
        return make_sshd(self, rented)

    def finish(self, request: Request, response: Response) -> None:
        """Add what every answer has, such as headers."""

    def environment(self, rented: Rented) -> Mapping[str, str]:
        """Return what the provider puts into the environment of a machine."""
        return {}

    # What a test does.

    @property
    def url(self) -> str:
        """Where the API is, for the provider's `api_url`."""
        return f"http://127.0.0.1:{self._server.port}{self.api_path}"

    def environ(self) -> dict[str, str]:
        """Return the variables that point the product here."""
        return {self.url_variable: self.url, self.key_variable: self.key}

    def start(self) -> None:
        """Listen."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._server.start()

    def stop(self) -> None:
        """Stop listening, and kill all machines."""
        self._server.stop()
        for rented in self.all:
            self._end(rented)
        for machine in self.made:
            machine.kill()

    def __enter__(self) -> Cloud:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def preempt(self, id: str) -> None:
        """Take an instance back, as the provider does: it stays in the account, but is useless."""
        self.account[id].status = self.lost_word
        self._end(self.account[id])

    def kill_machine(self, id: str) -> None:
        """Delete an instance, as somebody else does in the console."""
        self.account[id].gone = True
        self._end(self.account[id])

    def billing(self) -> list[tuple[str, str, float, float]]:
        """Return (id, name, seconds billed, USD) of every instance there ever was."""
        return [(r.id, r.name, s := self._billed(r), r.price_per_hour * s / 3600) for r in self.all]

    def left_over(self) -> list[str]:
        """Return what stands in the account beside machines, such as the names of SSH keys."""
        return []

    def alive(self) -> list[str]:
        """Return the ids of the instances that cost money."""
        return [rented.id for rented in self.all if rented.ended is None]

    @property
    def all(self) -> list[Rented]:
        """Every instance there ever was, the oldest first."""
        return list(self.account.values())

    def calls(self) -> Counter[tuple[str, str]]:
        """Return how often each (method, path) was asked for."""
        return Counter((request.method, request.path) for request in self.requests)

    # What routes are made of.

    def known(self, id: str) -> Rented | None:
        """Return an instance that the account knows."""
        rented = self.account.get(id)
        if rented is None or rented.gone or rented.created > time.time() - self.look_lag:
            return None
        return rented

    def listed(self) -> list[Rented]:
        """Return what the list shows now, the newest first."""
        self.omits -= 1
        if self.omits >= 0:
            return []
        latest = time.time() - self.list_lag
        return [r for r in reversed(self.all) if not r.gone and r.created <= latest]

    def word(self, rented: Rented) -> str:
        """Return the status to report."""
        return self.unknown_status or rented.status

    def sold_out(self, *names: str) -> bool:
        """Return whether there is no capacity for an offer of any of these names."""
        if self.stock is not None and len(self.alive()) >= self.stock:
            return True
        if isinstance(self.no_capacity, bool):
            return self.no_capacity
        return any(name in self.no_capacity for name in names)

    def bearer(self, request: Request) -> str:
        """Return the key in the Authorization header."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""

    def rent(self, rented: Rented) -> Rented:
        """Add an instance to the account and boot it."""
        if self.doors:
            rented.port, rented.sshd_port = self.doors.pop(0)
        self.account[rented.id] = rented
        self.boot(rented)
        return rented

    def boot(self, rented: Rented) -> None:
        """Take an instance through its states; it has the first one at once."""
        rented.status, rented.ended = self.states[0][0], None
        task = asyncio.get_running_loop().create_task(self.live(rented))
        self._boots.add(task)
        task.add_done_callback(self._booted)

    def refuses(self) -> bool:
        """Return whether this terminate is refused, and count it."""
        self.terminate_refuses -= 1
        return self.terminate_refuses >= 0

    def ignores(self) -> bool:
        """Return whether this terminate has no effect, and count it."""
        self.terminate_ignored -= 1
        return self.terminate_ignored >= 0

    async def end(self, rented: Rented, status: str = "", *, gone: bool = False) -> None:
        """Stop the bill and kill the machine; then show that in the account, or forget the machine."""
        rented.ended = rented.ended or time.time()
        await asyncio.to_thread(self._end, rented)
        rented.status = status or rented.status
        rented.gone = rented.gone or gone

    def _end(self, rented: Rented) -> None:
        rented.ended = rented.ended or time.time()
        with rented.lock:
            if machine := self.machines.pop(rented.id, None):
                machine.kill()

    def _billed(self, rented: Rented) -> float:
        return ((rented.ended or time.time()) - rented.created) * self.clock_rate

    def _booted(self, task: asyncio.Task[None]) -> None:
        self._boots.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.errors.append(f"boot: {error!r}")

    async def power_off(self, rented: Rented) -> None:
        """Do what this provider does when a machine shuts itself down."""
        await self.end(rented, self.lost_word)
