"""What people do, and what must come of it: twice, by mistake, or on purpose."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from blocks.home import home
from blocks.marks import Mark, installation_id
from blocks.providers.runpod import RunPod
from blocks.registry import load_provider
from flows import reconcile as reconciling
from flows.reconcile import reconcile_once
from flows.run_folder import RunFolder
from flows.setup.shipping import ship
from flows.verdict import Act
from tests.faults.hostile import hostile_machine
from tests.flows.flow_runs import make_job
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.errors import BudgetExceeded
from trainer.contract.job_directory import JobState

# 41: the same again.


@pytest.mark.thorough
@pytest.mark.fault(41, "same job twice")
async def test_the_same_job_submitted_twice_is_two_jobs(scene, survived):
    job = scene.job(max_steps=20, eval_steps=10)

    first = await scene.run(job)
    second = await scene.run(job)
    scene.injected(second)

    await scene.ended(second)  # the first is judged when no machine may be left
    await survived(first)
    await survived(second)
    names = {rented.name for rented in scene.cloud.all}
    assert names == {str(Mark.of_run(run.id, 1)) for run in (first, second)}
    assert len(scene.cloud.account) == 2
    artifacts = {RunFolder(run.id).artifact("small", None) for run in (first, second)}
    assert len(artifacts) == 2


@pytest.mark.thorough
@pytest.mark.fault(41, "same job twice")
async def test_another_installation_on_the_account_touches_no_machine_of_ours(
    scene, hunt, monkeypatch, tmp_path
):
    monkeypatch.setattr(reconciling, "ORPHAN_SECONDS", 0.0)
    instance = await hunt.machine()

    # Another installation is another process: it has not read the list that this one knows by now,
    # with the marks as this one reads them.
    (await load_provider("runpod"))._api().forget("pods")
    with monkeypatch.context() as other:
        other.setenv("TRAINING_ORCHESTRATOR_HOME", str(tmp_path / "other"))
        assert await reconcile_once() == []
        assert await reconcile_once() == []

    assert scene.cloud.alive() == [instance.id]
    await hunt.over()


# 42: orphans and strangers.


@pytest.mark.fault(42, "orphan, stranger")
async def test_an_orphan_goes_after_its_grace_and_strangers_stay(scene, hunt, monkeypatch):
    orphan = await hunt.machine()
    provider = await load_provider("runpod")
    [offer, *_] = await provider.offers(hunt.job.resources, hunt.job.limits)
    hexes = uuid4().hex
    strangers = [
        "somebody-else",
        f"to-deadbeef-{hexes}-1",
        f"to-{installation_id()}-{hexes}",
        f"x-to-{installation_id()}-{hexes}-1",
        f"to-{installation_id()}-{hexes}-1\n",
    ]
    ids = []
    for number, name in enumerate(strangers):
        stranger = await provider.launch(offer, Mark.of_run(uuid4(), number + 1), None)
        scene.cloud.account[stranger.id].name = name
        ids.append(stranger.id)

    [kept] = await reconcile_once()
    assert (kept.act, kept.instance) == (Act.KEEP, str(orphan.mark))
    assert "its run is unknown; it is ended in 10 minutes" in kept.why
    monkeypatch.setattr(reconciling, "ORPHAN_SECONDS", 0.0)
    # In proportion: nobody but the test has ended them, so that their absence has to be proven.
    monkeypatch.setattr(RunPod, "settle_seconds", 2.0)
    [gone] = await reconcile_once()

    assert (gone.act, gone.instance) == (Act.TERMINATE, str(orphan.mark))
    assert sorted(scene.cloud.alive()) == sorted(ids)
    for id in ids:
        await provider.terminate(id)
    await hunt.over(unbooked=ids)


# 43: strings.

PIECES = st.sampled_from(
    [
        *("../", "/", "..", ".", " ", "-rf", "~", "*", "?", "é", "\U0001f600", "'", '"', "\\", "#"),
        *(
            "$(touch CANARY)",
            "`touch CANARY`",
            "; touch CANARY;",
            "| touch CANARY",
            "&& touch CANARY",
        ),
        *(
            "\n",
            "\ntouch CANARY\n",
            "\r",
            "\t",
            "\0",
            "$HOME",
            "${IFS}",
            "%n",
            "{{7*7}}",
            "!!",
            "a",
        ),
    ]
)
STRINGS = st.lists(PIECES, min_size=1, max_size=6).map("".join)
FIELDS = {
    "name": lambda text: {"name": text},
    "output_dir": lambda text: {"output_dir": text},
    "provider": lambda text: {"provider": text},
    "model": lambda text: {"training": {"model": text}},
    "dataset": lambda text: {"training": {"dataset": text}},
    "column": lambda text: {"training": {"dataset": {"path": "x", "columns": {text: text}}}},
    "subset": lambda text: {"training": {"dataset": {"path": "x", "subset": text, "split": text}}},
    "optim": lambda text: {"training": {"optim": text, "lr_scheduler_type": text}},
    "arguments": lambda text: {"training": {"arguments": {text: text}}},
    "gpu": lambda text: {"resources": {"gpu_types": [text], "regions": [text]}},
}
EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def merged(values, changes):
    """Return nested settings with some of them replaced."""
    return {
        **values,
        **{
            name: merged(values.get(name) or {}, change)
            if isinstance(change, dict) and isinstance(values.get(name), dict)
            else change
            for name, change in changes.items()
        },
    }


@pytest.mark.thorough
@pytest.mark.fault(43, "job file fuzz")
async def test_what_a_job_says_is_refused_or_reaches_the_machine_as_it_is(tmp_path, monkeypatch):
    """Every string goes where the product brings it: into job.json, a path, an argument."""
    monkeypatch.chdir(tmp_path)
    job = make_job().model_dump(mode="json")
    async with hostile_machine(tmp_path) as hostile:
        hostile.workspace.mkdir(parents=True)
        met = {"refused": 0, "taken": 0}

        async def say(field, text):
            try:
                made = TrainingJob.model_validate(merged(job, FIELDS[field](text)))
            except ValidationError:
                met["refused"] += 1
                return
            met["taken"] += 1
            assert field != "name" or "/" not in made.name
            path = f"{hostile.workspace}/job.json"
            content = made.model_dump_json().encode()
            await hostile.machine.write(path, content)
            assert await hostile.machine.read(path) == content
            if "\0" not in text:
                result = await hostile.machine.run(
                    ["printf", "%s", text], env={"TOLD": text}, cwd=str(hostile.workspace)
                )
                assert result.stdout == text

        loop = asyncio.get_running_loop()

        @EXAMPLES
        @given(st.sampled_from(sorted(FIELDS)), STRINGS)
        @example("name", "../up")
        @example("name", "a/b")
        @example("model", "a\ntouch CANARY\n")
        @example("output_dir", "a\tb\r")
        @example("model", "$(touch CANARY)")
        @example("model", "`touch CANARY`")
        @example("arguments", "; touch CANARY;")
        @example("gpu", "$HOME")
        def fuzz(field, text):
            asyncio.run_coroutine_threadsafe(say(field, text), loop).result(60)

        await asyncio.to_thread(fuzz)

    assert met["refused"] > 3  # the first four examples; what chance adds is not counted on
    assert met["taken"] > 3
    assert not list(tmp_path.rglob("CANARY"))


@pytest.mark.thorough
@pytest.mark.fault(43, "job file fuzz")
@pytest.mark.parametrize(
    "name",
    [
        "$(touch CANARY).jsonl",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in (
                "`touch CANARY`.jsonl",
                "; touch CANARY;.jsonl",
                "-rf.jsonl",
                "a'b\"c\\.jsonl",
                "with\nline\ntouch CANARY\n.jsonl",
                " .jsonl",
                "*.jsonl",
            )
        ),
    ],
)
async def test_a_file_of_any_name_is_refused_or_brought_under_that_name(tmp_path, name):
    data = tmp_path / "data"
    data.mkdir()
    (data / name).write_text('{"prompt": "a", "completion": "b"}\n')
    config = {**make_job().training.model_dump(mode="json"), "dataset": {"path": str(data / name)}}

    async with hostile_machine(tmp_path) as hostile:
        with suppress(ValidationError):
            training = TrainingJob.model_validate({"name": "a", "training": config}).training
            there = await ship(hostile.workplace, training, print)
            assert Path(there.dataset.path).name == name
            assert await hostile.machine.read(there.dataset.path) == (data / name).read_bytes()

    assert not list(tmp_path.rglob("CANARY"))


# 45: money.


@pytest.mark.fault(45, "budget reached")
async def test_a_budget_that_ends_while_a_machine_boots_ends_the_machine(scene, hunt):
    scene.cloud.never_boot = True
    hunt.wants(limits={"max_cost": 0.0001})  # 3 s of a machine at 0.12 USD per hour

    await hunt.fails(
        BudgetExceeded, r"^limits\.max_cost reached: 0\.000\d+ of 0\.0001 USD are spent"
    )

    assert len(scene.cloud.account) == 1
    assert 0.0001 <= hunt.journal.cost() <= 0.12 * hunt.seconds / 3600
    assert not (home() / "bad-hosts.json").exists()
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(45, "budget reached")
async def test_a_budget_that_a_new_price_uses_up_ends_the_training_with_a_checkpoint(
    scene, survived
):
    run = await scene.run(scene.job(max_steps=1000, eval_steps=500, limits={"max_cost": 0.5}))
    await scene.at_step(run, 15)

    scene.injected(run, "is billed at")
    scene.cloud.all[0].price_per_hour = 360.0  # 0.1 USD per second

    await survived(run, JobState.STOPPED, r"limits\.max_cost reached: .* of 0\.5 USD are spent")
    [hire] = scene.hires(run)
    assert hire.price_per_hour == 360.0
    assert 0.5 <= hire.cost() < 0.5 + 0.1 * 20
    assert list(RunFolder(run.id).checkpoints.glob("checkpoint-*"))


@pytest.mark.thorough
@pytest.mark.fault(45, "budget reached")
async def test_a_price_that_is_not_told_is_metered_as_offered(scene, hunt):
    scene.cloud.null_fields = {"cost"}
    hunt.wants(limits={"max_cost": 1.0})

    await hunt.machine()

    [hire] = hunt.journal.hires
    assert hire.price_per_hour == 0.12
    cost = hunt.journal.cost()
    await until(lambda: hunt.journal.cost() > cost)
    await hunt.over()


# 11: deleted by somebody.


@pytest.mark.thorough
@pytest.mark.fault(11, "instance deleted by somebody else")
async def test_a_machine_that_somebody_deleted_is_lost_and_the_job_goes_on_elsewhere(
    scene, survived
):
    run = await scene.run(scene.job(max_steps=150, eval_steps=75))
    await scene.at_step(run, 30)
    await until(lambda: list(RunFolder(run.id).checkpoints.glob("checkpoint-*")))

    scene.injected(run, "is gone, according to its provider")
    await asyncio.to_thread(scene.cloud.kill_machine, scene.cloud.all[0].id)

    await survived(run)
    first, second = scene.hires(run)
    assert first.cause.startswith("MachineLost: ")
    assert "is gone, according to its provider" in first.cause
    assert second.cause == "completed"
