"""What is put into an order: the image, what the machine does first, and the request itself."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from dataclasses import dataclass
from typing import Any

from blocks.first_script import AGAIN_SECONDS
from blocks.marks import Mark
from blocks.models import Offer
from blocks.providers.aws.answers import DISK_TAG, MAILBOX_TAG
from blocks.providers.aws.client import Aws
from blocks.providers.aws.kinds import KINDS
from blocks.providers.aws.network import tags
from blocks.providers.boto import Refusal
from trainer.contract.errors import ConfigError, OrchestratorError, ProviderError

IMAGE_SECONDS = 3600.0  # how old what is known of an image may be
DISK_GIB = 60.0  # of free disk, when a job does not say
IMAGE_GIB = 75.0  # that images usually take
MOST_USER_DATA = 16 * 1024  # bytes
SSM = {
    True: "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/"
    "ami-id",
    False: "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
}
"""Public parameters that hold the newest image's id, by whether there are GPUs."""
PATTERNS = {
    True: ("898082745236", "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04)*"),
    False: ("099720109477", "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-*"),
}
"""The same by their owner's account and name, for those who may not read parameters."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a machine starts from."""

    id: str
    device: str
    """The name of its first disk."""
    gib: float
    """How large that disk is at least."""


async def image_for(aws: Aws, setting: str, *, gpu: bool) -> Image:
    """Return the image to start machines from in a region.

    Args:
        aws: the region.
        setting: an AMI's id, an SSM parameter with a leading slash, or a pattern of names of images
            of Amazon or of the account; empty: NVIDIA's driver on Ubuntu 24.04, or Ubuntu alone.
        gpu: whether the machine has GPUs.

    Raises:
        ConfigError: there is none.
        OrchestratorError: AWS cannot be asked.
    """

    async def fetch() -> Image:
        if not setting:
            return await _usual(aws, gpu=gpu)
        if setting.startswith("/"):
            return await _by_id(aws, await _parameter(aws, setting))
        if setting.startswith("ami-"):
            return await _by_id(aws, setting)
        return await _newest(aws, ["self", "amazon"], setting)

    return await aws.shared(f"image {setting or gpu}", IMAGE_SECONDS, fetch)


async def _usual(aws: Aws, *, gpu: bool) -> Image:
    try:
        return await _by_id(aws, await _parameter(aws, SSM[gpu]))
    except OrchestratorError:  # not permitted, or not there: names will do
        owner, pattern = PATTERNS[gpu]
        return await _newest(aws, [owner], pattern)


async def _parameter(aws: Aws, name: str) -> str:
    try:
        answer = await aws.ask(
            "ssm", "GetParameter", {"Name": name}, expected={"ParameterNotFound"}
        )
    except Refusal as refusal:
        raise ConfigError(f"AWS has no parameter {name} in {aws.region}.", _CORRECT) from refusal
    parameter = answer.get("Parameter")
    value = parameter.get("Value") if isinstance(parameter, dict) else None
    if not (isinstance(value, str) and value.startswith("ami-")):
        raise ConfigError(f"AWS's parameter {name} in {aws.region} is no image.", _CORRECT)
    return value


async def _by_id(aws: Aws, id: str) -> Image:
    return _first(await aws.rows("DescribeImages", {"ImageIds": [id]}, "Images"), id, aws.region)


async def _newest(aws: Aws, owners: list[str], pattern: str) -> Image:
    filters = {"name": pattern, "architecture": "x86_64", "state": "available"}
    request = {
        "Owners": owners,
        "Filters": [{"Name": name, "Values": [value]} for name, value in filters.items()],
    }
    found = await aws.rows("DescribeImages", request, "Images")
    found.sort(key=lambda row: str(row.get("CreationDate") or ""), reverse=True)
    return _first(found, pattern, aws.region)


def _first(found: list[dict[str, Any]], what: str, region: str) -> Image:
    if not found:
        raise ConfigError(f"AWS has no image {what} in {region}.", _CORRECT)
    row = found[0]
    device = str(row.get("RootDeviceName") or "/dev/sda1")
    disks = [d for d in row.get("BlockDeviceMappings") or () if d.get("DeviceName") == device]
    size = (disks[0].get("Ebs") or {}).get("VolumeSize") if disks else None
    if not (isinstance(row.get("ImageId"), str) and isinstance(size, int | float)):
        raise ProviderError(f"AWS does not say how large image {what} in {region} is.")
    return Image(row["ImageId"], device, float(size))


_CORRECT = "Set AWS_IMAGE to an AMI, an SSM parameter or a pattern of names, or remove it."


