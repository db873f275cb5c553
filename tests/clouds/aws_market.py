"""What the local AWS says of types, prices, quotas and images."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.clouds.aws_catalog import IMAGES, PARAMETERS
from tests.clouds.aws_wire import Refused

if TYPE_CHECKING:
    from tests.clouds.aws import AwsCloud as Base
else:
    Base = object


class MarketAnswers(Base):
    """What can be had, and for how much."""

    def spot_price(self, name: str) -> float:
        """Return what a type costs as a spot machine now."""
        return round(self.types[name].price * self.spot_factor, 6)

    def do_DescribeInstanceTypeOfferings(self, region: str, asked: dict[str, Any]) -> Any:
        wanted = asked["Filters"][0]["Values"]
        return {
            "InstanceTypeOfferings": [
                {
                    "InstanceType": kind.name,
                    "LocationType": "availability-zone",
                    "Location": f"{region}{z}",
                }
                for kind in self.types.values()
                if kind.name in wanted
                for z in self._region(region).zones
                if z in kind.zones
            ]
        }

    def do_DescribeSpotPriceHistory(self, region: str, asked: dict[str, Any]) -> Any:
        now = datetime.now(UTC)
        return {
            "SpotPriceHistory": [
                {
                    "AvailabilityZone": f"{region}{zone}",
                    "InstanceType": kind.name,
                    "ProductDescription": "Linux/UNIX",
                    "SpotPrice": f"{self.spot_price(kind.name):.6f}",
                    "Timestamp": now,
                }
                for kind in self.types.values()
                if kind.name in asked["InstanceTypes"]
                for zone in self._region(region).zones
                if zone in kind.zones
            ],
            "NextToken": "",
        }

    def do_DescribeImages(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        ids = asked.get("ImageIds", [])
        named = [f["Values"][0] for f in asked.get("Filters", ()) if f["Name"] == "name"]
        pattern = re.escape(named[0]).replace(r"\*", ".*") if named else ".*"
        found = [
            {
                "ImageId": id,
                "Name": name,
                "CreationDate": "2026-11-01T00:00:00.000Z",
                "RootDeviceName": "/dev/sda1",
                "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": size}}],
            }
            for id, (name, size) in IMAGES.items()
            if (id in ids if ids else re.fullmatch(pattern, name))
        ]
        if ids and not found:
            raise Refused("InvalidAMIID.NotFound", f"The image ids {ids} do not exist")
        return {"Images": found}

    def do_GetParameter(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["Name"] not in PARAMETERS:
            raise Refused("ParameterNotFound", "")
        return {"Parameter": {"Name": asked["Name"], "Value": PARAMETERS[asked["Name"]]}}

    def do_GetServiceQuota(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        return {
            "Quota": {"QuotaCode": asked["QuotaCode"], "Value": self.quotas[asked["QuotaCode"]]}
        }

    def do_GetProducts(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        wanted = {one["Field"]: one["Value"] for one in asked["Filters"]}
        kind = self.types.get(wanted["instanceType"])
        if kind is None:
            return {"FormatVersion": "aws_v1", "PriceList": []}
        dimension = {"unit": "Hrs", "pricePerUnit": {"USD": f"{kind.price:.10f}"}}
        terms = {"OnDemand": {"X.JRTCKXETXF": {"priceDimensions": {"X.6YS6EN2CT7": dimension}}}}
        product = {"product": {"attributes": wanted}, "terms": terms}
        return {"FormatVersion": "aws_v1", "PriceList": [json.dumps(product)]}
