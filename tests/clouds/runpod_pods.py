"""How RunPod shows a pod."""

from __future__ import annotations

import getpass
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.clouds.cloud import Rented
from tests.clouds.runpod_requests import CreatePod

if TYPE_CHECKING:
    from tests.clouds.runpod import RunPodCloud

ACTIONS = {
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["start", "terminate"],
}


def pod_json(cloud: RunPodCloud, pod: Rented) -> dict[str, Any]:
    """Return a pod as it is now."""
    asked: CreatePod = pod.facts["asked"]
    return {
        **_container(asked),
        "id": pod.id,
        "name": pod.name,
        "env": pod.facts["env"],
        "status": cloud.word(pod),
        "actions": ACTIONS[pod.status],
        **asked.shape(),
        "cloud": asked.cloud,
        "dataCenterId": pod.facts["dc"],
        "cudaVersion": "12.8" if asked.gpu else None,
        "ssh": {"proxy": _proxy(pod), "direct": _direct(cloud, pod)},
        "cost": 0.0 if pod.status in {"EXITED", "ERROR"} else pod.price_per_hour,
        "locked": pod.facts["locked"],
        # By the schema null; the provider's own example has an empty object.
        "runtime": _runtime(pod) if pod.status == "RUNNING" else {},
        "createdAt": _stamp(pod.created),
        "startedAt": _stamp(pod.started) if pod.started else None,
    }


def _container(asked: CreatePod) -> dict[str, Any]:
    return {
        "image": asked.image,
        "args": asked.args,
        "disk": asked.disk or 20,
        "ports": asked.ports,
        "mounts": {},
        "registry": None,
        "template": None,
        "globalNetworking": {"enabled": False},
    }


def _proxy(pod: Rented) -> Any:
    """Return the way in that the console shows first, and that offers nothing but a shell."""
    if pod.status == "EXITED":
        return None
    return _endpoint("ssh.runpod.io", 22, f"{pod.id}-{pod.key[:8]}")


def _direct(cloud: RunPodCloud, pod: Rented) -> Any:
    ready = pod.started is not None and time.time() >= pod.started + cloud.direct_delay
    if pod.status != "RUNNING" or not ready or "22/tcp" not in pod.facts["asked"].ports:
        return None
    return _endpoint("127.0.0.1", pod.port, getpass.getuser())


def _endpoint(host: str, port: int, user: str) -> dict[str, Any]:
    command = f"ssh {user}@{host} -p {port}"
    return {"host": host, "port": port, "username": user, "command": command}


def _runtime(pod: Rented) -> dict[str, Any]:
    return {
        "uptime": int(time.time() - (pod.started or time.time())),
        "gpus": [],
        "cpu": {"util": 1},
        "memory": {"util": 1},
        "ports": [{"private": 22, "public": pod.port, "type": "tcp", "ip": "127.0.0.1"}],
    }


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
