"""How the local Google Cloud writes down what it has."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.clouds.gcp_catalog import ZONES
from tests.clouds.gcp_operations import stamp
from tests.clouds.rented import Rented

if TYPE_CHECKING:
    from tests.clouds.gcp import GoogleCloud

EMPTY = {"code": "NO_RESULTS_ON_PAGE", "message": "There are no results for scope on this page."}
AWAY = {"code": "UNREACHABLE", "message": "The scope could not be reached."}


def instance_json(cloud: GoogleCloud, rented: Rented) -> dict[str, Any]:
    """Return an instance; its address is there when it runs."""
    asked, zone = rented.facts["asked"], f"{cloud.project_url}/zones/{rented.facts['zone']}"
    public = {"natIP": rented.address} if rented.started is not None else {}
    faces = [
        {
            "network": f"{cloud.project_url}/global/networks/default",
            "networkIP": rented.address,
            "accessConfigs": [{**config, **public} for config in face.get("accessConfigs", [])],
        }
        for face in asked["networkInterfaces"]
    ]
    disks = [
        {
            "boot": True,
            "type": "PERSISTENT",
            "autoDelete": disk.get("autoDelete", False),
            "diskSizeGb": disk["initializeParams"]["diskSizeGb"],
            "source": f"{zone}/disks/{rented.facts['name']}",
        }
        for disk in asked["disks"]
    ]
    known = {
        name: asked[name]
        for name in ("metadata", "scheduling", "serviceAccounts", "tags")
        if name in asked
    }
    if "guestAccelerators" in asked:
        known["guestAccelerators"] = [
            {**one, "acceleratorType": f"{zone}/{one['acceleratorType'].partition('/')[2]}"}
            for one in asked["guestAccelerators"]
        ]
    return {
        "kind": "compute#instance",
        "id": number(rented.id),
        "name": rented.facts["name"],
        "zone": zone,
        "machineType": f"{cloud.project_url}/{asked['machineType']}",
        "status": cloud.word(rented),
        "labels": {**asked.get("labels", {}), "to-name": rented.name},
        "labelFingerprint": fingerprint(rented),
        "creationTimestamp": stamp(rented.created),
        "disks": disks,
        "networkInterfaces": faces,
        **known,
    }


def disk_json(cloud: GoogleCloud, id: str, mark: str, made: float) -> dict[str, Any]:
    """Return a disk that no machine has."""
    zone, _, name = id.partition("/")
    return {
        "kind": "compute#disk",
        "id": number(id),
        "name": name,
        "zone": f"{cloud.project_url}/zones/{zone}",
        "sizeGb": "100",
        "status": "READY",
        "labels": {"to-name": mark},
        "creationTimestamp": stamp(made),
    }


def page_of(
    cloud: GoogleCloud, request: Request, kind: str, rows: Sequence[tuple[str, dict[str, Any]]]
) -> Response:
    """Return one page of an aggregated list: every zone, the empty ones with a warning."""
    query = request.query_params
    assert query.get("filter", "labels.to-name:*") == "labels.to-name:*", query["filter"]
    begin = int(query.get("pageToken", 0))
    end = begin + min(int(query.get("maxResults", 500)), cloud.page)
    items: dict[str, Any] = {
        f"zones/{region}-{letter}": {"warning": EMPTY}
        for region, letters in ZONES.items()
        for letter in letters
    }
    for zone, row in rows[begin:end]:
        part = items.setdefault(f"zones/{zone}", {})
        part.pop("warning", None)
        part.setdefault(kind, []).append(row)
    for zone in cloud.unreachable:
        items[f"zones/{zone}"] = {"warning": AWAY}
    more = {"nextPageToken": str(end)} if end < len(rows) else {}
    return JSONResponse({"kind": f"compute#{kind}AggregatedList", "items": items, **more})


def fingerprint(rented: Rented) -> str:
    """Return what changes with the labels."""
    return base64.b64encode(hashlib.sha256(rented.name.encode()).digest()[:8]).decode()


def number(text: str) -> str:
    """Return an id: a number in a string, as every 64-bit number travels."""
    return str(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
