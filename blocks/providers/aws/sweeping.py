"""What an end of a machine may leave behind at EC2: a disk that is billed, a request that hires anew."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from blocks.marks import installation_id
from blocks.providers.aws.client import Aws
from trainer.contract.errors import ProviderError

logger = logging.getLogger(__name__)

IDLE_SECONDS = 900.0  # for which a disk may wait for its machine


async def sweep_region(aws: Aws) -> None:
    """Remove the disks and spot requests of this installation that belong to no instance.

    Raises:
        OrchestratorError: AWS cannot be asked, or refuses.
    """
    for volume in await _ours(aws, "DescribeVolumes", "status", ["available"], "Volumes"):
        if _is_old(volume.get("CreateTime")) and volume.get("VolumeId"):
            logger.info(
                "disk %s in %s belongs to no machine: removed", volume["VolumeId"], aws.region
            )
            try:
                await aws.ask("ec2", "DeleteVolume", {"VolumeId": volume["VolumeId"]})
            except ProviderError as error:  # one that stays hinders no other's end
                logger.warning("disk %s stays for now: %s", volume["VolumeId"], error)
    requests = await _ours(
        aws, "DescribeSpotInstanceRequests", "state", ["open"], "SpotInstanceRequests"
    )
    for request in requests:
        # One that is open may still be fulfilled, long after its order was given up.
        if _is_old(request.get("CreateTime")) and (id := request.get("SpotInstanceRequestId")):
            logger.info("spot request %s in %s waits for nobody: cancelled", id, aws.region)
            await aws.ask("ec2", "CancelSpotInstanceRequests", {"SpotInstanceRequestIds": [id]})


async def _ours(
    aws: Aws, operation: str, state: str, states: list[str], name: str
) -> list[dict[str, Any]]:
    filters = {"tag:installation": [installation_id()], state: states}
    request = {"Filters": [{"Name": key, "Values": values} for key, values in filters.items()]}
    return await aws.rows(operation, request, name)


def _is_old(created: Any) -> bool:
    if not isinstance(created, datetime):
        return False
    return (datetime.now(UTC) - created).total_seconds() > IDLE_SECONDS
