"""Several processes that train one job, under a real supervisor: one end for all of them."""

import json
import os
import signal

import pytest

from tests.processes import is_running
from tests.trainer.supervised import Supervised
from tests.waiting import PATIENCE, until_now
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.contract.world import Rank, World, own_rank, read_world

SCRIPT = """
from trainer.contract.world import own_rank
from trainer.supervision.ranks import record_failure
rank = own_rank()
def fail(error):
    if rank.is_first_here:
        state('failed', error=error.to_dict())
    record_failure(job, rank, error)
    os._exit(1)
pids = job.root / 'pids'
with pids.open('a') as stream:
    stream.write(f'{os.getpid()} {os.getpgrp()}\\n')
wait_for(lambda: len(pids.read_text().splitlines()) == attempt * rank.local_world_size)
"""
END = "if rank.is_first: state('completed')\n"


class Several(Supervised):
    """A supervised job of two processes."""

    def __init__(self, root, script, *, world=None, batch_size=8, **limits):
        super().__init__(root, SCRIPT + script, batch_size=batch_size, **limits)
        self.write_job(**json.loads(self.job.job.read_text()), world=world or {"processes": 2})

    @property
    def pids(self):
        lines = (self.job.root / "pids").read_text().splitlines()
        return [tuple(map(int, line.split())) for line in lines]


def test_ranks_find_each_other_by_torchs_variables_and_share_a_group(tmp_path):
    script = """
names = 'RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR'.split()
assert 1024 < int(os.environ['MASTER_PORT'])
print('out', *[os.environ[name] for name in names])
print('err', *[os.environ[name] for name in names], file=sys.stderr)
"""
    job = Several(tmp_path, script + END)

    assert job.run().returncode == 0
    lines = set(job.log.splitlines())
    assert lines == {"out 0 2 0 2 127.0.0.1", "err 0 2 0 2 127.0.0.1", "[rank 1] err 1 2 1 2 127.0.0.1"}  # fmt: skip
    (first, group), (second, other_group) = sorted(job.pids, key=lambda pair: pair[0] != pair[1])
    assert first == group == other_group == job.status.trainer_pid
    assert first != second


def test_the_second_of_two_machines_counts_its_ranks_on(tmp_path):
    world = {
        "processes": 4,
        "nodes": 2,
        "node_rank": 1,
        "master_addr": "10.0.0.7",
        "master_port": 4567,
    }
    script = """
print('rank', rank.rank, rank.local_rank, os.environ['MASTER_ADDR'], os.environ['MASTER_PORT'],
      file=sys.stderr)
"""
    end = "if rank.is_first_here: state('completed')\n"
    job = Several(tmp_path, script + end, world=world)

    assert job.run().returncode == 0
    assert set(job.log.splitlines()) == {
        "rank 2 0 10.0.0.7 4567",
        "[rank 3] rank 3 1 10.0.0.7 4567",
    }


def test_a_killed_rank_ends_the_others_and_all_start_again(tmp_path):
    script = """
if attempt == 1 and rank.rank == 1: os.kill(os.getpid(), signal.SIGKILL)
if attempt == 1: time.sleep(600)  # as in a collective with one that is gone
"""
    job = Several(tmp_path, script + END)

    assert job.run().returncode == 0
    assert "restart 1 of 2 after TrainerKilled: SIGKILL ended rank 1 and" in job.log
    assert not any(is_running(pid) for pid, _ in job.pids)


def test_the_first_failure_is_the_cause_not_those_that_follow(tmp_path):
    script = """
told = job.root / 'told'
if rank.rank == 0:
    wait_for(told.exists)
    fail(PeerLost('Connection reset by peer.'))
told.touch()
wait_for(lambda: job.read_status().state is JobState.FAILED)  # it is slow to end
fail(ConfigError('The cause.'))
"""
    job = Several(tmp_path, script)

    assert job.run().returncode == 1
    assert job.status.error["class"] == "ConfigError"
    assert job.status.error["message"] == "On rank 1: The cause."
    assert "\nerror ConfigError: On rank 1: The cause." in "\n" + job.log


def test_memory_that_runs_out_on_one_rank_halves_the_batch_of_all(tmp_path):
    script = """
if attempt == 1 and rank.rank == 1: fail(OutOfMemory('Memory ran out.'))
if attempt == 1: time.sleep(600)
assert job.read_status().batch_divisor == 2
"""
    job = Several(tmp_path, script + END)

    assert job.run().returncode == 0
    assert "restart with batch size 4 instead of 8 after OutOfMemory: On rank 1: " in job.log
    (event,) = job.events
    assert (event.kind, event.facts["batch_divisor"]) == ("out_of_memory", 2)
    assert event.cause == "On rank 1: Memory ran out."


@pytest.mark.parametrize(
    ("hangs", "says"),
    [
        ("time.sleep(600)", "no sign of life"),
        ("fail(TrainingStalled('Timed out.')) if rank.rank == 0 else time.sleep(600)", "in vain"),
    ],
)
def test_the_stacks_of_every_rank_are_written_where_one_hangs(tmp_path, hangs, says):
    script = f"""
import faulthandler
faulthandler.register(signal.SIGUSR1, all_threads=True)
if rank.is_first: state('running')
(job.root / f'ready{{rank.rank}}').touch()
wait_for(lambda: (job.root / 'ready1').exists())
def rank_1_hangs():
    {hangs}
if attempt == 1: rank_1_hangs()
"""
    stall = 0.05 if "no sign" in says else 30
    # On a busy computer, the attempts after the first may take longer than that, too.
    job = Several(tmp_path, script + END, stall_timeout_minutes=stall, max_restarts=20)

    assert job.run().returncode == 0
    assert says in job.log
    stacks = [line for line in job.log.splitlines() if "in rank_1_hangs" in line]
    assert any(line.startswith("[rank 1] ") for line in stacks)
    assert "restart 1 of 20 after TrainingStalled: " in job.log


def test_a_request_to_end_reaches_every_rank(tmp_path):
    script = """
if rank.is_first: state('running')
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
(job.root / f'ready{rank.rank}').touch()
wait_for(lambda: got)
print('got it', file=sys.stderr)
if rank.is_first: state('stopped')
"""
    job = Several(tmp_path, script)
    supervisor = job.start()
    until_now(lambda: len(list(tmp_path.glob("ready*"))) == 2)
    os.kill(supervisor.pid, signal.SIGTERM)

    assert supervisor.wait(PATIENCE) == 4
    assert job.status.state is JobState.STOPPED
    assert set(job.log.splitlines()) == {"got it", "[rank 1] got it"}


def test_a_process_alone_is_told_nothing():
    assert World().variables(0, 4567, 60) == {}
    assert own_rank({}) == Rank()


@pytest.mark.parametrize(
    ("world", "complaint"),
    [
        ([], r"world is \[\], not a mapping"),
        ({"processes": 0}, "world.processes is 0, not a number from 1 up"),
        ({"nodes": "2"}, "world.nodes is '2', not a number"),
        ({"processes": 3, "nodes": 2}, "3, which 2 machines cannot share evenly"),
        ({"processes": 2, "nodes": 2, "node_rank": 2}, "of 2 machines the last is 1"),
        ({"processes": 2, "nodes": 2}, "master_port is missing"),
    ],
)
def test_a_wrong_world_is_refused(world, complaint):
    with pytest.raises(ConfigError, match=complaint):
        read_world({"world": world})
