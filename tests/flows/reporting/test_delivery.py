"""Whatever the receiver or our process does, every point arrives, in order."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.reporting import delivery, leftovers
from flows.reporting.delivery import Feed
from flows.reporting.leftovers import deliver_leftovers
from flows.reporting.platform import Address, Platform
from flows.reporting.reporter import _unless, reporting
from flows.reporting.spool import Spool
from tests.flows.flow_runs import make_job
from tests.flows.reporting.receiver import KEY, TOKEN, Growing, lines_of
from tests.waiting import until
from trainer.contract.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("hasty")


async def reported_to_the_end(run) -> None:
    async with reporting(make_job(), run):
        pass


async def test_a_receiver_that_is_down_for_the_first_half_gets_every_point_in_order(run, receiver):
    training = Growing(run.metrics, range(1, 301), pause=0.003)

    async with reporting(make_job(), run):
        training.start()
        await until(lambda: len(read_metrics(run.metrics)[0]) > 150)
        receiver.start()
        await until(lambda: not training.is_alive())

    assert receiver.steps == list(range(1, 301))
    assert max(receiver.batches) <= 100
    assert receiver.job_ids == {run.run_id}


async def test_points_arrive_while_the_training_runs(run, receiver):
    receiver.start()
    run.metrics.write_text(lines_of([1, 2]))

    async with reporting(make_job(), run):
        await until(lambda: receiver.steps == [1])
        with run.metrics.open("a") as stream:
            stream.write(lines_of([3]))
        await until(lambda: receiver.steps == [1, 2])

    assert receiver.steps == [1, 2, 3]


@pytest.mark.parametrize("trouble", [500, 503, (429, {"Retry-After": "0.2"}), 408])
async def test_temporary_trouble_loses_and_doubles_nothing(run, receiver, trouble):
    run.metrics.write_text(lines_of(range(1, 251)))
    receiver.start().next.extend([trouble, None, trouble, trouble, None, None])

    await reported_to_the_end(run)

    assert receiver.steps == list(range(1, 251))


async def test_a_receiver_is_left_alone_for_as_long_as_it_asks(run, receiver):
    run.metrics.write_text(lines_of([1]))
    receiver.start().always = 429
    receiver.next.append((429, {"Retry-After": "600"}))

    await reported_to_the_end(run)
    await deliver_leftovers()

    assert receiver.requests == 1


@pytest.mark.parametrize("trouble", ["drop", "slow"])
async def test_a_lost_answer_repeats_one_batch_and_nothing_else(
    run, receiver, trouble, monkeypatch
):
    monkeypatch.setattr(delivery, "POST_SECONDS", 0.3)
    run.metrics.write_text(lines_of(range(1, 251)))
    receiver.start().next.extend([None, trouble])

    await reported_to_the_end(run)

    first, second, third = range(1, 101), range(101, 201), range(201, 251)
    assert receiver.steps == [*first, *second, *second, *third]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 307])
async def test_a_receiver_that_refuses_is_told_of_once_and_not_hammered(
    run, receiver, status, caplog
):
    run.metrics.write_text(lines_of(range(1, 5)))
    receiver.start().always = status

    async with reporting(make_job(), run):
        await until(lambda: receiver.requests)
        await asyncio.sleep(0.3)
    await deliver_leftovers()

    assert receiver.requests <= 2  # while it runs, and once more at the end
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(said) == 1
    assert f"refuses our metrics (HTTP status {status})" in said[0]


async def test_what_was_refused_is_delivered_once_the_key_is_mended(run, receiver, monkeypatch):
    run.metrics.write_text(lines_of(range(1, 151)))
    receiver.start().always = 401
    await reported_to_the_end(run)
    receiver.always = None

    await reported_to_the_end(run)

    assert receiver.steps == list(range(1, 151))


PROCESS = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from tests.flows.flow_runs import make_job
from flows.reporting import reporter
from flows.reporting.reporter import reporting
from flows.run_folder import RunFolder
reporter.INTERVAL_SECONDS = 0.02
async def main():
    async with reporting(make_job(), RunFolder(sys.argv[1])):
        await asyncio.sleep(60)
asyncio.run(main())
"""


def start_reporting(run) -> subprocess.Popen[bytes]:
    helpers = str(Path(__file__).parents[3])
    return subprocess.Popen([sys.executable, "-c", PROCESS, run.run_id, helpers])


@pytest.mark.thorough
async def test_a_process_killed_in_between_loses_nothing_and_repeats_one_batch_at_most(
    run, receiver
):
    training = Growing(run.metrics, range(1, 1001), pause=0.002)
    receiver.start()
    process = start_reporting(run)
    training.start()
    await until(lambda: len(receiver.points) > 60)

    process.kill()
    process.wait()
    before = len(receiver.batches)
    await until(lambda: not training.is_alive())
    await reported_to_the_end(run)

    assert before < len(receiver.batches)
    assert list(dict.fromkeys(receiver.steps)) == list(range(1, 1001))
    assert len(receiver.steps) - 1000 <= 100


