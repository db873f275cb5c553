"""What the local Azure refuses of an order of a machine, before it makes anything."""

from __future__ import annotations

import base64
import getpass
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

if TYPE_CHECKING:
    from tests.clouds.azure import AzureCloud

NAMES = {"root", "admin", "administrator", "user", "test", "guest", "backup", "sys", "console"}
"""Login names that Azure refuses; a machine of the tests has no user but that of the tests."""
IMAGES = {("microsoft-dsvm", "ubuntu-hpc", "2204"), ("microsoft-dsvm", "ubuntu-hpc", "2404")}
IMAGE_GB = 64


def refusal(cloud: AzureCloud, asked: Mapping[str, Any], name: str) -> Response | None:
    """Return why an order is refused; None when it is accepted."""
    from tests.clouds.azure_routes import error

    if cloud.policy:
        words = f"Resource '{name}' was disallowed by policy. {cloud.policy}"
        return error(403, "RequestDisallowedByPolicy", words)
    if cloud.no_funds:
        return error(409, "ReadOnlyDisabledSubscription", "The subscription is disabled.")
    for code, words in wrong(cloud, asked, name):
        return error(400, code, words)
    facts, location = asked["properties"], asked["location"].lower()
    size = cloud.sizes[facts["hardwareProfile"]["vmSize"]]
    if cloud.sold_out(size.name, location, f"{size.name}@{location}"):
        words = f"The requested VM size {size.name} is currently not available in {location}."
        return error(409, "SkuNotAvailable", words)
    spot = facts.get("priority") == "Spot"
    for quota in ("lowPriorityCores",) if spot else ("cores", size.family):
        limit, used = cloud.limits[location][quota], cloud.used(location, quota)
        if used + size.vcpus > limit:
            shown = {"cores": "Total Regional", "lowPriorityCores": "LowPriorityCores"}
            return error(
                409,
                "OperationNotAllowed",
                "Operation could not be completed as it results in exceeding approved "
                f"{shown.get(quota, quota)} Cores quota. Additional details - Deployment Model: "
                f"Resource Manager, Location: {location}, Current Limit: {limit}, Current Usage: "
                f"{used}, Additional Required: {size.vcpus}, (Minimum) New Limit Required: "
                f"{used + size.vcpus}. Setup Alerts when Quota reaches threshold.",
            )
    return None


def wrong(cloud: AzureCloud, asked: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Yield the code and the words of everything that is not allowed."""
    facts, location = asked["properties"], asked["location"].lower()
    system, invalid = facts["osProfile"], "InvalidParameter"
    if location not in cloud.limits:
        yield "LocationNotAvailableForResourceType", f"The location {location} is not available."
        return
    if facts["hardwareProfile"]["vmSize"] not in cloud.sizes:
        yield invalid, "The value of parameter vmSize is invalid."
    if not re.fullmatch(r"[a-z0-9-]{1,64}", name) or len(system["computerName"]) > 64:
        yield invalid, "The value of parameter name is invalid."
    user = system["adminUsername"]
    if user in NAMES - {getpass.getuser()}:
        yield invalid, "The Admin Username specified is not allowed."
    for key in system["linuxConfiguration"]["ssh"]["publicKeys"]:
        if not key["keyData"].startswith(("ssh-ed25519 ", "ssh-rsa ")):
            yield invalid, "The value of parameter linuxConfiguration.ssh.publicKeys is invalid."
        if key["path"] != f"/home/{user}/.ssh/authorized_keys":
            yield invalid, "Destination path for SSH public keys is limited to its default value."
    if len(base64.b64decode(system.get("customData", ""), validate=True)) > 65_535:
        yield invalid, "Custom data is too long."
    yield from _wrong_rest(cloud, facts, location)


def _wrong_rest(
    cloud: AzureCloud, facts: Mapping[str, Any], location: str
) -> Iterator[tuple[str, str]]:
    invalid = "InvalidParameter"
    image = facts["storageProfile"]["imageReference"]
    if (image["publisher"], image["offer"], image["sku"]) not in IMAGES:
        yield "PlatformImageNotFound", f"The platform image {image} is not available."
    if facts["storageProfile"]["osDisk"].get("diskSizeGB", IMAGE_GB) < IMAGE_GB:
        yield invalid, "The disk is smaller than that of the image."
    # Azure takes trusted launch for what an order does not say; then NVIDIA's driver does not load.
    if (facts.get("securityProfile") or {}).get("securityType") != "Standard":
        yield "BadRequest", "Secure boot keeps the driver of this image from loading."
    if facts.get("priority", "Regular") != "Spot" and {"evictionPolicy", "billingProfile"} & {
        *facts
    }:
        yield "BadRequest", "Eviction policy can be set only on Azure Spot Virtual Machines."
    yield from _wrong_network(cloud, facts, location)


def _wrong_network(
    cloud: AzureCloud, facts: Mapping[str, Any], location: str
) -> Iterator[tuple[str, str]]:
    invalid = "InvalidParameter"
    if "networkApiVersion" not in facts["networkProfile"]:
        yield invalid, "networkApiVersion is required with networkInterfaceConfigurations."
    for card in facts["networkProfile"]["networkInterfaceConfigurations"]:
        for inner in card["properties"]["ipConfigurations"]:
            own = inner["properties"]
            network, _, subnet = own["subnet"]["id"].partition("/subnets/")
            found = cloud.network_at(network)
            if not found or found["location"] != location:
                yield "InvalidResourceReference", f"Resource {network} was not found."
            elif subnet not in [one["name"] for one in found["properties"]["subnets"]]:
                yield "InvalidResourceReference", f"Resource {subnet} was not found."
            address = own.get("publicIPAddressConfiguration") or {}
            if address and address.get("sku", {}).get("name") != "Standard":
                yield invalid, "Basic public addresses are retired."
