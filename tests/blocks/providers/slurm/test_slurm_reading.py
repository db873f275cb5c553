"""What Slurm's commands print, and what is asked of sbatch: functions alone."""

from __future__ import annotations

import os
import subprocess

import pytest

from blocks.marks import Mark
from blocks.models import InstanceStatus
from blocks.providers.api import Unanswered
from blocks.providers.slurm import order
from blocks.providers.slurm.login import folder_of, refusal
from blocks.providers.slurm.offers import nodes_of, offers_of, seconds_in, together
from blocks.providers.slurm.queue import (
    _COLUMNS,
    first_of,
    gpus_of,
    hosts_in,
    instances_of,
    rows_of,
)
from tests.blocks.providers.rented_account import mark
from tests.waiting import PATIENCE, until_now
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    CredentialsError,
    ProviderError,
    QuotaError,
    Scope,
)

SINFO = """\
main*|up|infinite|2|16|64000|gpu:a100:4(S:0-1)|idle
main*|up|infinite|3|8+|32000+|(null)|mixed
short|up|1:00:00|1|8|32000|gpu:2|allocated
old|down|infinite|4|8|32000|gpu:k80:2|idle
main*|up|infinite|1|16|64000|gpu:a100:4|drained
mig|up|infinite|2K|1K|64000|gpu:a100:3(S:0-1),nvme:1,gpu:1g.5gb:14(S:0)|idle
mig|up|infinite|1|16|64000|gpu:1g.5gb:2|idle*
"""


def line(**facts: str) -> str:
    """Return a line as squeue prints it."""
    values = {"JobID": "7", "State": "RUNNING", "RestartCnt": "0", "Partition": "main"} | {
        "NumNodes": "1",
        "tres-per-node": "N/A",
        "StartTime": "N/A",
        "EndTime": "N/A",
        "Reason": "None",
        "NodeList": "node1",
        "Comment": str(mark()),
        "Name": "job",
    }
    values |= {name.replace("_", "-"): text for name, text in facts.items()}
    parts = (values[name].encode()[:width].ljust(width) for name, width in _COLUMNS.items())
    return b"".join(parts).decode(errors="replace") + "\n"


def seen(**facts: str):
    [row] = rows_of(line(**facts))
    return instances_of(row, "slurm", 1.5, {})[0]


def offered(**wanted):
    partitions = wanted.pop("partitions", ())
    return offers_of(
        nodes_of(SINFO),
        Resources(**wanted),
        Limits(),
        partitions=partitions,
        price_per_hour=0.0,
    )


@pytest.mark.parametrize(
    ("facts", "status", "detail"),
    [
        ({}, "running", "running"),
        ({"State": "COMPLETING"}, "stopping", "completing"),
        ({"State": "TIMEOUT", "Reason": "TimeLimit"}, "gone", "timeout: TimeLimit"),
        ({"State": "NODE_FAIL"}, "gone", "node fail"),
        ({"State": "REQUEUED"}, "lost", "requeued"),
        ({"State": "RUNNING", "RestartCnt": "1"}, "lost", "Slurm put the job back into its queue"),
        ({"State": "PENDING", "RestartCnt": "2"}, "lost", "Slurm put the job back into its queue"),
        ({"State": "CANCELLED", "RestartCnt": "2"}, "gone", "cancelled"),
        ({"State": "WEIRD_NEW_WORD"}, "unknown", "weird new word"),
        (
            {"State": "PENDING", "Reason": "Priority", "StartTime": "2026-12-01T10:00:00"},
            "queued",
            "in the queue of main: Priority, expected to start at 2026-12-01T10:00:00",
        ),
    ],
)
def test_a_state_of_slurm_is_one_of_ours_with_its_reason(facts, status, detail):
    instance = seen(**facts)

    assert (str(instance.status), instance.detail) == (status, detail)
    assert instance.failure is None
    assert instance.time_is_up == (facts.get("State") == "TIMEOUT")


@pytest.mark.parametrize("reason", ["BadConstraints", "PartitionTimeLimit", "(InvalidQOS)"])
def test_a_job_that_can_never_start_is_an_order_that_failed(reason):
    instance = seen(State="PENDING", Reason=reason)

    assert instance.status is InstanceStatus.QUEUED
    assert isinstance(instance.failure, CapacityError)
    assert reason.strip("()") in instance.failure.message
    assert instance.failure.scope is Scope.REGION


def test_the_mark_is_in_the_comment_or_where_comments_are_not_kept_in_the_name():
    assert seen().mark == mark()
    assert seen(Comment="(null)", Name=str(mark())).mark == mark()
    assert seen(Comment="a site's own", Name=str(mark())).mark == mark()
    assert seen(Comment="(null)", Name="train").mark is None


