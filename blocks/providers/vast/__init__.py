"""Vast.ai: containers on the machines of many hosts, on demand or by bid, by its REST API."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import Field

from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.absence import absent
from blocks.providers.api import Answer, Api, Unanswered
from blocks.providers.cloud import ALLOW_MORE, CloudProvider, rows_in
from blocks.providers.lost_answer import came_of
from blocks.providers.vast.answers import (
    ABSENT,
    GPUS_VARIABLE,
    SET_KEY,
    VastApi,
    complaint,
    error_of,
    has_exited,
    hired_gb,
    instance_of,
    number,
)
from blocks.providers.vast.container import DESTROY_ITSELF, URL, onstart
from blocks.providers.vast.offers import PAGE_ROWS, bid_for, fitting, query_for, request_in_words
from blocks.uptime import uptime
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    CredentialsError,
    FundsError,
    OrchestratorError,
    ProviderError,
    QuotaError,
)

logger = logging.getLogger(__name__)

IMAGE = "pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime"
PAGES = 4  # that are looked at, for a job that only few offers fit
SEARCH_SECONDS = 30.0  # how old what is for hire may be: ten searches a minute are allowed
EXITED_SECONDS = 600.0  # for a container that has exited to be started again
INSTANCES_SECONDS = 2.0  # how old the list of instances may be


class VastAI(CloudProvider):
    """Hires containers of Vast.ai, billed by the second; their disks until they are destroyed."""

    _block_type_name = "Vast.ai"
    _block_type_slug = "training-orchestrator-vast"

    provider_name: ClassVar[str] = "vast"
    title: ClassVar[str] = "Vast.ai"
    url: ClassVar[str] = URL
    url_variable: ClassVar[str] = "VAST_API_URL"
    set_up_by: ClassVar[str] = "VAST_API_KEY"
    set_key: ClassVar[str] = SET_KEY
    api_class: ClassVar[type[Api]] = VastApi
    boot_minutes: ClassVar[float] = 20.0
    takes_first_script: ClassVar[bool] = True
    shutdown_command: ClassVar[str] = f"{{ {DESTROY_ITSELF}; }} || {CloudProvider.shutdown_command}"
    intervals: ClassVar[Mapping[str, float]] = {
        "search": 6.0,
        "create": 4.5,
        "destroy": 3.0,
        "show": 2.0,
        "list": 1.0,
        "manage": 1.0,
        "ssh": 1.0,
    }
    """Seconds between two calls of one kind."""
    _exited: ClassVar[dict[str, float]] = {}  # when it was first seen, as uptime, by id

    ssh_user: str | None = Field(
        default=None, description="Whom to log in as. Empty: VAST_SSH_USER, or root."
    )
    image: str = Field(default=IMAGE, description="Container image, of a public registry.")
    verified_only: bool = Field(default=True, description="Only hosts that Vast.ai has verified.")
    min_reliability: float = Field(default=0.97, ge=0, le=1, description="As Vast.ai measures it.")
    min_inet_down: float = Field(default=200.0, ge=0, description="Mbit/s from the Internet.")
    min_cuda: float = Field(default=12.8, description="CUDA that the driver must support.")
    bid_factor: float = Field(
        default=1.1, ge=1, description="What to bid, as a multiple of the lowest bid."
    )

    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return what a search finds, on demand or by bid or both; see `Provider.offers`."""
        kinds = [False, True] if resources.spot is None else [resources.spot]
        found: list[Offer] = []
        for spot in kinds:
            found += await self._search(resources, limits, spot=spot)
        if not found:
            raise CapacityError(
                f"Vast.ai has no machine with {request_in_words(resources, limits)} now.",
                ALLOW_MORE,
            )
        return sorted(found, key=lambda offer: (offer.rank_price, offer.id))

    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Look at the offer again, then accept it; see `Provider.launch`."""
        if ssh_public_key is None:
            raise ConfigError("Vast.ai hires out no machine without an SSH key.")
        # An earlier attempt of this very launch may have succeeded without our hearing of it.
        instance = await self.find(mark)
        if instance is None:
            begin = onstart(ssh_public_key, first_script)
            instance = await self._hire(offer, mark, begin)
        # Also for one that was found: its launch may have ended before it came to this.
        await self._attach(instance.id, ssh_public_key)
        return instance

    async def find(self, mark: Mark) -> Instance | None:
        """Return the instance whose label is the mark; see `Provider.find`."""
        self._api().forget("instances")  # what was hired a moment ago may be in the next list
        return next((it for it in await self.instances() if it.mark == mark), None)

    async def describe(self, id: str) -> Instance:
        """Return the instance as listed; what is not listed is asked for; see `Provider`."""
        listed = [instance for instance in await self.instances() if instance.id == id]
        return listed[0] if listed else await self._asked_for(id)

    async def terminate(self, id: str) -> bool:
        """Destroy the instance and its disk; see `Provider.terminate`."""
        answer = await self._call("DELETE", _path(id), bucket="destroy")
        self._api().forget("instances")
        if complaint(answer)[0] in ABSENT:
            return False
        self._data(answer)
        return True

    async def instances(self) -> list[Instance]:
        """Return every instance of the account; see `Provider.instances`."""
        rows = await self._api().shared("instances", INSTANCES_SECONDS, self._rows)
        return [self._instance(row) for row in rows]

    async def remark(self, id: str, mark: Mark) -> bool:
        """Give the instance another label; False when it is gone."""
        body = {"label": str(mark)}
        answer = await self._call("PUT", _path(id), body=body, bucket="manage")
        self._api().forget("instances")
        if complaint(answer)[0] in ABSENT:
            return False
        self._data(answer)
        return True

    def _instance(self, row: Mapping[str, Any]) -> Instance:
        """Return a row of instances as an instance.

        A container that has exited is started again, after a reboot of its host for instance; one
        that is not, within what Vast.ai needs for that, never will be.
        """
        instance = instance_of(row, self._user())
        if not has_exited(row):
            self._exited.pop(instance.id, None)
            return instance
        seconds = uptime() - self._exited.setdefault(instance.id, uptime())
        if seconds < EXITED_SECONDS:
            return instance
        detail = f"not started again within {EXITED_SECONDS / 60:g} minutes ({instance.detail})"
        return dataclasses.replace(instance, status=InstanceStatus.LOST, detail=detail)

    def _user(self) -> str:
        return self.ssh_user or os.environ.get("VAST_SSH_USER") or "root"

    async def _call(self, method: str, path: str, **options: Any) -> Answer:
        return await self._api().call(method, path, **options)

    def _data(self, answer: Answer) -> dict[str, Any]:
        """Return what an answer holds.

        Raises:
            OrchestratorError: it reports a failure.
        """
        if answer.ok and isinstance(answer.data, dict) and answer.data.get("success") is not False:
            return answer.data
        raise error_of(answer, self._key())

    async def _rows(self) -> list[dict[str, Any]]:
        """Return all pages of the list of instances."""
        rows: list[dict[str, Any]] = []
        token: str | None = None
        while True:
            params = {"limit": 25} | ({"after_token": token} if token else {})
            answer = await self._call("GET", "/api/v1/instances/", params=params, bucket="list")
            page = self._data(answer)
            found = rows_in(self.title, "GET /api/v1/instances/", page.get("instances"))
            if not all(row.get("id") for row in found):
                raise ProviderError("Vast.ai's answer has an instance without an id.")
            rows += found
            # A token that comes again would go round for ever.
            token, before = page.get("next_token"), token
            if not token or token == before:
                return rows

    async def _asked_for(self, id: str) -> Instance:
        answer = await self._api().read(
            _path(id), INSTANCES_SECONDS, params={"owner": "me"}, bucket="show"
        )
        is_absent = complaint(answer)[0] in ABSENT
        row = None if is_absent else self._data(answer).get("instances", {})
        if row is None:
            return absent(self.provider_name, id)
        if not isinstance(row, dict) or not row.get("id"):
            raise Unanswered(f"Vast.ai does not say what became of instance {id}.")
        return self._instance(row)

    async def _search(self, resources: Resources, limits: Limits, *, spot: bool) -> list[Offer]:
        """Return the offers that fit, the cheapest first, of a few pages at most."""
        query = query_for(resources, limits, spot=spot, host=self._host(resources))
        offers: dict[str, Offer] = {}
        seen: set[Any] = set()
        for _ in range(PAGES):
            fetch = partial(self._found, query)
            rows = await self._api().shared(f"search {json.dumps(query)}", SEARCH_SECONDS, fetch)
            # A search has no pages, so the next one begins at the price where the last one ended.
            # Rows of just that price come again and are dropped.
            fresh = [row for row in rows if row.get("id") not in seen]
            seen |= {row.get("id") for row in fresh}
            for row in fresh:
                factor = self.bid_factor
                if offer := fitting(row, resources, limits, spot=spot, bid_factor=factor):
                    offers[offer.id] = offer
            # Nothing fresh means a whole page of one price: it cannot be passed in this way.
            if len(rows) < PAGE_ROWS or not fresh or len(offers) >= limits.max_offers:
                break
            floor = {"gte": number(rows[-1].get("dph_total"))}
            query = {**query, "dph_total": {**query.get("dph_total", {}), **floor}}
        return list(offers.values())

    def _host(self, resources: Resources) -> dict[str, Any]:
        """Return the filters on who rents out; a machine used as a CPU may have any driver."""
        filters: dict[str, Any] = {
            "reliability2": {"gte": self.min_reliability},
            "inet_down": {"gte": self.min_inet_down},
        }
        if self.verified_only:
            filters["verified"] = {"eq": True}
        if resources.gpu_count != 0:
            filters["cuda_max_good"] = {"gte": self.min_cuda}
        return filters

    async def _found(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        answer = await self._call("POST", "/api/v0/bundles/", body=query, bucket="search")
        offers = self._data(answer).get("offers") or []
        rows = offers if isinstance(offers, list) else [offers]  # one may come without its list
        found = rows_in(self.title, "POST /api/v0/bundles/", rows)
        return [{**row, "id": str(row.get("id") or "")} for row in found]

    async def _check_on_sale(self, offer: Offer) -> float | None:
        """Look at an offer again: they change hands and prices by the minute.

        Returns:
            What to bid, in USD per hour without the disk; None on demand.

        Raises:
            CapacityError: it is gone, or dearer than it was.
        """
        query = {
            # One offer, asked for with the filters of the search that could have changed since.
            "ask_contract_id": {"eq": int(offer.id)},
            "rentable": {"eq": True},
            "type": "bid" if offer.spot else "on-demand",
            "allocated_storage": hired_gb(offer.disk_gb),
            "limit": 1,
        }
        rows = await self._found(query)
        if not rows:
            raise CapacityError(f"Vast.ai's offer {offer.id} ({offer.host}) is gone.")
        return bid_for(rows[0], offer)

    async def _hire(self, offer: Offer, mark: Mark, begin: str) -> Instance:
        bid = await self._check_on_sale(offer)
        try:
            id = await self._accept(offer, mark, begin, bid)
        except Unanswered as error:
            return await came_of(self, mark, error)
        finally:
            self._api().forget("instances")
        return offer.as_instance(id, mark, user=self._user())

    async def _accept(self, offer: Offer, mark: Mark, begin: str, bid: float | None) -> str:
        """Order an instance and return its id."""
        body: dict[str, Any] = {
            "client_id": "me",
            "image": self.image,
            "disk": hired_gb(offer.disk_gb),
            "label": str(mark),
            "runtype": "ssh_direct",
            "target_state": "running",
            # Refuse if it cannot start now, rather than make a stopped instance whose disk is
            # billed.
            "cancel_unavail": True,
            # A job for the CPU gets a machine with GPUs, for lack of others. The instance
            # remembers how many of them the job may use.
            "env": {GPUS_VARIABLE: str(offer.gpu_count)},
            "onstart": begin,
        }
        if bid is not None:  # its presence is what makes it a bid
            body["price"] = round(bid, 6)
        path = f"/api/v0/asks/{offer.id}/"
        answer = await self._call("PUT", path, body=body, bucket="create", once=True)
        made = answer.data.get("new_contract") if isinstance(answer.data, dict) else None
        try:
            self._data(answer)
        except OrchestratorError as error:
            # An error and an id at once: something was made, and it is billed.
            if made:
                await self._undo(str(made), error)
            raise
        if not made:
            raise Unanswered("Vast.ai made an instance and does not say which.")
        return str(made)

    async def _undo(self, id: str, error: OrchestratorError) -> None:
        """Destroy what was made and could not start, as with too low a bid: its disk is billed.

        Raises:
            CapacityError: unless `error` says more.
            Unanswered: it cannot be destroyed now.
        """
        try:
            await self.terminate(id)
        except OrchestratorError as stays:
            raise Unanswered(f"{error.message} Instance {id} was made all the same.") from stays
        if not isinstance(error, (CapacityError, CredentialsError, FundsError, QuotaError)):
            raise CapacityError(f"{error.message} Instance {id} is destroyed.") from error

    async def _attach(self, id: str, public_key: str) -> None:
        """Give Vast.ai the key, so that its proxy takes it too; the machine itself has it."""
        try:
            body = {"ssh_key": public_key}
            self._data(await self._call("POST", f"{_path(id)}ssh/", body=body, bucket="ssh"))
        except OrchestratorError as error:
            logger.warning("The SSH key was not attached to instance %s: %s", id, error)


def _path(id: str) -> str:
    return f"/api/v0/instances/{quote(id, safe='')}/"
