"""What SageMaker says of a job, and which orders it refuses."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.clouds.rented import Rented

PAGE = Path(__file__).parents[2] / "docs" / "sagemaker.md"
REGION = "us-east-1"
NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
KINDS = {
    "ml.m5.large": (0.115, "", 0),
    "ml.m5.xlarge": (0.23, "", 0),
    "ml.m5.2xlarge": (0.461, "", 0),
    "ml.g4dn.xlarge": (0.7364, "Tesla T4, 15360, 15100, GPU-1", 1),
    "ml.g4dn.2xlarge": (0.94, "Tesla T4, 15360, 15100, GPU-1", 1),
    "ml.g6.xlarge": (1.127, "NVIDIA L4, 23034, 22500, GPU-1", 1),
    "ml.g5.xlarge": (1.408, "NVIDIA A10G, 23028, 22500, GPU-1", 1),
}
"""USD per hour, what nvidia-smi says of a GPU, and how many there are."""


def tags_of(asked: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a request."""
    return {tag["Key"]: tag["Value"] for tag in asked.get("Tags", ())}


def order_trouble(asked: Mapping[str, Any]) -> str:
    """Return why an order is refused that the model allows; empty if it is not."""
    stopping, resources = asked["StoppingCondition"], asked["ResourceConfig"]
    spot = asked.get("EnableManagedSpotTraining", False)
    longest = stopping.get("MaxRuntimeInSeconds", 86_400)
    wait = stopping.get("MaxWaitTimeInSeconds")
    if not NAME.fullmatch(asked["TrainingJobName"]):
        return "TrainingJobName does not match."
    if resources["InstanceType"] not in KINDS:
        return f"The instance type {resources['InstanceType']} is not supported in this region."
    if spot and wait is None:
        return "MaxWaitTimeInSeconds is needed when EnableManagedSpotTraining is set."
    if wait is not None and not spot:
        return "Invalid MaxWaitTimeInSeconds. It is only allowed with EnableManagedSpotTraining."
    if wait is not None and wait < longest:
        return "Invalid MaxWaitTimeInSeconds. It must be above MaxRuntimeInSeconds."
    if longest > 28 * 86_400:
        return "MaxRuntimeInSeconds is above 28 days."
    if spot and resources.get("KeepAlivePeriodInSeconds"):
        return "KeepAlivePeriodInSeconds is not allowed with EnableManagedSpotTraining."
    if any(
        "tini" in word for word in asked["AlgorithmSpecification"].get("ContainerEntrypoint", ())
    ):
        return "tini is not allowed."
    return ""


def status_of(rented: Rented, word: str) -> str:
    """Return the first status, of which `word` is the second."""
    if word in {"Completed", "Failed", "Stopped"}:
        return word
    return "Stopping" if rented.facts.get("stopping") else "InProgress"


def summary(rented: Rented, word: str) -> dict[str, Any]:
    """Return a job as a list has it."""
    return {
        "TrainingJobName": rented.id,
        "TrainingJobArn": arn(rented.id),
        "CreationTime": rented.created,
        "LastModifiedTime": rented.created,
        "TrainingJobStatus": status_of(rented, word),
        **({"WarmPoolStatus": {"Status": rented.facts["pool"]}} if "pool" in rented.facts else {}),
    }


def described(rented: Rented, word: str) -> dict[str, Any]:
    """Return a job as it is described: with all that was ordered, variables included."""
    asked = rented.facts["asked"]
    copied = {
        *("AlgorithmSpecification", "RoleArn", "InputDataConfig", "OutputDataConfig"),
        *("ResourceConfig", "StoppingCondition", "EnableNetworkIsolation", "VpcConfig"),
        *("EnableManagedSpotTraining", "Environment"),
    }
    status = status_of(rented, word)
    second = "Stopping" if status == "Stopping" else rented.facts.get("stopping", word)
    seconds = int((rented.ended or time.time()) - (rented.started or time.time()))
    return {
        **summary(rented, word),
        **{name: asked[name] for name in copied if name in asked},
        "SecondaryStatus": second if status in {"Stopping", "Stopped"} else word,
        "ModelArtifacts": {"S3ModelArtifacts": f"{asked['OutputDataConfig']['S3OutputPath']}/x"},
        **({"FailureReason": rented.facts["reason"]} if "reason" in rented.facts else {}),
        **({"TrainingStartTime": rented.started} if rented.started else {}),
        **({"TrainingEndTime": rented.ended} if rented.ended else {}),
        **({"BillableTimeInSeconds": max(1, seconds)} if rented.ended else {}),
    }


def permitted() -> set[str]:
    """Return what the least policy of the page permits whoever hires."""
    text = re.findall(r"```json\n(\{.*?\})\n```", PAGE.read_text(), re.DOTALL)[0]
    found: set[str] = set()
    for statement in json.loads(text)["Statement"]:
        actions = statement["Action"]
        found.update([actions] if isinstance(actions, str) else actions)
    return found


def action_of(request: Request) -> str:
    """Return the operation that is asked for."""
    return request.headers.get("x-amz-target", "").rpartition(".")[2]


def arn(name: str) -> str:
    """Return a job's ARN."""
    return f"arn:aws:sagemaker:{REGION}:123456789012:training-job/{name}"


def error(code: str, message: str) -> Response:
    """Return an error as the API has it."""
    return JSONResponse({"__type": code, "message": message}, 400)


def missing() -> Response:
    """Return what is said of a job that does not exist."""
    return error("ValidationException", "Requested resource not found.")
