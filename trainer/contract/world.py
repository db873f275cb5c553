"""Which processes train one job together. Standard library only.

`job.json` describes them in its entry `world`:

    processes      of all machines together, the same number on each
    nodes          how many machines there are
    node_rank      which of them this one is, from 0
    master_addr    where the processes meet: an address of the first machine
    master_port    its port; with one machine any free one is taken
    batch_divisor, learning_rate_factor    as in the status, for all machines alike

Each process finds RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in
its environment, as torch has it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.contract.errors import ConfigError

HERE = "127.0.0.1"
TIMEOUT_VARIABLE = "TRAINER_COLLECTIVE_SECONDS"
TIMEOUT_SHARE = 0.75  # of the stall timeout: a rank that hangs is an error before it is a stall


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Who trains together; see the top of this file."""

    processes: int = 1
    nodes: int = 1
    node_rank: int = 0
    master_addr: str = HERE
    master_port: int = 0
    """0: any that is free."""
    batch_divisor: int = 1
    """What the batch size is divided by at least: memory ran out on one of the machines."""
    learning_rate_factor: float = 1.0
    """What the learning rate is multiplied by at most: the loss was NaN or infinite once."""

    @property
    def leads(self) -> bool:
        """Whether this machine reports how the job stands; the others take part."""
        return self.node_rank == 0

    @property
    def processes_here(self) -> int:
        """How many processes this machine runs."""
        return self.processes // self.nodes

    def rank_of(self, local_rank: int) -> int:
        """Return the rank among all processes of one on this machine."""
        return self.node_rank * self.processes_here + local_rank

    def variables(self, local_rank: int, port: int, stall_seconds: float) -> dict[str, str]:
        """Return what one process finds in its environment; nothing where it is alone.

        Args:
            local_rank: which process it is on this machine.
            port: where all meet.
            stall_seconds: after which without a sign of life the job counts as stalled.
        """
        if self.processes == 1:
            return {}
        # Below the stall timeout on purpose: the rank that waits in vain then fails with an error
        # that names the collective, instead of being killed as stalled along with the one that
        # hangs.
        timeout = max(1, int(TIMEOUT_SHARE * stall_seconds))
        defaults = {
            # Otherwise every process starts a thread for each core, and they fight over the cores.
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.processes_here)),
            # https://docs.pytorch.org/docs/stable/torch_nccl_environment_variables.html
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",  # a collective that hangs ends its process
            "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": str(timeout),
            **_loopback(self),
        }
        return {
            # These are tuning, so the user may override them. The ranks below are ours alone.
            **{name: value for name, value in defaults.items() if name not in os.environ},
            "RANK": str(self.rank_of(local_rank)),
            "WORLD_SIZE": str(self.processes),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(self.processes_here),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(port),
            TIMEOUT_VARIABLE: str(timeout),
        }


ALONE = World()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """Which of the processes this one is."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it writes what the job leaves: metrics, checkpoints, output."""
        return self.rank == 0

    @property
    def on_several_machines(self) -> bool:
        """Whether other processes have another disk."""
        return self.world_size > self.local_world_size

    @property
    def on_first_machine(self) -> bool:
        """Whether the checkpoints that were saved are on its disk."""
        return self.rank < self.local_world_size

    @property
    def is_first_here(self) -> bool:
        """Whether it writes the status of this machine's job directory."""
        return self.local_rank == 0


def own_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return which process this is, by its environment."""
    names = ("rank", "world_size", "local_rank", "local_world_size")
    return Rank(
        **{name: int(environment[v]) for name in names if (v := name.upper()) in environment}
    )


def read_world(record: Mapping[str, Any]) -> World:
    """Return the entry `world` of a `job.json`; without one, this process alone.

    Raises:
        ConfigError: naming what is not as it should be.
    """
    entry = record.get("world", {})
    if not isinstance(entry, dict):
        raise ConfigError(f"job.json: world is {entry!r}, not a mapping of names to values.")
    numbers = {"processes": 1, "nodes": 1, "node_rank": 0, "master_port": 0, "batch_divisor": 1}
    found: dict[str, int] = {}
    for name, least in numbers.items():
        value = found[name] = entry.get(name, least)
        # Not isinstance: True is an int to Python.
        if type(value) is not int or value < least:
            raise ConfigError(f"job.json: world.{name} is {value!r}, not a number from {least} up.")
    factor = entry.get("learning_rate_factor", 1.0)
    if not isinstance(factor, int | float) or not 0 < factor <= 1:
        raise ConfigError(
            f"job.json: world.learning_rate_factor is {factor!r}, not a number up to 1."
        )
    world = World(
        **found,
        master_addr=str(entry.get("master_addr", HERE)),
        learning_rate_factor=float(factor),
    )
    if world.processes % world.nodes:
        raise ConfigError(
            f"job.json: world.processes is {world.processes}, which {world.nodes} machines cannot "
            "share evenly."
        )
    if world.node_rank >= world.nodes:
        raise ConfigError(
            f"job.json: world.node_rank is {world.node_rank}, and of {world.nodes} machines the "
            f"last is {world.nodes - 1}."
        )
    if world.nodes > 1 and not world.master_port:
        raise ConfigError("job.json: world.master_port is missing: several machines meet there.")
    return world


def _loopback(world: World) -> dict[str, str]:
    """Return which network gloo uses: within one machine, the loopback.

    Left alone it resolves the host's own name, which in a container may lead nowhere.
    """
    return {"GLOO_SOCKET_IFNAME": "lo"} if world.nodes == 1 and sys.platform == "linux" else {}