def first_boot(public_key: str, *scripts: str) -> str:
    """Return user data for cloud-init: who may log in, and what runs from the first second on.

    Args:
        public_key: who may; empty: nobody.
        scripts: of sh; empty ones are left out.

    Raises:
        ProviderError: it is longer than AWS takes.
    """
    begin = [
        # An upgrade of the driver under a running job would end it.
        "systemctl mask --now unattended-upgrades apt-daily.timer apt-daily-upgrade.timer"
    ]
    for script in filter(None, scripts):
        # From a file, because systemd would expand variables in arguments; and as a unit of its own,
        # because what cloud-init starts may end with cloud-init.
        begin += [
            f'script=$(mktemp) && printf %s {shlex.quote(script)} >"$script"',
            'systemd-run --no-block --collect --setenv=HOME=/root sh "$script" 2>/dev/null'
            ' || setsid sh "$script" </dev/null >/dev/null 2>&1 &',
        ]
    # JSON is YAML. The commands run at each boot, before anything else of ours can.
    config = {
        "ssh_authorized_keys": [key] if (key := public_key.strip()) else [],
        "package_update": False,
        "package_upgrade": False,
        "bootcmd": [["sh", "-c", "\n".join(begin)]],
    }
    text = f"#cloud-config\n{json.dumps(config)}\n"
    if len(text.encode()) > MOST_USER_DATA:
        raise ProviderError(f"The machine's first script has more than {MOST_USER_DATA} bytes.")
    return text


def last_moment(seconds: float | None, shutdown_command: str) -> str:
    """Return sh that ends its machine after so many seconds, whatever becomes of everybody."""
    if seconds is None:
        return ""
    again = f"while :; do {shutdown_command}; sleep {AGAIN_SECONDS}; done"
    return f"sleep {math.ceil(seconds)}; {again}"


def token_of(offer: Offer, mark: Mark) -> str:
    """Return the token by which AWS knows the same order again.

    It holds within a zone only, and a different order under it is an error: so it is of this mark
    for this offer, and in another zone or of another kind another one.
    """
    words = (str(mark), offer.zone, offer.instance_type, "spot" if offer.spot else "")
    return hashlib.sha256("|".join(words).encode()).hexdigest()  # 64 characters, the most it takes


def order_for(
    offer: Offer,
    mark: Mark,
    *,
    image: Image,
    subnet: str,
    group: str,
    profile: str,
    user_data: str,
    mailbox: str = "",
) -> dict[str, Any]:
    """Return the request of RunInstances.

    Args:
        offer: what is ordered.
        mark: whose it is.
        image: what it starts from.
        subnet: where it stands.
        group: id of its security group; empty: the VPC's default one.
        profile: name or ARN of its instance profile; empty: none.
        user_data: for its first boot.
        mailbox: by whose address it is reached; empty: by one of its own, over SSH.
    """
    name = str(mark)
    disk = {
        "VolumeSize": volume_gib(offer.disk_gb, image.gib),
        "VolumeType": "gp3",
        "Encrypted": True,
        "DeleteOnTermination": True,
    }
    card = {
        "DeviceIndex": 0,
        "SubnetId": subnet,
        **({"Groups": [group]} if group else {}),
        "AssociatePublicIpAddress": not mailbox,
        "DeleteOnTermination": True,
    }
    bear = ["instance", "volume", "network-interface"]
    request: dict[str, Any] = {
        "ClientToken": token_of(offer, mark),
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": image.id,
        "InstanceType": offer.instance_type,
        "UserData": user_data,
        # The dead man's switch: the default is to stop, and a stopped machine's disk is billed.
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 2,
            "HttpEndpoint": "enabled",
            "InstanceMetadataTags": "enabled",
        },
        "NetworkInterfaces": [card],
        "BlockDeviceMappings": [{"DeviceName": image.device, "Ebs": disk}],
    }
    if offer.spot:
        # One-time, so that nothing starts a machine anew after its end; without a highest price,
        # which only makes it be taken back more often.
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
        bear.append("spot-instances-request")
    if profile:
        key = "Arn" if profile.startswith("arn:") else "Name"
        request["IamInstanceProfile"] = {key: profile}
    told = [*tags(name), {"Key": DISK_TAG, "Value": str(disk["VolumeSize"])}]
    if mailbox:
        told.append({"Key": MAILBOX_TAG, "Value": mailbox})
    request["TagSpecifications"] = [{"ResourceType": kind, "Tags": told} for kind in bear]
    return request


def volume_gib(free_gib: float | None, image_gib: float) -> int:
    """Return the GiB of the disk to order: the image, and what is to be free beside it."""
    return math.ceil(image_gib + (free_gib or DISK_GIB))


def has_gpu(offer: Offer) -> bool:
    """Whether a machine needs the image with NVIDIA's driver."""
    kind = KINDS.get(offer.instance_type)
    return bool(kind.gpu if kind else offer.gpu_type)
