"""SageMaker: managed training jobs, worked with through a bucket."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, ClassVar

from pydantic import Field

from blocks.machines.base import Machine
from blocks.machines.mailbox import MailboxMachine
from blocks.machines.mailbox.packing import NOTICE_COMMAND, SHUTDOWN_COMMAND, packed
from blocks.marks import Mark, ours, read_mark
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.absence import absent
from blocks.providers.api import Unanswered
from blocks.providers.base import Provider, counted
from blocks.providers.boto import Amazon, Refusal
from blocks.providers.cloud import as_described, rows_in
from blocks.providers.lost_answer import came_of
from blocks.providers.sagemaker.answers import (
    ENDED,
    POOL_THAT_WAITS,
    TITLE,
    instance_of,
    is_missing,
    mark_of,
    meaning,
    pool_of,
    status_of,
)
from blocks.providers.sagemaker.kinds import BY_NAME, LISTED_REGIONS
from blocks.providers.sagemaker.offers import offers_of
from blocks.providers.sagemaker.order import TAG, Surroundings, checked_role, image_in, order
from blocks.stores.access import Access
from blocks.stores.bucket import Bucket
from trainer.config import Limits, Resources
from trainer.config.store_urls import StoreUrl, parse_store_url
from trainer.contract.errors import (
    ConfigError,
    OrchestratorError,
    RateLimited,
)

logger = logging.getLogger(__name__)

DESCRIBE_SECONDS = 2.0  # how old what is known of a job may be
MAILBOX_IDLE = timedelta(hours=1)  # that a mailbox may wait for its job
LAST_LINES = 20
LOG_GROUP = "/aws/sagemaker/TrainingJobs"


class SageMaker(Provider):
    """Hires machines of SageMaker's training jobs, billed by the second until the job has ended."""

    _block_type_name = "SageMaker"
    _block_type_slug = "training-orchestrator-sagemaker"

    provider_name: ClassVar[str] = "sagemaker"
    set_up_by: ClassVar[str] = "SAGEMAKER_ROLE"
    boot_minutes: ClassVar[float] = 20.0
    settle_seconds: ClassVar[float] = 30.0
    shutdown_command: ClassVar[str] = SHUTDOWN_COMMAND
    notice_command: ClassVar[str] = NOTICE_COMMAND
    takes_first_script: ClassVar[bool] = True
    _known: ClassVar[dict[str, tuple[float, Instance]]] = {}  # by id; when it was asked for
    _cleared: ClassVar[set[str]] = set()  # ids of jobs that ended, and whose mailbox was removed

    role: str = Field(default="", description="ARN of the jobs' role. Empty: SAGEMAKER_ROLE.")
    bucket: str = Field(
        default="",
        description="Where mailboxes are, such as s3://models/jobs. Empty: SAGEMAKER_BUCKET.",
    )
    region: str = Field(default="", description="Of jobs and bucket. Empty: AWS_REGION.")
    image: str = Field(default="", description="Empty: SAGEMAKER_IMAGE, or Amazon's for PyTorch.")
    subnets: list[str] = Field(default_factory=list, description="Of a VPC that jobs run in.")
    security_groups: list[str] = Field(default_factory=list, description="For these subnets.")
    prices: dict[str, float] = Field(
        default_factory=dict,
        description="USD per hour by kind, such as ml.g5.xlarge; before those that are built in.",
    )

    def is_configured(self) -> bool:
        """Whether there is a role for the jobs."""
        return bool(self._role())

    async def check(self) -> str:
        """Ask for the jobs, and write to the bucket; see `Provider.check`."""
        checked_role(self._role())
        there = counted(len(await self.instances()), "instance")
        bucket = self._bucket()
        await bucket.put("check", b"")
        await bucket.delete(["check"])
        return f"{there}, mailboxes in {bucket.url}, region {self._region()}"

    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return one offer per kind that fits, sold out or not: stock shows at the order only."""
        region = await asyncio.to_thread(self._region)
        return offers_of(resources, limits, region, {n: self._price(n, region) for n in BY_NAME})

    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Put the agent into the mailbox, and order the job; see `Provider.launch`."""
        if instance := await self.find(mark):
            return instance
        url, options = self._mailbox(str(mark)), self._options()
        region = await asyncio.to_thread(self._region)
        image = self.image or os.environ.get("SAGEMAKER_IMAGE", "").strip() or image_in(region)
        surroundings = Surroundings(
            role=checked_role(self._role()),
            image=image,
            subnets=self.subnets,
            security_groups=self.security_groups,
        )
        asked = order(offer, mark, str(url), surroundings, options)
        bucket = self._bucket()
        await bucket.put(f"{mark}/start/agent.pyz", packed())
        await bucket.put(f"{mark}/start/first.sh", first_script.encode() + b"\n")
        try:
            await self._order(asked)
        except RateLimited:
            raise
        except Unanswered as error:
            return await came_of(self, mark, error)
        except OrchestratorError:
            await self._remove_mailbox(str(mark))
            raise
        return offer.as_instance(str(mark), mark, address=str(url))

    async def find(self, mark: Mark) -> Instance | None:
        """Return the job whose tag is the mark; see `Provider.find`."""
        # By its name first: most jobs still bear the mark that is their name, and a job that was
        # ordered a moment ago is known by it before it is listed.
        self._known.pop(str(mark), None)
        named = await self.describe(str(mark))
        if named.mark == mark:
            return named
        return next((one for one in await self.instances() if one.mark == mark), None)

    async def describe(self, id: str) -> Instance:
        """Return the job as it is; see `Provider.describe`."""
        asked_at, known = self._known.get(id, (0.0, None))
        if known and time.monotonic() - asked_at < DESCRIBE_SECONDS:
            return known
        row = await self._described(id)
        if row is None:
            return absent(self.provider_name, id)
        instance = await self._instance(row)
        self._known[id] = time.monotonic(), instance
        # Nothing can come of it any more, and it is billed by the month.
        if instance.status is InstanceStatus.GONE and ours(id) and id not in self._cleared:
            self._cleared.add(id)
            await self._remove_mailbox(id)
        return instance

    async def terminate(self, id: str) -> bool:
        """Stop the job, or end the warm pool that it left; see `Provider.terminate`."""
        row = await self._described(id)
        if row is None:
            return False
        self._known.pop(id, None)
        try:
            if str(row.get("TrainingJobStatus")) not in ENDED:
                await self._say_over(id)
                await self._amazon("stop_training_job", {"TrainingJobName": id})
            elif pool_of(row) == POOL_THAT_WAITS:
                ended = {"KeepAlivePeriodInSeconds": 0}
                await self._amazon(
                    "update_training_job", {"TrainingJobName": id, "ResourceConfig": ended}
                )
        except Refusal as error:
            # It ended while we asked: the next look shows that.
            if not is_missing(error) and "in status" not in error.message:
                raise meaning(error) from error
        return True

    async def instances(self) -> list[Instance]:
        """Return every job that is billed; see `Provider.instances`."""
        filters: list[Mapping[str, Any]] = [
            *({"StatusEquals": status} for status in ("InProgress", "Stopping")),
            {"WarmPoolStatusEquals": POOL_THAT_WAITS},
        ]
        pages = await asyncio.gather(*map(self._listed, filters))
        rows = {row["TrainingJobName"]: row for page in pages for row in page}
        return list(await asyncio.gather(*map(self._seen, rows.values())))

    async def remark(self, id: str, mark: Mark) -> bool:
        """Change the job's tag; False when it has ended."""
        row = await self._described(id)
        if row is None or str(row.get("TrainingJobStatus")) in ENDED:
            return False
        await self._call(
            "add_tags",
            {"ResourceArn": row["TrainingJobArn"], "Tags": [{"Key": TAG, "Value": str(mark)}]},
        )
        self._known.pop(id, None)
        return True

    async def sweep(self) -> None:
        """Remove mailboxes of jobs that have ended, or never were; see `Provider.sweep`."""
        try:
            bucket = self._bucket()
            for name in await bucket.folders():
                mark = read_mark(name)
                if mark is None or ours(name) is None:
                    continue
                entries = await bucket.entries(name)
                used = max((entry.modified for entry in entries), default=datetime.now(UTC))
                ended = not (await self.describe(name)).status.is_billing
                if ended or datetime.now(UTC) - used > MAILBOX_IDLE:
                    await self._remove_mailbox(name, without_job=not ended)
        except OrchestratorError as error:  # the next sweep takes them
            logger.info("mailboxes are left at SageMaker: %s", error)

    def machine(self, instance: Instance, *, compress: bool = False) -> Machine:
        """Return a connection through the job's mailbox."""
        del compress
        url = parse_store_url(instance.address)
        return MailboxMachine(_opened(url, self._access(), _endpoint()), where=instance.id)

    def _role(self) -> str:
        return (self.role or os.environ.get("SAGEMAKER_ROLE", "")).strip()

    def _region(self) -> str:
        region = self._account().known_region()
        if not region:
            raise ConfigError("provider sagemaker: no region is set.", "Set AWS_REGION.")
        return region

    def _account(self) -> Amazon:
        return Amazon(provider=self.provider_name, region=self.region)

    def _access(self) -> Access:
        return Access(region=self.region)

    def _url(self) -> StoreUrl:
        named = (self.bucket or os.environ.get("SAGEMAKER_BUCKET", "")).strip()
        url: StoreUrl | None = None
        with suppress(ValueError):
            url = parse_store_url(named)
        if url is None or url.scheme != "s3":
            raise ConfigError(
                f"SAGEMAKER_BUCKET = {named!r} names no bucket of S3.",
                "Set it, or bucket of the block, to such as s3://models/jobs, in the jobs' region.",
            )
        return url

    def _bucket(self) -> Bucket:
        return _opened(self._url(), self._access(), _endpoint())

    def _mailbox(self, name: str) -> StoreUrl:
        return self._url().inside(name)

    def _options(self) -> Mapping[str, Any]:
        """Return what a job's agent must know of a bucket that is not Amazon's own."""
        endpoint = _endpoint()
        return {"endpoint": endpoint, "client_options": {"allow_http": True}} if endpoint else {}

    def _price(self, kind: str, region: str) -> float | None:
        # Managed spot is billed for fewer seconds at the same price: how many shows at the end.
        listed = BY_NAME[kind].price if region in LISTED_REGIONS and kind in BY_NAME else None
        return self.prices.get(kind, listed)

    async def _amazon(
        self, operation: str, arguments: Mapping[str, Any], *, once: bool = False
    ) -> dict[str, Any]:
        return await self._account().call("sagemaker", operation, arguments, once=once)

    async def _call(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await self._amazon(operation, arguments)
        except Refusal as error:
            raise meaning(error) from error

    async def _order(self, asked: Mapping[str, Any]) -> None:
        try:
            answer = await self._amazon("create_training_job", asked, once=True)
        except Refusal as error:
            if error.code == "ResourceInUse":  # the name: of an order whose answer was lost
                raise Unanswered(error.message) from error
            raise meaning(error) from error
        with as_described(TITLE, "CreateTrainingJob", Unanswered):
            str(answer["TrainingJobArn"])

    async def _described(self, id: str) -> dict[str, Any] | None:
        try:
            row = await self._amazon("describe_training_job", {"TrainingJobName": id})
        except Refusal as error:
            if is_missing(error):
                return None
            raise meaning(error) from error
        with as_described(TITLE, "DescribeTrainingJob"):
            if str(row["TrainingJobName"]) != id or not row["TrainingJobStatus"]:
                raise ValueError(f"it is not about {id}")
        return row

    async def _listed(self, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {}
        while True:
            asked: dict[str, Any] = {**wanted, "MaxResults": 100, **page}
            answer = await self._call("list_training_jobs", asked)
            rows = rows_in(TITLE, "ListTrainingJobs", answer.get("TrainingJobSummaries"))
            with as_described(TITLE, "ListTrainingJobs"):
                if not all(isinstance(row["TrainingJobName"], str) for row in rows):
                    raise ValueError("a job has no name")
                token = answer.get("NextToken")
                if token in (None, ""):
                    return found + rows
                if not isinstance(token, str) or token == page.get("NextToken"):
                    raise ValueError(f"NextToken is {token!r}")
            found += rows
            page = {"NextToken": token}

    async def _seen(self, summary: Mapping[str, Any]) -> Instance:
        """Return a job of the list; those of others are not asked for."""
        name = str(summary["TrainingJobName"])
        if ours(name):
            described = await self.describe(name)
            if described.status is not InstanceStatus.ABSENT:
                return described
        return Instance(provider=self.provider_name, id=name, mark=None, status=status_of(summary))

    async def _instance(self, row: dict[str, Any]) -> Instance:
        name, region = str(row["TrainingJobName"]), await asyncio.to_thread(self._region)
        arn = {"ResourceArn": str(row.get("TrainingJobArn"))}
        tags = (await self._call("list_tags", arn)).get("Tags") if ours(name) else []
        with as_described(TITLE, "ListTags"):
            named = {str(tag["Key"]): str(tag["Value"]) for tag in tags or ()}
            kind = str((row.get("ResourceConfig") or {}).get("InstanceType"))
        failed = row.get("TrainingJobStatus") == "Failed"
        instance = instance_of(
            row,
            mark=mark_of(name, named, TAG),
            region=region,
            mailbox=str(self._mailbox(name)),
            last_words=await self._last_words(name) if failed else "",
            price=self._price(kind, region) if kind in BY_NAME else self.prices.get(kind),
        )
        return dataclasses.replace(instance, provider=self.provider_name)

    async def _last_words(self, name: str) -> str:
        """Return what a container printed last; the stream may come late, or never."""
        group = {"logGroupName": LOG_GROUP}
        try:
            asked: dict[str, Any] = {**group, "logStreamNamePrefix": f"{name}/"}
            answer = await self._account().call("logs", "describe_log_streams", asked)
            for stream in answer.get("logStreams") or ():
                asked = {**group, "logStreamName": stream["logStreamName"], "limit": LAST_LINES}
                said = await self._account().call("logs", "get_log_events", asked)
                return " | ".join(str(event["message"]) for event in said.get("events") or ())[
                    -500:
                ]
        except (OrchestratorError, AttributeError, LookupError, TypeError) as error:
            logger.info("the log of %s cannot be read: %s", name, error)
        return ""

    async def _say_over(self, name: str) -> None:
        """Let the job's agent know that it need not wait: what its machine holds is at home."""
        try:
            await self._bucket().put(f"{name}/over", b"")
        except OrchestratorError as error:  # it takes some seconds longer then, which are billed
            logger.info("the agent of %s cannot be told: %s", name, error)

    async def _remove_mailbox(self, name: str, *, without_job: bool = False) -> None:
        """Remove what is left of a job in the bucket."""
        try:
            if without_job and await self._described(name) is not None:
                return
            bucket = self._bucket()
            await bucket.delete([entry.key for entry in await bucket.entries(name)])
        except OrchestratorError as error:  # a sweep takes it
            logger.info("the mailbox of %s is left in the bucket: %s", name, error)


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3", "")


@cache
def _opened(url: StoreUrl, access: Access, endpoint: str) -> Bucket:
    """Return a bucket, the same one each time: finding the credentials takes a while."""
    del endpoint  # it is what tells one from the other
    return Bucket.at(url, access)
