"""The order of a virtual machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from blocks.marks import Mark, installation_id
from blocks.models import Offer
from blocks.providers.by_store import Reached
from blocks.providers.gcp.answers import LABEL, MAILBOX
from blocks.providers.gcp.table import KINDS, TYPE_OF_DISK

LEAST_SECONDS = 30
MOST_SECONDS = 120 * 24 * 3600
"""What `maxRunDuration` may be."""
NOTICE_SECONDS = 120
"""Between the notice and the end of a spot machine; only this or none is possible."""
SCOPES = ("compute", "devstorage.read_write")
"""What machines use their service account for: to end themselves, and for stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSettings:
    """What the account is set up with."""

    user: str
    image: str
    """An image family, such as projects/P/global/images/family/F."""
    network: str
    """Its full name, such as global/networks/default."""
    subnetwork: str
    """Its name in the region; empty: by the network."""
    public: bool
    """Whether machines get an address of their own."""
    tag: str
    """Network tag by which the firewall rule applies; empty: none."""
    service_account: str
    """Whose token machines get, to delete themselves; empty: none."""
    reached: Reached
    """How the machine is reached."""


def request_id(zone: str, name: str) -> str:
    """Return the id of an order: another process that sends it again is given the first one's fate."""
    return str(uuid5(NAMESPACE_URL, f"training-orchestrator:insert:{zone}/{name}"))


def order(
    offer: Offer, mark: Mark, ssh_public_key: str, first_script: str, settings: OrderSettings
) -> dict[str, Any]:
    """Return the body of an insert."""
    kind = KINDS[offer.instance_type]
    labels = {LABEL: str(mark), "to-installation": installation_id()}
    disk_type = TYPE_OF_DISK.get(kind.place, "pd-balanced")
    body: dict[str, Any] = {
        "name": str(mark),
        "machineType": f"zones/{offer.zone}/machineTypes/{kind.machine}",
        "labels": labels,
        "disks": [
            {
                "boot": True,
                # An insert leaves new disks behind unless it says this.
                "autoDelete": True,
                "initializeParams": {
                    "sourceImage": settings.image,
                    "diskSizeGb": str(int(offer.storage_gb)),
                    "diskType": f"zones/{offer.zone}/diskTypes/{disk_type}",
                    # By these a disk is found that something left behind all the same.
                    "labels": labels,
                },
            }
        ],
        "networkInterfaces": [_face(offer, settings)],
        "metadata": {"items": _metadata(ssh_public_key, first_script, settings)},
        "scheduling": _scheduling(offer),
    }
    if kind.accelerator:
        accelerator = f"zones/{offer.zone}/acceleratorTypes/{kind.accelerator}"
        body["guestAccelerators"] = [
            {"acceleratorType": accelerator, "acceleratorCount": kind.count}
        ]
    if settings.tag:
        body["tags"] = {"items": [settings.tag]}
    # None unless it is configured: the default account's would give away the whole project.
    if settings.service_account:
        # Scopes only bound what the account may do by its roles.
        scopes = [f"https://www.googleapis.com/auth/{name}" for name in SCOPES]
        body["serviceAccounts"] = [{"email": settings.service_account, "scopes": scopes}]
    return body


def _face(offer: Offer, settings: OrderSettings) -> dict[str, Any]:
    face: dict[str, Any] = (
        {"subnetwork": f"regions/{offer.region}/subnetworks/{settings.subnetwork}"}
        if settings.subnetwork
        else {"network": settings.network}
    )
    if settings.public:
        face["accessConfigs"] = [{"name": "external", "type": "ONE_TO_ONE_NAT"}]
    return face


def _metadata(key: str, first_script: str, settings: OrderSettings) -> list[dict[str, str]]:
    # Beside each other: each goes on for as long as the machine lives.
    agent = [f"({settings.reached.script}) &"] if settings.reached.script else []
    scripts = [*agent, *filter(None, [first_script]), *(["wait"] if agent else [])]
    values = {
        "ssh-keys": "" if settings.reached.mailbox else f"{settings.user}:{key}",
        MAILBOX: settings.reached.mailbox,
        # Where the project has OS Login switched on, keys of metadata are not looked at.
        "enable-oslogin": "FALSE",
        "block-project-ssh-keys": "TRUE",
        "install-nvidia-driver": "True",
        "startup-script": "\n".join(["#!/bin/sh", *scripts, ""]) if scripts else "",
    }
    return [{"key": name, "value": value} for name, value in values.items() if value]


def _scheduling(offer: Offer) -> dict[str, Any]:
    scheduling: dict[str, Any] = {
        # A machine that restarts after a fault of its host has lost its training: another is hired.
        "automaticRestart": False,
        "onHostMaintenance": "TERMINATE",
    }
    if offer.spot:
        scheduling |= {
            "provisioningModel": "SPOT",
            "preemptionNoticeDuration": {"seconds": str(NOTICE_SECONDS)},
        }
    if offer.lives_seconds is not None:
        seconds = min(max(int(offer.lives_seconds), LEAST_SECONDS), MOST_SECONDS)
        scheduling["maxRunDuration"] = {"seconds": str(seconds)}
    if offer.spot or offer.lives_seconds is not None:
        # Written out: by default it is stopped, and its disk is billed on.
        scheduling["instanceTerminationAction"] = "DELETE"
    return scheduling
