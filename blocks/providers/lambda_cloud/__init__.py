"""Lambda Cloud: virtual machines with NVIDIA GPUs, by its REST API 1.10."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Collection, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import Field

from blocks.marks import PREFIX, Mark, installation_id
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.absence import absent
from blocks.providers.api import Answer, Unanswered
from blocks.providers.cloud import ALLOW_MORE, CloudProvider, as_described, port_of, rows_in
from blocks.providers.lambda_cloud.answers import (
    ABSENT,
    SET_KEY,
    code_of,
    error_of,
    fits,
    instance_of,
    is_type,
    keys_of,
    offer_of,
    regions_of,
)
from blocks.providers.lost_answer import came_of
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError, ConfigError, OrchestratorError, RateLimited

logger = logging.getLogger(__name__)

LAUNCH_SECONDS = 120.0  # of silence that a launch is allowed; nine are usual
TYPES_SECONDS = 5.0  # how old what is for hire may be
INSTANCES_SECONDS = 2.0  # how old the list of instances may be
KEY_IDLE_SECONDS = 3600.0  # that an SSH key may wait for its launch


class LambdaCloud(CloudProvider):
    """Hires virtual machines of Lambda Cloud, billed by the minute until they are terminated."""

    _block_type_name = "Lambda Cloud"
    _block_type_slug = "training-orchestrator-lambda"

    provider_name: ClassVar[str] = "lambda"
    title: ClassVar[str] = "Lambda Cloud"
    url: ClassVar[str] = "https://cloud.lambda.ai/api/v1"
    url_variable: ClassVar[str] = "LAMBDA_API_URL"
    set_up_by: ClassVar[str] = "LAMBDA_API_KEY"
    set_key: ClassVar[str] = SET_KEY
    boot_minutes: ClassVar[float] = 20.0
    settle_seconds: ClassVar[float] = 180.0
    shutdown_ends_bill: ClassVar[bool] = False
    instead: ClassVar[Mapping[str, str]] = {
        "LAMBDA_SSH_KEY_NAME": "Lambda Cloud gives a machine one key, and each gets a key pair of "
        "its own, which is removed with it"
    }
    has_network: ClassVar[bool] = True
    """Machines of one region share a private network."""
    intervals: ClassVar[Mapping[str, float]] = {"": 1.0, "launch": 12.0}
    """Seconds between two calls of the account, and between two launches."""
    _ended: ClassVar[set[str]] = set()  # ids of instances whose end was accepted
    _keys_of: ClassVar[dict[str, list[str]]] = {}  # names of SSH keys by the id of an instance

    ssh_user: str | None = Field(
        default=None, description="Whom to log in as. Empty: LAMBDA_SSH_USER, or ubuntu."
    )
    ssh_port: int | None = Field(
        default=None, description="Port of sshd. Empty: LAMBDA_SSH_PORT, or 22."
    )

    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return one offer per type and region that has some; see `Provider.offers`."""
        if resources.spot:
            raise CapacityError(
                "Lambda Cloud has no spot machines.",
                "Set resources.spot: false, or choose another provider.",
            )
        types = await self._types()
        fitting = [row for row in types if fits(offer_of(row), resources, limits)]
        offers = [
            dataclasses.replace(offer, region=region, host=f"{offer.instance_type} in {region}")
            for offer, regions in ((offer_of(row), regions_of(row)) for row in fitting)
            for region in regions
            if not resources.regions or region in resources.regions
        ]
        if not offers:
            names = [offer_of(row).instance_type for row in fitting or types]
            state = "sold out in the regions allowed" if fitting else "not what is asked for"
            if limits.max_price_per_hour and not fitting:
                state += f" at limits.max_price_per_hour = {limits.max_price_per_hour:g}"
            raise CapacityError(
                f"Lambda Cloud has no machine for this job: {', '.join(sorted(names))} "
                f"{'is' if len(names) == 1 else 'are'} {state}.",
                ALLOW_MORE,
            )
        return sorted(offers, key=lambda offer: (offer.rank_price, offer.host))

    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Register the key, then launch; see `Provider.launch`."""
        if ssh_public_key is None:
            raise ConfigError("Lambda Cloud hires out no machine without an SSH key.")
        # An earlier attempt of this very launch may have succeeded without our hearing of it.
        if instance := await self.find(mark):
            return instance
        await self._check_on_sale(offer)
        # An instance gets its keys at the launch, and only keys of the account.
        key = await self._register(ssh_public_key)
        try:
            return await self._ordered(offer, mark, key)
        except (RateLimited, Unanswered):  # it is sent again, or something may have come of it
            raise
        except OrchestratorError:
            await self._remove_idle_keys([key])
            raise

    async def find(self, mark: Mark) -> Instance | None:
        """Return the instance whose name is the mark; see `Provider.find`."""
        self._api().forget("instances")  # what was hired a moment ago may be in the next list
        marked = [instance for instance in await self.instances() if instance.mark == mark]
        # Terminated instances stay in the list for a while, under the mark that a new one may bear.
        marked.sort(key=lambda instance: instance.status is InstanceStatus.GONE)
        return marked[0] if marked else None

    async def describe(self, id: str) -> Instance:
        """Return the instance as listed; what is not listed is asked for; see `Provider`."""
        listed = [instance for instance in await self.instances() if instance.id == id]
        # Absent from the list is not yet gone: a fresh instance may not be listed yet.
        instance = listed[0] if listed else await self._asked_for(id)
        if instance.status in {InstanceStatus.ABSENT, InstanceStatus.GONE}:
            # A fresh instance that is merely not listed yet keeps its key.
            left = self._keys_of.pop(id, []) if id in self._ended else []
            await self._remove_idle_keys(left, without=id)
        return instance

    async def terminate(self, id: str) -> bool:
        """Ask for the instance to be terminated; see `Provider.terminate`."""
        answer = await self._call(
            "POST", "/instance-operations/terminate", body={"instance_ids": [id]}
        )
        self._api().forget("instances")
        if code_of(answer) == "global/object-does-not-exist":
            return False
        self._data(answer)
        self._ended.add(id)
        return True

    async def instances(self) -> list[Instance]:
        """Return every instance of the account; see `Provider.instances`."""
        return [self._instance(row) for row in await self._rows()]

    async def remark(self, id: str, mark: Mark) -> bool:
        """Give the instance another name; False when it is gone."""
        answer = await self._call("POST", _path(id), body={"name": str(mark)})
        self._api().forget("instances")
        if code_of(answer) in ABSENT:
            return False
        self._data(answer)
        return True

    async def sweep(self) -> None:
        """Remove the SSH keys of launches that were given up; see `Provider.sweep`."""
        await self._remove_idle_keys([])

    def _user(self) -> str:
        return self.ssh_user or os.environ.get("LAMBDA_SSH_USER") or "ubuntu"

    def _port(self) -> int:
        return port_of("LAMBDA_SSH_PORT", self.ssh_port)

    async def _call(self, method: str, path: str, **options: Any) -> Answer:
        return await self._api().call(method, path, **options)

    def _data(self, answer: Answer) -> Any:
        """Return what an answer holds.

        Raises:
            OrchestratorError: it reports a failure.
        """
        if answer.ok and isinstance(answer.data, dict) and answer.data.get("data") is not None:
            return answer.data["data"]
        raise error_of(answer, self._key())

    async def _types(self) -> list[dict[str, Any]]:
        """Return the rows of types that can be read; one of another kind hides no other.

        Raises:
            OrchestratorError: none can be.
        """

        async def fetch() -> list[dict[str, Any]]:
            types = self._data(await self._call("GET", "/instance-types"))
            with as_described(self.title, "GET /instance-types"):
                rows = [row for row in types.values() if is_type(row)]
                if types and not rows:
                    raise ValueError("no type of instance can be read")
            return rows

        return await self._api().shared("types", TYPES_SECONDS, fetch)

    async def _rows(self) -> list[dict[str, Any]]:
        async def fetch() -> list[dict[str, Any]]:
            call = "GET /instances"
            rows = rows_in(self.title, call, self._data(await self._call("GET", "/instances")))
            with as_described(self.title, call):
                self._keys_of.update((str(row["id"]), keys_of(row)) for row in rows)
            return rows

        return await self._api().shared("instances", INSTANCES_SECONDS, fetch)

    async def _asked_for(self, id: str) -> Instance:
        answer = await self._api().read(_path(id), INSTANCES_SECONDS)
        if code_of(answer) in ABSENT:
            return absent(self.provider_name, id)
        with as_described(self.title, f"GET {_path(id)}"):
            return self._instance(self._data(answer))

    async def _ssh_keys(self) -> list[dict[str, Any]]:
        return rows_in(
            self.title, "GET /ssh-keys", self._data(await self._call("GET", "/ssh-keys"))
        )

    def _instance(self, row: Mapping[str, Any]) -> Instance:
        return instance_of(row, user=self._user(), port=self._port())

    async def _check_on_sale(self, offer: Offer) -> None:
        """Save the scarce launches for what can be had at its price.

        Raises:
            CapacityError: it is sold out, or dearer than it was.
        """
        rows = [
            row for row in await self._types() if offer_of(row).instance_type == offer.instance_type
        ]
        if not rows or offer.region not in regions_of(rows[0]):
            raise CapacityError(f"Lambda Cloud no longer has {offer.host}.")
        price = offer_of(rows[0]).rank_price
        if price > offer.rank_price:
            raise CapacityError(
                f"{offer.host} costs {price:.2f} USD per hour at Lambda Cloud now, "
                f"it was offered for {offer.rank_price:.2f}."
            )

    async def _ordered(self, offer: Offer, mark: Mark, key: str) -> Instance:
        """Launch with a key of the account."""
        try:
            id = await self._order(offer, mark, key)
        except Unanswered as error:
            return await came_of(self, mark, error)
        finally:
            self._api().forget("instances")
        # Kept for `_remove_idle_keys`: an instance that is gone no longer says which keys it had.
        self._keys_of[id] = [key]
        return offer.as_instance(id, mark, port=self._port(), user=self._user())

    async def _order(self, offer: Offer, mark: Mark, key: str) -> str:
        """Launch and return the id."""
        name = str(mark)
        # For people who look at the account in a browser; we ourselves go by the name.
        tags = {"managed-by": "training-orchestrator", "installation": installation_id()}
        body = {
            "region_name": offer.region,
            "instance_type_name": offer.instance_type,
            "ssh_key_names": [key],
            "name": name,
            "tags": [{"key": key, "value": value} for key, value in {**tags, "name": name}.items()],
        }
        answer = await self._call(
            "POST",
            "/instance-operations/launch",
            body=body,
            bucket="launch",
            once=True,
            read_seconds=LAUNCH_SECONDS,
        )
        match self._data(answer):
            # Anything but exactly one id: something may have been hired, so it is looked for by
            # name.
            case {"instance_ids": [str(id)]}:
                return id
            case _:
                raise Unanswered(
                    "Lambda Cloud accepted a launch and does not say which instance it made."
                )

    async def _register(self, public_key: str) -> str:
        """Return the name under which the account has a key, after adding it if need be."""
        if name := await self._registered(public_key):
            return name
        # The time in the name is the only date that a key has; see `_remove_idle_keys`.
        digest = hashlib.sha256(" ".join(public_key.split()[:2]).encode()).hexdigest()[:16]
        name = f"{PREFIX}-{installation_id()}-{digest}-{int(time.time())}"
        body = {"name": name, "public_key": public_key}
        try:
            self._data(await self._call("POST", "/ssh-keys", body=body, once=True))
        except OrchestratorError:  # it may be there all the same, or by another process by now
            name = await self._registered(public_key)
            if not name:
                raise
        return name

    async def _registered(self, public_key: str) -> str:
        same = [
            key
            for key in await self._ssh_keys()
            if str(key.get("public_key")).split()[:2] == public_key.split()[:2]
        ]
        return str(same[0].get("name") or "") if same else ""

    async def _remove_idle_keys(self, left: Collection[str], *, without: str = "") -> None:
        """Remove SSH keys of ours that no instance uses.

        A key cannot be removed while an instance uses it, and keys have no dates but that in
        their name; one that is not used yet may belong to a launch under way.

        Args:
            left: those that are certainly needed no longer; others go when they are old enough.
            without: the id of an instance that is gone, though it may still be listed.
        """
        own = f"{PREFIX}-{installation_id()}-"
        try:
            rows = [row for row in await self._rows() if row["id"] != without]
            used = {name for row in rows for name in keys_of(row)}
            for key in await self._ssh_keys():
                name = str(key.get("name"))
                ripe = name in left or time.time() - _made(name) > KEY_IDLE_SECONDS
                # Only keys that this installation registered: an account has other users.
                if name.startswith(own) and name not in used and ripe:
                    await self._call("DELETE", f"/ssh-keys/{quote(str(key.get('id')))}")
        except OrchestratorError as error:  # the next sweep takes them
            logger.info("SSH keys are left at Lambda Cloud: %s", error)


def _path(id: str) -> str:
    return f"/instances/{quote(id, safe='')}"


def _made(key_name: str) -> float:
    """Return the Unix time when an SSH key of ours was registered, now if it does not say."""
    moment = key_name.rpartition("-")[2]
    return float(moment) if moment.isdecimal() else time.time()
