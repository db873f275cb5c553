"""Finds out who asks, from what a request shows."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.access.callers import INCLUDED, Caller, local_user
from gateway.access.keys import ApiKey, key_of, key_of_id, note_use
from gateway.access.limits import Buckets
from gateway.access.refusals import Forbidden, TooManyRequests, Unauthenticated
from gateway.access.sessions import Seen, Sessions
from gateway.access.settings import AccessSettings
from gateway.access.signing import job_of_token, sha256, signing_key
from gateway.access.tickets import redeem
from gateway.access.users import Passwords, user_from_elsewhere
from gateway.database.tables import api_keys, users

KNOWN_SECONDS = 1.0
"""For how long a key counts after it was looked up: revoked, it opens nothing a second later."""
MOST_KNOWN = 1000
OVER_SECONDS = 5.0
"""For how long a job counts as unfinished after somebody looked."""
TRIES_AT_ONCE, TRY_SECONDS = 10, 6.0
"""How many wrong keys or passwords an address has, and after how long it has another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What a request shows of who asks."""

    address: str
    """The caller's; behind a trusted proxy, the one that it names."""
    is_here: bool = False
    """It came from this computer, to an address of this computer's own."""
    tokens: frozenset[str] = frozenset()
    """Keys and job tokens."""
    ticket: str | None = None
    cookie: str | None = None
    proxy_user: str | None = None
    """Who has signed in at a trusted proxy, as it says."""


