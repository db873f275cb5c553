"""An order of a training job: what it asks for, and what it carries."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blocks.machines.mailbox.packing import variables
from blocks.marks import Mark, installation_id
from blocks.models import Offer
from blocks.providers.sagemaker.kinds import BY_NAME, DEFAULT_DISK_GB
from trainer.contract.errors import ConfigError

TAG = "training-orchestrator"
"""Key of the tag that is the mark: a job's name is its first mark and never changes."""
CHANNEL = "agent"
INPUT = f"/opt/ml/input/data/{CHANNEL}"  # where a job finds its channel
HOME = "/tmp/training-orchestrator"  # noqa: S108 - on the disk that is ordered, not in the image
LONGEST_SECONDS = 28 * 86_400
WEEK_SECONDS = 7 * 86_400
SPOT_WAIT_SECONDS = 3600  # for a spot machine to be found, besides its time
REPOSITORY = "huggingface-pytorch-training:2.9.0-transformers5.3.0-gpu-py312-cu130-ubuntu22.04"
ACCOUNTS = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-northeast-3": "364406365360",
    "ap-southeast-3": "907027046896",
    "eu-south-1": "692866216735",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
}
"""Amazon's own accounts that have the image, where it is not the usual one."""
USUAL_ACCOUNT = "763104351884"
ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/\S+")


def image_in(region: str) -> str:
    """Return the image that jobs run in."""
    account = ACCOUNTS.get(region, USUAL_ACCOUNT)
    return f"{account}.dkr.ecr.{region}.amazonaws.com/{REPOSITORY}"


def checked_role(role: str) -> str:
    """Return the role of the jobs.

    Raises:
        ConfigError: it is not the ARN of one.
    """
    if not ROLE.fullmatch(role):
        raise ConfigError(
            f"SAGEMAKER_ROLE = {role!r} is not the ARN of a role.",
            "Set it, or role of the block, to such as arn:aws:iam::123456789012:role/training.",
        )
    return role


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every job of an account is ordered with."""

    role: str
    image: str
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()


def order(
    offer: Offer, mark: Mark, mailbox: str, surroundings: Surroundings, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of CreateTrainingJob. They are shown to whoever may describe the job.

    Args:
        offer: one of `offers`.
        mark: what it bears.
        mailbox: URL of its part of the bucket, where its agent lies below start/.
        surroundings: of the account.
        options: settings of the bucket's store for the agent, such as an endpoint.
    """
    kind = BY_NAME[offer.instance_type]
    seconds = min(LONGEST_SECONDS, math.ceil(offer.lives_seconds or WEEK_SECONDS))
    stopping = {"MaxRuntimeInSeconds": seconds}
    if offer.spot:  # only then: without spot the service refuses it
        stopping["MaxWaitTimeInSeconds"] = min(LONGEST_SECONDS, seconds + SPOT_WAIT_SECONDS)
        stopping["MaxRuntimeInSeconds"] = min(seconds, stopping["MaxWaitTimeInSeconds"])
    asked: dict[str, Any] = {
        "TrainingJobName": str(mark),
        "RoleArn": surroundings.role,
        "AlgorithmSpecification": {
            "TrainingImage": surroundings.image,
            "TrainingInputMode": "File",
            # Directly, so that it is the process which gets the signal at the end.
            "ContainerEntrypoint": ["python3", f"{INPUT}/agent.pyz"],
        },
        "InputDataConfig": [
            {
                "ChannelName": CHANNEL,
                "DataSource": {
                    "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{mailbox}/start/"}
                },
            }
        ],
        # Nothing is left in /opt/ml/model: what it makes comes home through the mailbox.
        "OutputDataConfig": {"S3OutputPath": f"{mailbox}/result", "CompressionType": "NONE"},
        "ResourceConfig": {
            "InstanceType": kind.name,
            "InstanceCount": 1,
            "VolumeSizeInGB": math.ceil(kind.own_disk_gb or offer.disk_gb or DEFAULT_DISK_GB),
        },
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": offer.spot,
        # With it the container could reach no bucket.
        "EnableNetworkIsolation": False,
        "Environment": variables(mailbox, options, home=HOME, first_script=f"{INPUT}/first.sh"),
        "Tags": [
            {"Key": TAG, "Value": str(mark)},
            {"Key": f"{TAG}-installation", "Value": installation_id()},
        ],
    }
    if surroundings.subnets:
        asked["VpcConfig"] = {
            "Subnets": list(surroundings.subnets),
            "SecurityGroupIds": list(surroundings.security_groups),
        }
    return asked
