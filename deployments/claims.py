"""Take runs for a worker: Prefect gives each to one alone, and may give it without saying so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import Abort, ObjectNotFound
from prefect.states import Pending
from prefect.utilities.engine import propose_state

from deployments.left_runs import taken_here
from flows.prefect_api import UNANSWERED

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

CLAIM_SECONDS = 30.0  # for Prefect to give us a run


class Claims:
    """The runs that a worker has asked for.

    Where no answer came, a run may be ours all the same, or be so in a moment. Its GPUs are kept for it
    until that is known: they were given to the next one otherwise, and this one had to wait for its end.
    """

    def __init__(
        self, client: PrefectClient, begin: Callable[..., None], left: Callable[[str], None]
    ) -> None:
        """Take runs.

        Args:
            client: Prefect's.
            begin: is called with a run that is ours, its flow, and its GPUs.
            left: is called with the id of one that is not.
        """
        self._client, self._begin, self._left = client, begin, left
        self.unsure: dict[UUID, tuple[FlowRun, Flow[..., Any], tuple[str, ...]]] = {}
        """Those that were asked for without an answer."""

    async def take(self, run: FlowRun, flow: Flow[..., Any], gpus: tuple[str, ...]) -> bool:
        """Begin a run if it is given to us; return whether it is."""
        self.unsure[run.id] = run, flow, gpus
        given = await self._is_given(run.id)
        if given is None:
            return False
        del self.unsure[run.id]
        if given:
            self._begin(run, flow, gpus)
        else:
            self._left(str(run.id))
        return given

    async def settle(self) -> list[FlowRun]:
        """Ask again for those of which it is not known; return those that were begun."""
        return [
            run
            for run, flow, gpus in list(self.unsure.values())
            if await self.take(run, flow, gpus)
        ]

    async def _is_given(self, id: UUID) -> bool | None:
        """Ask for a run; return whether Prefect has given it to us, None where that is not known."""
        try:
            with suppress(Abort, TimeoutError):
                async with asyncio.timeout(CLAIM_SECONDS):
                    # By its rules Prefect gives a run to one alone, and keeps the limits of deployments.
                    asked: State[Any] = Pending(message=taken_here())
                    state = await propose_state(self._client, asked, flow_run_id=id)
                    return state.is_pending()
            # It is refused to those who have it, too.
            now = (await self._client.read_flow_run(id)).state
            return now is not None and now.is_pending() and now.message == taken_here()
        except ObjectNotFound:
            return False
        except UNANSWERED:
            return None