class Gate:
    """Lets callers in; one for all requests of a service."""

    def __init__(
        self,
        engine: AsyncEngine,
        key: bytes,
        settings: AccessSettings,
        is_unfinished: Callable[[str], Awaitable[bool]],
    ) -> None:
        self.engine = engine
        self.key = key
        self.settings = settings
        self.sessions = Sessions(engine, key, settings.session_hours * 3600)
        self.passwords = Passwords(engine)
        rate = settings.requests_per_second
        self._requests = Buckets(rate, 2 * rate)
        self._tries = Buckets(1 / TRY_SECONDS, TRIES_AT_ONCE)
        self._is_unfinished = is_unfinished
        self._known: dict[str, tuple[float, ApiKey]] = {}
        self._going_on: dict[str, float] = {}
        self._let_in: dict[str, tuple[float, bool]] = {}
        self._is_closed = False
        self._looked = -KNOWN_SECONDS

    @classmethod
    async def of(
        cls,
        engine: AsyncEngine,
        settings: AccessSettings,
        is_unfinished: Callable[[str], Awaitable[bool]],
    ) -> Gate:
        """Return the gate of a database.

        Args:
            engine: of the database, with all its tables.
            settings: how callers are let in.
            is_unfinished: whether the job of an id is not over yet.
        """
        return cls(engine, await signing_key(engine), settings, is_unfinished)

    async def seen(self, presented: Presented) -> Seen:
        """Return who asks.

        Raises:
            Unauthenticated: nobody that is known.
            Forbidden: a token of a job that is over.
            TooManyRequests: it asks too often, or has shown too many that are wrong.
        """
        found = await self._seen(presented)
        caller = found.caller
        whose = caller.key_id or caller.job_id or caller.session_id
        # Until there are keys, whoever sits at this computer is not held up.
        wait = self._requests.take(whose or caller.name) if whose or presented.proxy_user else 0.0
        if wait:
            raise TooManyRequests.until("This key, session or job asks too often.", wait)
        return found

    async def still_lets_in(self, caller: Caller) -> bool:
        """Whether what a caller came with counts still: for one who was let in a while ago.

        However many there are with one key or session, the database is asked once a second.
        """
        name = caller.key_id or caller.session_id or caller.name
        looked, answer = self._let_in.get(name, (-KNOWN_SECONDS, True))
        at = time.monotonic()
        if at - looked < KNOWN_SECONDS:
            return answer
        if len(self._let_in) >= MOST_KNOWN:
            self._let_in.clear()
        self._let_in[name] = at, answer  # for those who ask meanwhile
        answer = await self._counts_still(caller)
        self._let_in[name] = at, answer
        return answer

    async def _counts_still(self, caller: Caller) -> bool:
        if caller.key_id:
            key = await key_of_id(self.engine, caller.key_id)
            return key is not None and key.state(time.time()) == "valid"
        if caller.session_id:
            return await self.sessions.goes_on(caller.session_id)
        if await self.is_open():
            return True
        query = select(users.c.name).where(users.c.name == caller.name, ~users.c.disabled)
        async with self.engine.connect() as connection:
            return (await connection.execute(query)).first() is not None

    async def is_open(self) -> bool:
        """Whether whoever is at this computer is let in: see `is_unguarded`."""
        # What was closed once stays so: a key that is revoked opens nothing to everybody.
        if not self._is_closed and time.monotonic() - self._looked >= KNOWN_SECONDS:
            self._is_closed = not await is_unguarded(self.engine, self.settings)
            self._looked = time.monotonic()
        return not self._is_closed

    def refuse_hasty(self, address: str) -> None:
        """Refuse an address that has shown too much that is wrong; call it before a password is tried.

        Raises:
            TooManyRequests: it has.
        """
        if wait := self._tries.wait(_place(address)):
            raise TooManyRequests.until(
                "Too many wrong keys or passwords came from your address.", wait
            )

    def note_wrong(self, address: str) -> None:
        """Note that an address has shown something wrong."""
        self._tries.take(_place(address))

    async def _seen(self, presented: Presented) -> Seen:
        if presented.ticket is not None:
            caller = await redeem(self.engine, presented.ticket)
            if caller is None:
                self._refuse(presented, "This ticket does not count, or no more.")
            return Seen(caller, None)
        if len(presented.tokens) > 1:
            raise Unauthenticated("Two different keys were sent.", "Send one.")
        for token in presented.tokens:
            return Seen(await self._of_token(token, presented), None)
        if presented.proxy_user is not None:
            return Seen(await self._of_proxy(presented.proxy_user), None)
        if presented.cookie is not None and (seen := await self.sessions.seen(presented.cookie)):
            return seen
        if presented.is_here and await self.is_open():
            return Seen(local_user(), None)
        raise Unauthenticated("Nobody has signed in, and no key was sent.")

    async def _of_token(self, token: str, presented: Presented) -> Caller:
        if job := job_of_token(self.key, token):
            if not await self._goes_on(job):
                raise Forbidden(f"Job {job} is over, and its token counts no more.")
            return Caller(name=f"job {job}", scopes=INCLUDED["report"], job_id=job)
        key = await self._key(token)
        if key is None:
            self._refuse(presented, "This is no key of this service.")
        if (state := key.state(time.time())) != "valid":
            self._refuse(presented, f"The key {key.id} is {state}.")
        return key.caller()

    async def _key(self, token: str) -> ApiKey | None:
        at = time.monotonic()
        name = sha256(token)
        looked_up, key = self._known.get(name, (0.0, None))
        if key is not None and at - looked_up < KNOWN_SECONDS:
            return key
        key = await key_of(self.engine, token)
        if key is not None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[name] = at, key
            if key.state(time.time()) == "valid":
                await note_use(self.engine, key, time.time())
        return key

    async def _of_proxy(self, name: str) -> Caller:
        user = await user_from_elsewhere(self.engine, name, self.settings.new_user_scopes)
        if user is None:
            raise Forbidden(
                f"{name!r} is no user here.",
                "An administrator adds them: trainctl users add NAME --no-password.",
            )
        return Caller(name=user.name, scopes=user.scopes, project=user.project)

    async def _goes_on(self, job: str) -> bool:
        at = time.monotonic()
        if at - self._going_on.get(job, -OVER_SECONDS) < OVER_SECONDS:
            return True
        goes_on = await self._is_unfinished(job)
        if goes_on:
            if len(self._going_on) >= MOST_KNOWN:
                self._going_on.clear()
            self._going_on[job] = at
        return goes_on

    def _refuse(self, presented: Presented, why: str) -> NoReturn:
        """Refuse what an address has shown.

        Raises:
            Unauthenticated: the first times.
            TooManyRequests: from then on.
        """
        self.refuse_hasty(presented.address)
        self.note_wrong(presented.address)
        raise Unauthenticated(why)


async def is_unguarded(engine: AsyncEngine, settings: AccessSettings) -> bool:
    """Whether nobody can be told from anybody: there is no key, no user, and no other way."""
    if settings.signs_in_elsewhere:
        return False
    async with engine.connect() as connection:
        for table in (api_keys, users):
            if (await connection.execute(select(table.c.name).limit(1))).first() is not None:
                return False
    return True


def _place(address: str) -> str:
    """Return what of an address one person has: of IPv6, its first half."""
    return ":".join(address.split(":")[:4]) if ":" in address else address
