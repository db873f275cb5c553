"""A trainer in a second: it counts steps in step with its peers, saves, and resumes.

It meets them as torch does, at the address and port in job.json; whoever loses another fails.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import ExitStack, suppress

from trainer.contract.checkpoints import STAGING, commit, newest_valid, step_of
from trainer.contract.errors import OrchestratorError, PeerLost, from_dict
from trainer.contract.job_directory import JobDirectory, JobState

STEP_SECONDS = 0.02


def main(folder: str, steps: int) -> int:
    """Train; the exit code is 1 for a failure, which stands in the status."""
    job = JobDirectory(folder)
    world = json.loads(job.job.read_text())["world"]
    try:
        with ExitStack() as stack:
            state = train(job, meet(stack, world), world["node_rank"], steps)
    except OSError as error:
        return fail(job, PeerLost(str(error)))
    except OrchestratorError as error:
        return fail(job, error)
    job.update_status(state=state, reason=job.read_control().reason)
    return 0


def fail(job: JobDirectory, error: OrchestratorError) -> int:
    job.update_status(state=JobState.FAILED, error=error.to_dict())
    return 1


def meet(stack: ExitStack, world: dict[str, object]) -> list[socket.socket]:
    """Return the connections to the others: of the first to all, of any other to the first."""
    place = str(world["master_addr"]), int(str(world["master_port"]))
    if world["node_rank"] == 0:
        server = stack.enter_context(socket.create_server(place))
        return [
            stack.enter_context(server.accept()[0]) for _ in range(int(str(world["nodes"])) - 1)
        ]
    while True:
        with suppress(ConnectionRefusedError):
            return [stack.enter_context(socket.create_connection(place))]
        time.sleep(0.01)


def agree(peers: list[socket.socket], rank: int, word: bytes) -> bytes:
    """Return what the first one says; all wait for it."""
    if rank:
        peers[0].sendall(b".")
        said = peers[0].recv(1)
    else:
        said = word if all(peer.recv(1) for peer in peers) else b""
        for peer in peers:
            peer.sendall(said)
    if not said:
        raise ConnectionResetError("a peer hung up")
    return said


def train(job: JobDirectory, peers: list[socket.socket], rank: int, steps: int) -> JobState:
    """Step by step; what a test put into the file `fault` happens once, on its machine."""
    newest, _ = newest_valid(job.checkpoints)
    begun = step_of(newest) if newest else 0
    print(f"rank {rank} from {begun} with divisor {job.read_status().batch_divisor}")  # noqa: T201
    for step in range(begun + 1, steps + 1):
        wanted = job.read_control().desired[0].encode()
        said = agree(peers, rank, wanted)
        time.sleep(STEP_SECONDS)
        fault = job.root / "fault"
        if fault.exists():
            error = json.loads(fault.read_text())
            fault.unlink()
            if error is None:
                os.kill(os.getpid(), 9)
            raise from_dict(error)
        if rank == 0:
            with job.metrics.open("a") as stream:
                stream.write(json.dumps({"step": step, "train_loss": 1 / step}) + "\n")
            if step % 5 == 0 or said != b"r":
                save(job, step)
        job.update_status(state=JobState.RUNNING, step=step, total_steps=steps)
        if said != b"r":
            return JobState.PAUSED if said == b"p" else JobState.STOPPED
    return JobState.COMPLETED


def save(job: JobDirectory, step: int) -> None:
    staged = job.checkpoints / STAGING / f"checkpoint-{step}"
    staged.mkdir(parents=True)
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (staged / name).write_text(str(step))
    commit(staged, job.checkpoints)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
