"""EC2 and what belongs to it, as its model, its documentation and its users describe them."""

from __future__ import annotations

import asyncio
import getpass
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.clouds.aws_catalog import QUOTAS, Region, regions, types
from tests.clouds.aws_instances import InstanceAnswers
from tests.clouds.aws_life import Life
from tests.clouds.aws_market import MarketAnswers
from tests.clouds.aws_network import NetworkAnswers
from tests.clouds.aws_policy import allowing, least_policy
from tests.clouds.aws_wire import (
    Refused,
    action_in,
    answer_of,
    parsed,
    refusal_of,
    request_of,
)
from tests.clouds.cloud import Cloud, Rented, free_port
from tests.clouds.spacing import Spacing

SERVICES = {"servicequotas": "service-quotas"}
TARGETS = re.compile(r"Credential=([^/]+)/\d+/([\w-]+)/([\w-]+)/aws4_request")
CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
VANISH_SECONDS = 3600.0


class AwsCloud(InstanceAnswers, MarketAnswers, NetworkAnswers, Life, Cloud):
    """An account at AWS. Its machines have an address each and one port in common."""

    name = "aws"
    key_variable = "AWS_SECRET_ACCESS_KEY"
    url_variable = "AWS_ENDPOINT_URL"
    states = (("pending", 0.4), ("running without address", 0.6), ("running", 0.0))
    lost_word = "shutting-down"

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.regions: dict[str, Region] = regions()
        self.types = types()
        self.quotas = dict(QUOTAS)
        self.tokens: dict[tuple[str, str], tuple[str, str]] = {}
        """What each client token made, by zone: the request and the id."""
        self.volumes: dict[str, dict[str, Any]] = {}
        self.spot_requests: dict[str, dict[str, Any]] = {}
        self.profiles: set[str] = set()
        """The account's instance profiles."""
        self.statements = least_policy()
        """What the caller may do: no more than the page says."""
        self.used: set[str] = set()
        """The statements that were used."""
        self.actions: set[str] = set()
        self.denied: set[str] = set()
        """Actions that are not permitted all the same."""
        self.throttled = 0
        """How many of the next orders come too soon."""
        self.quota_exceeded = False
        self.spot_factor = 0.4
        self.stale_seconds = 0.0
        """For how long descriptions show the state before."""
        self.shutting_seconds = 30.0
        """From being taken back to being gone."""
        self.rates = Spacing()
        self.ssh_port = free_port()
        super().__init__(folder, port)

    def routes(self) -> list[Route]:
        everything = ["GET", "POST", "PUT"]
        return [
            Route("/imds/{region}/{id}/latest/api/token", self._imds_token, methods=["PUT"]),
            Route("/imds/{region}/{id}/latest/meta-data/{path:path}", self._imds),
            Route("/{path:path}", self._aws, methods=everything),
        ]

    def environ(self) -> dict[str, str]:
        """Return the variables that point the product here."""
        return {
            **super().environ(),
            "AWS_PROVIDER": "1",
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_REGION": "us-east-1",
            "AWS_REGIONS": ",".join(self.regions),
            "AWS_SSH_CIDR": "127.0.0.0/8",
            "AWS_SSH_PORT": str(self.ssh_port),
            "AWS_SSH_USER": getpass.getuser(),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def key_id(self) -> str:
        """The id of the account's key, which is no secret."""
        return f"AKIA{self.key[:16].upper()}"

    def named(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[str, str]:
        """Return what a request asks for as method and path: all of EC2's are POST /."""
        if path.startswith("/imds"):
            return method, path
        action, _ = action_in(headers, body)
        asks = action.startswith(("Describe", "Get"))
        return "GET" if asks else "POST", f"/{_service(headers)[1]}/{action}"

    def word(self, rented: Rented) -> str:
        return super().word(rented).partition(" ")[0]

    def left_over(self) -> list[str]:
        """Return what the account has beside live machines."""
        live = {rented.id.rpartition("/")[2] for rented in self.all if rented.ended is None}
        disks = [id for id, volume in self.volumes.items() if volume["instance"] not in live]
        open_states = {"open", "active"}
        asked = [
            id
            for id, request in self.spot_requests.items()
            if request["State"] in open_states and request.get("InstanceId") not in live
        ]
        return disks + asked

    # The wire ---------------------------------------------------------------------------------

    async def _aws(self, request: Request) -> Response:
        body = await request.body()
        region, service, key = _service(request.headers)
        action, given = action_in(request.headers, body)
        try:
            answer = await self._answered(region, service, key, action, given)
        except Refused as refused:
            kind, content = refusal_of(service, refused)
            return Response(content, refused.status, media_type=kind)
        kind, content = answer_of(service, action, answer)
        if self.unknown_status is None:
            self._check(service, action, answer, content)
        return Response(content, media_type=kind)

    async def _answered(
        self, region: str, service: str, key: str, action: str, given: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the answer to a call.

        Raises:
            Refused: there is none.
        """
        if key != self.key_id or self.expired:
            raise Refused(
                "AuthFailure" if service == "ec2" else "UnrecognizedClientException",
                "AWS was not able to validate the provided access credentials",
                401,
            )
        if service == "ec2" and (code := self._region(region).fails):
            raise Refused(code, f"The region {region} does not answer.", 503)
        asked = request_of(service, action, given)
        if self._too_soon(action, region):
            raise Refused("RequestLimitExceeded", "Request limit exceeded.", 503)
        handler = getattr(self, f"do_{action}")
        self._permit(service, action, asked)
        if asked.pop("DryRun", False):
            raise Refused(
                "DryRunOperation",
                "Request would have succeeded, but DryRun flag is set.",
                412,
            )
        answer = handler(region, asked)
        return await answer if asyncio.iscoroutine(answer) else answer

    def _check(self, service: str, action: str, answer: Any, content: bytes) -> None:
        """Let botocore read the answer; it must find in it what was meant."""
        read = parsed(service, action, content)
        self.contract.checked += 1
        if missing := {name for name, value in answer.items() if value and not read.get(name)}:
            self.errors.append(f"{action}: botocore does not find {sorted(missing)}")

    def _region(self, name: str) -> Region:
        if name not in self.regions:
            raise Refused("OptInRequired", f"You are not subscribed to {name}.", 401)
        return self.regions[name]

    def _too_soon(self, action: str, region: str) -> bool:
        if action != "RunInstances":
            return False
        self.throttled -= 1
        return self.throttled >= 0 or self.rates.early(f"run {region}", 0.5)

    def _permit(self, service: str, action: str, asked: Mapping[str, Any]) -> None:
        """Refuse what the policy does not permit."""
        prefix = "servicequotas" if service == "service-quotas" else service
        self._permit_one(f"{prefix}:{action}", self._context(action, asked))
        if asked.get("TagSpecifications"):
            self._permit_one("ec2:CreateTags", {"ec2:CreateAction": action})

    def _permit_one(self, action: str, context: Mapping[str, str]) -> None:
        statement = allowing(self.statements, action, context)
        if statement is None or action in self.denied:
            denied = action.startswith("ec2:")
            raise Refused(
                "UnauthorizedOperation" if denied else "AccessDeniedException",
                "You are not authorized to perform this operation. User: arn:aws:iam::1:user/us is "
                f"not authorized to perform: {action} on resource: *. Encoded authorization "
                f"failure message: {'x' * 600}",
                403 if denied else 400,
            )
        self.used.add(statement["Sid"])
        self.actions.add(action)

    def _context(self, action: str, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return the tag by which a statement may be held to what is ours."""
        ids = [
            *asked.get("InstanceIds", ()),
            *asked.get("Resources", ()),
            *asked.get("SpotInstanceRequestIds", ()),
            asked.get("VolumeId", ""),
            asked.get("GroupId", ""),
        ]
        if action.startswith(("Describe", "RunInst")):
            return {}
        # What does not exist is not refused for its tags.
        tags = [self._tags_of(id) for id in ids if id]
        ours = [one.get("managed-by", "") for one in tags if one is not None]
        return {"aws:ResourceTag/managed-by": ours[0] if ours else "training-orchestrator"}

    def _tags_of(self, id: str) -> dict[str, str] | None:
        for rented in self.all:
            if rented.id.rpartition("/")[2] == id:
                return {tag["Key"]: tag["Value"] for tag in rented.facts["tags"]}
        for rows in (self.volumes, self.spot_requests, *(r.groups for r in self.regions.values())):
            if id in rows:
                return {tag["Key"]: tag["Value"] for tag in rows[id].get("Tags", ())}
        return None


def _service(headers: Mapping[str, str]) -> tuple[str, str, str]:
    """Return region, service and key id that a request is signed for."""
    match = TARGETS.search(headers.get("authorization", ""))
    if match is None:
        return "", "ec2", ""
    key, region, service = match.groups()
    return region, SERVICES.get(service, service), key
