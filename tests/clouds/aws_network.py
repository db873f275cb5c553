"""Networks, security groups, disks and spot requests of the local AWS."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from tests.clouds.aws_wire import Refused

if TYPE_CHECKING:
    from tests.clouds.aws import AwsCloud as Base
else:
    Base = object

Asked = dict[str, Any]


class NetworkAnswers(Base):
    """What a region says of them."""

    def do_DescribeVpcs(self, region: str, asked: Asked) -> Asked:
        here = self._region(region)
        row = {"VpcId": here.vpc, "IsDefault": here.default_vpc, "CidrBlock": "172.31.0.0/16"}
        wanted = {one["Name"]: one["Values"] for one in asked.get("Filters", ())}
        fits = (
            here.default_vpc if "is-default" in wanted else wanted.get("tag:Name") == ["training"]
        )
        return {"Vpcs": [row] if fits else []}

    def do_DescribeSubnets(self, region: str, asked: Asked) -> Asked:
        here = self._region(region)
        wanted = {one["Name"]: one["Values"] for one in asked["Filters"]}
        rows = [
            {
                "SubnetId": id,
                "VpcId": here.vpc,
                "AvailabilityZone": zone,
                "AvailableIpAddressCount": 4091,
                "MapPublicIpOnLaunch": True,
            }
            for id, zone in here.subnets().items()
        ]
        ids, vpcs = wanted.get("subnet-id"), wanted.get("vpc-id")
        return {
            "Subnets": [
                row
                for row in rows
                if (ids is None or row["SubnetId"] in ids)
                and (vpcs is None or row["VpcId"] in vpcs)
            ]
        }

    def do_DescribeRouteTables(self, region: str, asked: Asked) -> Asked:
        here = self._region(region)
        local = {"DestinationCidrBlock": "172.31.0.0/16", "GatewayId": "local", "State": "active"}
        out = {"DestinationCidrBlock": "0.0.0.0/0", **here.way_out, "State": "active"}
        closed = [here.subnet(letter) for letter in here.without_route]
        return {
            "RouteTables": [
                {"VpcId": here.vpc, "Associations": [{"Main": True}], "Routes": [local, out]},
                {
                    "VpcId": here.vpc,
                    "Associations": [{"Main": False, "SubnetId": id} for id in closed],
                    "Routes": [local],
                },
            ]
        }

    def do_DescribeSecurityGroups(self, region: str, asked: Asked) -> Asked:
        wanted = {one["Name"]: one["Values"] for one in asked["Filters"]}
        return {
            "SecurityGroups": [
                group
                for group in self._region(region).groups.values()
                if group["GroupName"] in wanted["group-name"] and group["VpcId"] in wanted["vpc-id"]
            ]
        }

    def do_CreateSecurityGroup(self, region: str, asked: Asked) -> Asked:
        groups = self._region(region).groups
        if any(group["GroupName"] == asked["GroupName"] for group in groups.values()):
            raise Refused(
                "InvalidGroup.Duplicate", f"The security group '{asked['GroupName']}' ..."
            )
        id = f"sg-{secrets.token_hex(8)}0"
        tags = asked.get("TagSpecifications", [{}])[0].get("Tags", [])
        groups[id] = {
            "GroupId": id,
            "GroupName": asked["GroupName"],
            "VpcId": asked["VpcId"],
            "IpPermissions": [],
            "Tags": tags,
        }
        return {"GroupId": id}

    def do_AuthorizeSecurityGroupIngress(self, region: str, asked: Asked) -> Asked:
        group = self._region(region).groups[asked["GroupId"]]
        for permission in asked["IpPermissions"]:
            if permission in group["IpPermissions"]:
                raise Refused("InvalidPermission.Duplicate", "the specified rule already exists")
            group["IpPermissions"].append(permission)
        return {"Return": True}

    def do_DescribeVolumes(self, region: str, asked: Asked) -> Asked:
        wanted = {one["Name"]: one["Values"] for one in asked["Filters"]}
        live = {one.id.rpartition("/")[2] for one in self.all if one.ended is None}
        rows = []
        for id, volume in self.volumes.items():
            state = "in-use" if volume["instance"] in live else "available"
            if volume["region"] == region and state in wanted["status"] and _tagged(volume, wanted):
                rows.append(
                    {
                        "VolumeId": id,
                        "State": state,
                        "Size": volume["Size"],
                        "CreateTime": volume["created"],
                        "Tags": volume["Tags"],
                    }
                )
        return {"Volumes": rows}

    def do_DeleteVolume(self, region: str, asked: Asked) -> Asked:
        if self.volumes.pop(asked["VolumeId"], None) is None:
            raise Refused("InvalidVolume.NotFound", "The volume does not exist.")
        return {}

    def do_DescribeSpotInstanceRequests(self, region: str, asked: Asked) -> Asked:
        wanted = {one["Name"]: one["Values"] for one in asked["Filters"]}
        return {
            "SpotInstanceRequests": [
                {
                    "SpotInstanceRequestId": id,
                    "State": request["State"],
                    "InstanceId": request.get("InstanceId"),
                    "CreateTime": request["created"],
                    "Tags": request["Tags"],
                }
                for id, request in self.spot_requests.items()
                if request["region"] == region
                and request["State"] in wanted["state"]
                and _tagged(request, wanted)
            ]
        }

    def do_CancelSpotInstanceRequests(self, region: str, asked: Asked) -> Asked:
        for id in asked["SpotInstanceRequestIds"]:
            self.spot_requests[id]["State"] = "cancelled"
        return {
            "CancelledSpotInstanceRequests": [
                {"SpotInstanceRequestId": id, "State": "cancelled"}
                for id in asked["SpotInstanceRequestIds"]
            ]
        }

    def forgotten_disk(self, region: str, tags: list[dict[str, str]], age: float) -> str:
        """Leave a disk behind that no machine has, and return its id."""
        id = f"vol-{secrets.token_hex(8)}0"
        self.volumes[id] = {
            "instance": "i-gone",
            "stays": True,
            "Size": 100,
            "Tags": tags,
            "region": region,
            "created": time.time() - age,
        }
        return id


def _tagged(row: Asked, wanted: dict[str, list[str]]) -> bool:
    tags = {tag["Key"]: tag["Value"] for tag in row["Tags"]}
    asked = {name[4:]: values for name, values in wanted.items() if name.startswith("tag:")}
    return all(tags.get(key) in values for key, values in asked.items())