def test_what_others_write_in_any_script_shifts_no_column():
    rows = rows_of(line(Comment="Größe – 日本語" * 9, Name="naïve 名前") + line(JobID="8"))

    assert [row.id for row in rows] == ["7", "8"]
    assert rows[0].mark is None
    assert rows[1].mark == mark()


def test_a_line_break_in_what_others_write_hides_no_job_and_makes_none():
    ours = line(Comment="of\nthe site", Name=str(mark()))

    rows = rows_of(
        line(JobID="6", Comment="a\nb", Name="my\n8\njob") + ours + line(JobID="9_[1-4]")
    )

    assert [row.id for row in rows] == ["6", "7", "9_[1-4]"]
    assert [row.mark for row in rows] == [None, mark(), mark()]


@pytest.mark.parametrize("printed", ["squeue: nothing like a job", "x" * 900, "\0"])
def test_what_is_no_list_of_jobs_is_an_error_and_never_an_empty_list(printed):
    with pytest.raises(ProviderError, match="Slurm's answer to squeue is not as it is described"):
        rows_of(printed)


def test_every_node_of_a_job_is_an_instance_with_the_mark_of_its_rank():
    own = mark()
    [row] = rows_of(
        line(NumNodes="3", NodeList="gpu[08-09],login", tres_per_node="gres:gpu:a100:4")
    )

    found = instances_of(row, "slurm", 0.0, {"gpu08": "10.0.0.8"})

    assert [one.id for one in found] == ["7", "7+1", "7+2"]
    assert [one.mark.rank for one in found if one.mark] == [0, 1, 2]
    assert [one.private_address for one in found] == ["10.0.0.8", "gpu09", "login"]
    assert {(one.gpu_type, one.gpu_count, one.instance_type) for one in found} == {
        ("a100", 4, "4 × a100")
    }
    assert own.run_id
    second = Mark.of_run(own.run_id, own.attempt, 1)
    assert first_of([row], second) == (row, 1)
    [younger] = rows_of(line(JobID="10", NumNodes="3"))
    assert first_of([younger, row], second) == first_of([row, younger], second) == (younger, 1)
    assert first_of([row], Mark.of_run(own.run_id, own.attempt + 1)) is None


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("(null)", []),
        ("node1", ["node1"]),
        ("a,b[1-2,09-10]", ["a", "b1", "b2", "b09", "b10"]),
        ("r[1-2]n[3,5]x", ["r1n3x", "r1n5x", "r2n3x", "r2n5x"]),
    ],
)
def test_lists_of_nodes_are_read(text, hosts):
    assert hosts_in(text) == hosts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu:a100:4(S:0-1),nvme:1", ("a100", 4)),
        ("gres:gpu:2", ("", 2)),
        ("gres/gpu:h100=8", ("h100", 8)),
        ("gpu", ("", 1)),
        ("(null)", ("", 0)),
        ("N/A", ("", 0)),
    ],
)
def test_gpus_are_read_in_all_of_slurms_spellings(text, found):
    assert gpus_of(text) == found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("infinite", None),
        ("90", 5400),
        ("10:30", 630),
        ("12:00:00", 43200),
        ("2-0", 172800),
        ("1-02:03:04", 93784),
    ],
)
def test_times_are_read_as_slurm_writes_them(text, seconds):
    assert seconds_in(text) == seconds


@pytest.mark.parametrize("text", ["", "-5", "1:-2", "1:2:3:4", "5 minutes"])
def test_what_is_no_time_of_slurm_is_refused(text):
    with pytest.raises(ValueError, match="no time"):
        seconds_in(text)


def test_the_default_partition_is_offered_and_others_where_they_are_named():
    assert [offer.id for offer in offered(gpu_count=2)] == ["main/a100"]
    assert [offer.id for offer in offered(gpu_count=0)] == ["main/cpu"]
    assert [offer.id for offer in offered(gpu_count=1, regions=["short", "main"])] == [
        "short/gpu",
        "main/a100",
    ]
    assert [o.region for o in offered(gpu_count=1, partitions=["short"])] == ["short"]
    assert [offer.gpu_count for offer in offered()] == [0, 1]


def test_each_kind_of_gpu_of_a_node_is_offered_and_large_numbers_are_read():
    found = [one for one in nodes_of(SINFO) if one.partition == "mig"]

    assert [(one.gpu_type, one.gpus, one.is_well) for one in found] == [
        ("a100", 3, True),
        ("1g.5gb", 14, True),
        ("1g.5gb", 2, False),
    ]
    assert (found[0].count, found[0].cpus) == (2048, 1024)
    assert [offer.gpu_type for offer in offered(regions=["mig"], gpu_types=["1g.5gb"])] == [
        "1g.5gb"
    ]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"gpu_count": 5}, "No node of Slurm's fits the job: .*main: 2 × 4 × a100"),
        ({"gpu_count": 1, "gpu_types": ["H100"]}, "No node of Slurm's fits"),
        ({"regions": ["old"]}, "no nodes in old; its partitions: main, mig, short"),
        ({"spot": True}, "resources.spot"),
    ],
)
def test_what_no_node_can_be_is_refused_with_what_there_is(wanted, why):
    with pytest.raises(CapacityError, match=why):
        offered(**wanted)


