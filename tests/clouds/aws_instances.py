"""Orders, descriptions and ends of instances at the local AWS."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.clouds.aws_catalog import IMAGES
from tests.clouds.aws_wire import Refused
from tests.clouds.machines import Profile
from tests.clouds.rented import Rented

if TYPE_CHECKING:
    from tests.clouds.aws import AwsCloud as Base
else:
    Base = object

CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}


class InstanceAnswers(Base):
    """What is ordered, described, tagged and ended."""

    async def do_RunInstances(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        kind, zone = self._checked(region, asked)
        token = (asked.get("ClientToken", secrets.token_hex(8)), zone)
        wanted = json.dumps(asked, sort_keys=True)
        if token in self.tokens:
            had, id = self.tokens[token]
            if had != wanted:
                raise Refused(
                    "IdempotentParameterMismatch",
                    "The client token you have provided is associated with a resource that was "
                    "created with different parameters.",
                )
            if self.account[id].ended is not None:
                raise Refused(
                    "IdempotentInstanceTerminated",
                    "The instance of this client token has been terminated.",
                )
            return self._reservation([self.account[id]])
        spot = "InstanceMarketOptions" in asked
        self._has_room(region, zone, kind, spot=spot)
        rented = self.rent(self._ordered(region, zone, asked, spot=spot))
        self.tokens[token] = (wanted, rented.id)
        return self._reservation([rented])

    def _checked(self, region: str, asked: Mapping[str, Any]) -> tuple[Any, str]:
        kind = self.types.get(asked["InstanceType"])
        if kind is None:
            raise Refused("InvalidParameterValue", f"Invalid value '{asked['InstanceType']}'.")
        if asked.get("ImageId") not in IMAGES:
            raise Refused("InvalidAMIID.NotFound", f"The image id '{asked.get('ImageId')}' ...")
        self._check_limits(asked)
        [card] = asked["NetworkInterfaces"]
        zones = self._region(region).subnets()
        if card["SubnetId"] not in zones:
            raise Refused("InvalidSubnetID.NotFound", f"The subnet ID '{card['SubnetId']}' ...")
        for group in card.get("Groups", ()):
            if group not in self._region(region).groups:
                raise Refused("InvalidGroup.NotFound", f"The security group '{group}' ...")
        return kind, zones[card["SubnetId"]]

    def _check_limits(self, asked: Mapping[str, Any]) -> None:
        if (asked["MinCount"], asked["MaxCount"]) != (1, 1):
            raise Refused("InvalidParameterValue", "more than one machine was asked for")
        if len(asked.get("UserData", "")) * 3 // 4 > 16 * 1024:
            raise Refused("InvalidParameterValue", "User data is limited to 16384 bytes")
        if len(asked.get("ClientToken", "")) > 64:
            raise Refused("InvalidParameterValue", "ClientToken is longer than 64 characters")
        profile = asked.get("IamInstanceProfile", {}).get("Name")
        if profile and profile not in self.profiles:
            words = f"Value ({profile}) for parameter iamInstanceProfile.name is invalid. "
            raise Refused("InvalidParameterValue", f"{words}Invalid IAM Instance Profile name")

    def _has_room(self, region: str, zone: str, kind: Any, *, spot: bool) -> None:
        if zone[-1] not in kind.zones:
            raise Refused("Unsupported", f"{kind.name} is not supported in {zone}.")
        if self.quota_exceeded:
            code = "MaxSpotInstanceCountExceeded" if spot else "VcpuLimitExceeded"
            raise Refused(code, "You have requested more vCPU capacity than your limit allows.")
        if self.no_funds:
            raise Refused("PendingVerification", "Your request for accessing resources ...", 401)
        if self.sold_out(kind.name, region, zone, f"{kind.name}@{zone}"):
            raise Refused(
                "InsufficientInstanceCapacity",
                f"We currently do not have sufficient {kind.name} capacity in {zone}.",
                500,
            )

    def _ordered(self, region: str, zone: str, asked: dict[str, Any], *, spot: bool) -> Rented:
        kind = self.types[asked["InstanceType"]]
        id = f"i-{secrets.token_hex(8)}0"
        tags = {one["ResourceType"]: one["Tags"] for one in asked.get("TagSpecifications", ())}
        named = [tag["Value"] for tag in tags.get("instance", ()) if tag["Key"] == "Name"]
        numbers = [str(1 + secrets.randbelow(250)) for _ in range(3)]
        price = self.spot_price(kind.name) if spot else kind.price
        for mapping in asked.get("BlockDeviceMappings", ()):
            self.volumes[f"vol-{secrets.token_hex(8)}0"] = {
                "instance": id,
                "stays": not mapping["Ebs"].get("DeleteOnTermination", False),
                "Size": mapping["Ebs"].get("VolumeSize", 8),
                "Tags": tags.get("volume", []),
                "region": region,
                "created": time.time(),
            }
        request_id = ""
        if spot:
            request_id = f"sir-{secrets.token_hex(4)}"
            self.spot_requests[request_id] = {
                "State": "active",
                "InstanceId": id,
                "Tags": tags.get("spot-instances-request", []),
                "region": region,
                "created": time.time(),
            }
        return Rented(
            id=f"{region}/{id}",
            name=named[0] if named else "",
            offer=kind.name,
            price_per_hour=price,
            status="",
            public_keys=self.keys_in(asked),
            profile=Profile(gpus=(kind.smi,) * kind.gpus),
            facts={
                "asked": asked,
                "region": region,
                "zone": zone,
                "spot": spot,
                "request": request_id,
                "tags": [t for t in tags.get("instance", ()) if t["Key"] != "Name"],
                "reason": "",
                "changed": (0.0, ""),
            },
            address=f"127.{'.'.join(numbers)}",
            port=self.ssh_port,
        )

    def do_DescribeInstances(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        self.forget_old()
        if ids := asked.get("InstanceIds"):
            if "MaxResults" in asked:
                raise Refused("InvalidParameterCombination", "MaxResults cannot go with ids.")
            found = [self.known(f"{region}/{self._well_formed(id)}") for id in ids]
            if None in found:
                raise self._no_instance(ids)
            return self._reservations([one for one in found if one])
        here = [one for one in self.listed() if one.facts["region"] == region]
        for wanted in asked.get("Filters", ()):
            here = [one for one in here if self._passes(one, wanted["Name"], wanted["Values"])]
        return self._reservations(here)

    def _well_formed(self, id: str) -> str:
        if not re.fullmatch(r"i-[0-9a-f]{8,17}", id):
            raise Refused("InvalidInstanceID.Malformed", f"Invalid id: '{id}'")
        return id

    def _no_instance(self, ids: list[str]) -> Refused:
        return Refused("InvalidInstanceID.NotFound", f"The instance IDs {ids} do not exist")

    def _passes(self, rented: Rented, name: str, values: list[str]) -> bool:
        match name:
            case "instance-state-name":
                state = self.word(rented)
                return state in values or state == self.unknown_status
            case "tag:Name":
                return rented.name in values
        raise Refused("InvalidParameterValue", f"The filter '{name}' is invalid")

    async def do_TerminateInstances(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        ids = asked["InstanceIds"]
        found = [self.known(f"{region}/{self._well_formed(id)}") for id in ids]
        if None in found:
            raise self._no_instance(ids)
        if self.refuses():
            raise Refused(
                "OperationNotPermitted", f"The instance '{ids[0]}' may not be terminated."
            )
        changes = []
        for rented in found:
            assert rented
            before = self.word(rented)
            if not self.ignores() and before != "terminated":
                await self.to_end(rented, "terminated", "Client.UserInitiatedShutdown")
            changes.append(
                {
                    "InstanceId": rented.id.rpartition("/")[2],
                    "PreviousState": _state(before),
                    "CurrentState": _state(self.word(rented)),
                }
            )
        return {"TerminatingInstances": changes}

    def do_CreateTags(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        for id in asked["Resources"]:
            rented = self.known(f"{region}/{self._well_formed(id)}")
            if rented is None:
                raise self._no_instance([id])
            for tag in asked["Tags"]:
                if tag["Key"] == "Name":
                    rented.name = tag["Value"]
        return {}

    def _reservations(self, found: list[Rented]) -> dict[str, Any]:
        return {"Reservations": [self._reservation([one]) for one in found]}

    def _reservation(self, found: list[Rented]) -> dict[str, Any]:
        return {
            "ReservationId": "r-0123456789abcdef0",
            "OwnerId": "111122223333",
            "Instances": [self._row(one) for one in found],
        }

    def _row(self, rented: Rented) -> dict[str, Any]:
        facts, asked = rented.facts, rented.facts["asked"]
        until, before = facts["changed"]
        state = before if time.time() < until else self.word(rented)
        [card] = asked["NetworkInterfaces"]
        public = {"PublicIpAddress": rented.address}
        public = public if card["AssociatePublicIpAddress"] else {}
        told = {**public, "PrivateIpAddress": rented.address}
        if rented.status in {"pending", "running without address", "terminated"}:
            told = {}
        reason = {"Code": facts["reason"], "Message": facts["reason"]} if facts["reason"] else None
        return {
            "InstanceId": rented.id.rpartition("/")[2],
            "ImageId": asked["ImageId"],
            "InstanceType": rented.offer,
            "State": _state(state),
            "StateReason": reason,
            "LaunchTime": rented.created,
            "Placement": {"AvailabilityZone": facts["zone"], "Tenancy": "default"},
            "ClientToken": asked.get("ClientToken"),
            "InstanceLifecycle": "spot" if facts["spot"] else None,
            "SpotInstanceRequestId": facts["request"] or None,
            "CpuOptions": {
                "CoreCount": max(1, self.types[rented.offer].vcpus // 2),
                "ThreadsPerCore": 2,
            },
            "Tags": [{"Key": "Name", "Value": rented.name}, *facts["tags"]],
            **told,
        }


def _state(name: str) -> dict[str, Any]:
    return {"Code": CODES.get(name, 0), "Name": name}