async def test_what_a_flow_had_to_leave_is_delivered_by_reconcile(run, receiver, monkeypatch):
    monkeypatch.setattr("flows.reporting.reporter.FINISH_SECONDS", 0.3)
    run.metrics.write_text(lines_of(range(1, 501)))
    await reported_to_the_end(run)
    receiver.start()

    await deliver_leftovers()

    assert receiver.steps == list(range(1, 501))
    await deliver_leftovers()
    assert len(receiver.steps) == 500


async def test_a_receiver_that_stays_down_never_holds_the_flow_up(run, receiver, monkeypatch):
    run.metrics.write_text(lines_of([1]))
    # Giving up meets every moment of the last look, of a pause and of an attempt.
    for patience in range(0, 60, 6):
        monkeypatch.setattr("flows.reporting.reporter.FINISH_SECONDS", patience / 1000)
        async with asyncio.timeout(30):
            await reported_to_the_end(run)


async def test_the_end_of_a_pause_hides_no_cancellation():
    event = asyncio.Event()
    waiting = asyncio.create_task(_unless(event, 10))
    await asyncio.sleep(0.01)

    event.set()
    waiting.cancel()
    await asyncio.wait({waiting})

    assert waiting.cancelled()


async def test_reconcile_does_not_send_one_jobs_reports_with_anothers_token(
    run, receiver, monkeypatch
):
    monkeypatch.setattr("flows.reporting.reporter.FINISH_SECONDS", 0.1)
    monkeypatch.setenv("JOB_ID", "job-a")
    run.metrics.write_text(lines_of([1]))
    await reported_to_the_end(run)
    receiver.start()

    monkeypatch.setenv("JOB_ID", "job-b")
    await deliver_leftovers()
    assert receiver.requests == 0

    monkeypatch.delenv("JOB_ID")
    await deliver_leftovers()
    assert (receiver.job_ids, receiver.steps) == ({"job-a"}, [1])


async def test_what_nobody_took_for_days_is_given_up_and_that_is_told_once(
    run, receiver, monkeypatch, caplog
):
    monkeypatch.setattr("flows.reporting.reporter.FINISH_SECONDS", 0.1)
    run.metrics.write_text(lines_of([1]))
    await reported_to_the_end(run)
    receiver.start()
    then = time.time() - 86400 * (leftovers.GIVE_UP_DAYS + 1)
    os.utime(run.metrics, (then, then))

    await deliver_leftovers()
    await deliver_leftovers()

    assert receiver.requests == 0
    assert sum("not accepted for 3 days" in r.getMessage() for r in caplog.records) == 1


async def test_nothing_is_sent_and_nothing_written_when_no_variable_is_set(
    run, receiver, monkeypatch
):
    for name in receiver.environment:
        monkeypatch.delenv(name)
    receiver.start()
    run.metrics.write_text(lines_of([1, 2]))

    await reported_to_the_end(run)
    await deliver_leftovers()

    assert receiver.requests == 0
    assert not Spool(run).root.exists()


async def test_keys_are_in_no_file_and_no_log(run, receiver, home, caplog):
    caplog.set_level(logging.DEBUG)
    run.metrics.write_text(lines_of(range(1, 151)))
    receiver.start().next.extend([500, 401, "drop"])

    await reported_to_the_end(run)
    await reported_to_the_end(run)

    assert receiver.points
    written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    for secret in (TOKEN, KEY):
        assert secret.encode() not in written
        assert secret not in caplog.text
        assert secret not in repr(Platform.of_environment())


async def test_a_full_disk_stops_no_job(run, receiver, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "save_cursor", full)
    run.metrics.write_text(lines_of([1]))
    receiver.start()

    await reported_to_the_end(run)

    assert "No space left on device" in caplog.text
    assert receiver.steps == [1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"JOB_TOKEN": ""}, "METRICS_API_URL is set and JOB_TOKEN is not"),
        ({"INTERNAL_API_KEY": ""}, "ALERT_API_URL is set and INTERNAL_API_KEY is not"),
        ({"USER_ID": ""}, "ALERT_API_URL is set and USER_ID is not"),
        ({"METRICS_API_URL": "ftp://host/x"}, "METRICS_API_URL is not an http:// or https://"),
        ({"METRICS_API_URL": "https://me:secret@host/x"}, "without a user name and password"),
        ({"METRICS_API_URL": "http://host:port/"}, "METRICS_API_URL is not an http://"),
        ({"JOB_TOKEN": "a\nb"}, "JOB_TOKEN has characters that an HTTP header cannot carry"),
    ],
)
async def test_a_wrong_setting_is_one_warning_and_no_failure(
    run, receiver, monkeypatch, caplog, changes, said
):
    for name, value in changes.items():
        monkeypatch.setenv(name, value)

    await reported_to_the_end(run)

    warnings = [
        r.getMessage() for r in caplog.records if "is set" in r.msg or said in r.getMessage()
    ]
    assert len(warnings) == 1
    assert said in warnings[0]
    assert "secret" not in caplog.text


def test_the_query_of_an_address_is_not_shown():
    address = Address("https://host/api?key=secret", {"X-API-Key": "secret"})

    assert address.shown == "https://host/api"
    assert "secret" not in repr(address)
    assert "secret" not in repr(vars(Feed("metrics", address, None, None))["_address"])