def test_an_order_says_all_that_a_user_set_and_that_it_must_not_be_begun_again():
    [offer] = offered(gpu_count=2, cpu_threads=6, min_ram_gb=10)
    terms = order.OrderTerms(
        account="lab", qos="high", constraint="nvlink&ib", time_limit="2-0", options=("--nice=5",)
    )

    words = order.sbatch(
        together(offer, 3), mark(), terms, partition_seconds=86400, log="/shared/%j.log"
    )

    assert words[0] == "sbatch"
    assert words[-1] == "--nice=5"
    assert {
        "--no-requeue",
        f"--comment={mark()}",
        f"--job-name={mark()}",
        "--partition=main",
        "--nodes=3",
        "--ntasks=3",
        "--gres=gpu:a100:2",
        "--cpus-per-task=6",
        "--mem=10240M",
        "--account=lab",
        "--qos=high",
        "--constraint=nvlink&ib",
        "--time=1440",
        "--signal=B:USR1@300",
    } < set(words)
    [exported] = [word for word in words if word.startswith("--export=")]
    assert not {"ALL", "HF_TOKEN", "WANDB_API_KEY"} & set(exported[9:].split(","))


def test_what_is_set_for_gpu_replaces_ours_and_other_kinds_stand_beside():
    [offer] = offered(gpu_count=2)

    assert order.gres_of(offer, "") == "gpu:a100:2"
    assert order.gres_of(offer, "nvme:1") == "gpu:a100:2,nvme:1"
    assert order.gres_of(offer, "gpu:mi300:2") == "gpu:mi300:2"


def test_a_time_limit_that_is_none_is_refused():
    [offer] = offered(gpu_count=0)

    with pytest.raises(ConfigError, match="time_limit = 'soon' is no time"):
        order.time_limit(offer, order.OrderTerms(time_limit="soon"), None)


def test_without_a_word_the_job_may_take_what_it_needs_or_the_partition_allows():
    [offer] = offered(gpu_count=0)

    assert order.time_limit(offer, order.OrderTerms(), None) is None
    assert order.time_limit(offer, order.OrderTerms(), 3600.0) == 3600.0


@pytest.mark.parametrize(
    ("said", "number"), [("12\n", "12"), ("Welcome!\n12;cluster\n", "12"), ("12;c", "12")]
)
def test_the_jobs_number_is_read(said, number):
    assert order.number_in(said) == number


@pytest.mark.parametrize("said", ["", "Submitted batch job 12", "no"])
def test_without_a_number_something_may_have_come_of_it(said):
    with pytest.raises(Unanswered):
        order.number_in(said)


@pytest.mark.parametrize(
    ("said", "kind", "scope"),
    [
        ("Invalid account or account/partition combination specified", QuotaError, Scope.ACCOUNT),
        ("Invalid partition name specified", CapacityError, Scope.REGION),
        ("Requested node configuration is not available", CapacityError, Scope.OFFER),
        ("Access/permission denied", CredentialsError, Scope.ACCOUNT),
        ("something new", ProviderError, Scope.OFFER),
    ],
)
def test_a_refusal_rules_out_what_it_is_about(said, kind, scope):
    error = refusal("sbatch", f"sbatch: error: Batch job submission failed: {said}")

    assert type(error) is kind
    assert error.scope is scope


@pytest.mark.parametrize(
    "said",
    [
        "Socket timed out on send/recv operation",
        "Unable to contact slurm controller (connect failure)",
    ],
)
def test_a_controller_that_does_not_answer_may_have_acted(said):
    assert isinstance(refusal("sbatch", said), Unanswered)


def test_what_an_older_job_of_the_same_number_left_ends_no_allocation(tmp_path):
    place = tmp_path / "slurm" / "7"
    place.mkdir(parents=True)
    (place / "over").touch()
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SLURM_JOB_ID": "7"}

    with subprocess.Popen(["sh", "-c", order.script(str(tmp_path), "")], env=environ) as process:
        until_now((place / "0" / "alive").exists)
        is_over = (place / "over").exists()
        (place / "over").touch()
        assert process.wait(PATIENCE) == 0

    assert not is_over


def test_a_folder_that_is_not_absolute_is_refused():
    with pytest.raises(ConfigError, match="SLURM_FOLDER = 'scratch' is not absolute"):
        folder_of("scratch")


def test_the_script_is_sh_and_holds_its_settings_quoted():
    text = order.script("/a b/.training-orchestrator", "/a b")

    assert text.startswith("#!/bin/sh\nbase='/a b/.training-orchestrator'\nhome='/a b'\nagent=")
