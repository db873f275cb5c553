"""The report of a completed job: every fact that is known, in words that a person reads."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from rich.console import Console
from rich.markdown import Markdown

from blocks.models import Offer
from flows.renting.journal import Journal
from flows.reporting.report import as_markdown, make_report, seconds_trained
from flows.run_folder import RunFolder
from flows.shown import without_pictures
from flows.streaming.board import picture
from trainer.config import TrainingJob

SHA = "9" * 64
MANIFEST = {
    "files": {
        "adapter_model.safetensors": {"bytes": 2_628_688, "sha256": SHA},
        "README.md": {"bytes": 10, "sha256": "0" * 64},
    },
    "metrics": {"steps": 430.0, "eval_loss_first": 8.21134, "eval_loss": 0.342406},
    "usage": {
        "memory_gb": 0.66412,
        "memory_gb_predicted": 0.672,
        "seconds": 700.072,
        "seconds_predicted": 480.064,
    },
    "data": {"rows": 378, "train_rows": 340, "eval_rows": 38, "dropped": 0, "format": "messages"},
    "training": {"parameters": 1000, "trainable_parameters": 10, "dtype": "bfloat16"},
}
RENTED = Offer(
    provider="runpod", instance_type="RTX 4090", region="EU-1", price_per_hour=0.35, spot=True
)


def job_of(**training: Any) -> TrainingJob:
    base = {"model": "Qwen/Qwen3-0.6B", "dataset": "/data/chats.jsonl"}
    return TrainingJob.model_validate({"name": "support-bot", "training": base | training})


def steps_of(*attempts: tuple[int, str, str]) -> dict[int, dict[str, Any]]:
    moments = [(attempt, at) for attempt, *times in attempts for at in times]
    return {
        step: {
            "step": step,
            "attempt": attempt,
            "timestamp": f"2026-01-01T{at}+00:00",
            "train_loss": 4.0 / step,
            "tokens_per_second": 3485.6,
        }
        for step, (attempt, at) in enumerate(moments, 1)
    }


STEPS = steps_of((1, "10:00:00", "10:12:41"))


@pytest.fixture
def run() -> RunFolder:
    return RunFolder(uuid4())


def rows(markdown: str) -> dict[str, str]:
    """The cells of all tables: the left → the right."""
    return dict(re.findall(r"^\| (.+?) \| (.*) \|$", markdown, re.MULTILINE))


def test_a_report_has_all_that_a_person_wants_to_know(run):
    job = job_of(peft={"r": 8, "lora_alpha": 16}, max_length=256, num_train_epochs=10)
    report = make_report(job, run, Path("/out/bot"), MANIFEST, STEPS)

    markdown = as_markdown(job, report, picture(STEPS))

    assert markdown.startswith("# support-bot\n\nLoRA adapter for `Qwen/Qwen3-0.6B`, trained by ")
    assert "![curves at step 2](data:image/svg+xml;base64," in markdown
    cells = rows(markdown)
    for name, value in {
        "eval_loss (lower is better)": "8.211 → 0.3424",
        "base model": "`Qwen/Qwen3-0.6B`",
        "dataset": "`/data/chats.jsonl`",
        "rows": "340 trained on, 38 held out, 0 dropped; format messages",
        "length": "430 steps, 10 epochs",
        "batch": "8 examples: 8 per device × 1 accumulated",
        "learning rate": "0.0002, cosine schedule, warmup 3 % of the steps",
        "LoRA": "r 8, alpha 16; all linear layers",
        "max length": "256 tokens",
        "precision": "bfloat16",
        "seed": "42",
        "time": "12:41 min",
        "time in training steps": "11:40 min (predicted 8:00 min)",
        "speed": "3,486 tokens/s, median of the steps",
        "peak memory": "0.6641 GB (predicted 0.672 GB)",
        "folder": "`/out/bot`",
        "file": "`adapter_model.safetensors`",
        "size": "2.629 MB",
        "SHA-256": f"`{SHA}`",
    }.items():
        assert cells[name] == value
    assert 'AutoPeftModelForCausalLM.from_pretrained("/out/bot")' in markdown
    assert 'AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")' in markdown


def test_no_table_of_a_report_has_an_empty_header_or_a_long_number(run):
    job = job_of(method="dpo")
    manifest = MANIFEST | {"metrics": {"eval_loss": 0.123456789, "rewards/margins": 1.23456789}}

    markdown = as_markdown(job, make_report(job, run, Path("/out"), manifest, STEPS))

    headers = re.findall(r"^(\|.*\|)\n\| --- \| --- \|$", markdown, re.MULTILINE)
    assert len(headers) == 4
    assert all(re.fullmatch(r"\| [^|]+\S \| [^|]+\S \|", header) for header in headers)
    assert not re.findall(r"\d\.\d{5,}", markdown)
    assert rows(markdown)["rewards/margins (higher is better)"] == "1.235"


def test_a_rented_machine_its_price_and_its_losses_are_named(run):
    journal = Journal.of(run)
    for _ in range(2):
        hire = journal.begin(RENTED, "runpod")
        hire.instance_id, hire.metered_seconds = "abc", 3600.0
        hire.machine = {"gpu_type": "RTX 4090", "gpu_count": 1}
        journal.end(hire, "completed")
    journal.lost_machines, journal.lost_steps = 1, 17
    journal.save()
    job = job_of()

    report = make_report(job, run, Path("/out"), MANIFEST, STEPS)

    cells = rows(as_markdown(job, report))
    assert cells["machine"] == "runpod: RTX 4090 (spot), EU-1, 0.35 USD/h"
    assert cells["lost machines"] == "1; 17 steps were trained again"
    assert cells["cost"] == "0.7 USD until the result was verified"
    assert report["cost"] == pytest.approx(0.7, rel=1e-3)
    # By this it is known that the peak was measured on a GPU.
    assert report["machines"][0]["gpu_count"] == 1
    named = rows(as_markdown(job, report | {"cheaper": "runpod L4 at 0.2 USD/h"}))
    assert named["a cheaper machine would have done"] == "runpod L4 at 0.2 USD/h"


def test_what_costs_nothing_has_no_price(run):
    offer = Offer(provider="local", instance_type="CPU", region="local", price_per_hour=0.0)
    Journal.of(run).begin(offer, "local")
    job = job_of()

    cells = rows(as_markdown(job, make_report(job, run, Path("/out"), MANIFEST, STEPS)))

    assert cells["machine"] == "local: CPU"
    assert "cost" not in cells


def test_warnings_stand_above_everything_else(run):
    job = job_of()
    report = make_report(job, run, Path("/out"), MANIFEST | {"data": {"dropped": 3}}, STEPS)
    report["warning"] = "the result was NOT uploaded to ada/bot"

    lines = as_markdown(job, report).splitlines()

    assert lines[2] == "> **Warning:** the result was NOT uploaded to ada/bot"
    assert lines[4].startswith("> **Warning:** 3 of ")


def test_of_a_command_nothing_is_claimed_that_is_not_known(run):
    job = TrainingJob.model_validate(
        {
            "name": "letters",
            "training": {"trainer": "command", "command": {"run": ["python", "my.py"]}},
        }
    )
    files = {"model.safetensors": {"bytes": 512, "sha256": SHA}}
    manifest = {"files": files, "metrics": {"train_loss_first": 3.0, "train_loss": 2.0}}

    markdown = as_markdown(job, make_report(job, run, Path("/out"), manifest, {}))

    assert rows(markdown) == {
        "Result": "before → after",
        "---": "---",
        "train_loss (lower is better)": "3 → 2",
        "Training": "value",
        "command": "`python my.py`",
        "Run": "value",
        "time": "less than a second",
        "Artifact": "value",
        "folder": "`/out`",
        "file": "`model.safetensors`",
        "size": "512 bytes",
        "SHA-256": f"`{SHA}`",
    }
    assert "from_pretrained" not in markdown
    assert "none" not in markdown


def test_of_a_preset_settings_and_loading_are_known(run):
    job = job_of(trainer="llama-factory")
    manifest = {key: MANIFEST[key] for key in ("files", "metrics")} | {"data": {}}

    markdown = as_markdown(job, make_report(job, run, Path("/out"), manifest, STEPS))

    cells = rows(markdown)
    assert cells["trainer"] == "llama-factory"
    assert cells["LoRA"] == "r 16, alpha 32; all linear layers"
    assert cells["eval_loss (lower is better)"] == "0.3424"
    assert "peak memory" not in cells
    assert "AutoPeftModelForCausalLM" in markdown


def test_what_a_machine_writes_besides_numbers_does_not_reach_the_report(run):
    evil = "](javascript:alert(1)) | <script>"
    manifest = MANIFEST | {
        "metrics": {evil: 1.0, "eval_loss": evil, "train_loss": float("nan"), "reward": True},
        "data": {"format": evil, "rows": [1], "dropped": None},
        "training": {"dtype": evil, "processes": 1e400},
        "usage": evil,
    }
    job = job_of()

    report = make_report(job, run, Path("/out"), manifest, STEPS)

    assert report["data"] == report["training"] == report["usage"] == {}
    assert "script" not in as_markdown(job, report)


def note_first_row(run: RunFolder, row: Any) -> None:
    record = {"at": "2026-01-01T10:00:00+00:00", "step": None, "kind": "first_row"}
    line = json.dumps({**record, "message": "the first row", "facts": {"row": row}})
    run.events.write_text(f"{line}\n", encoding="utf-8")


@pytest.mark.parametrize(
    "row",
    [
        "a | b\\n# no heading\\n<script>alert(1)</script> ![x](http://evil.example/x.png) «it is»",
        "```python\\nprint()\\n``` and ````` five «`«``»` ~~~ <b>»",
        "`" * 300,
        "👩\u200d💻 «naïve» 漢字 **bold** [link](javascript:alert(1)) </code></pre>",
        "a\u202eb\x1b[31m c «d»",
        "x" * 599 + "…",
        "   ",
    ],
)
def test_the_first_row_is_shown_as_it_is_and_nothing_in_it_is_markdown(run, row):
    from markdown_it import MarkdownIt

    note_first_row(run, row)

    markdown = as_markdown(job_of(), make_report(job_of(), run, Path("/out"), MANIFEST, STEPS))

    blocks = [t for t in MarkdownIt("commonmark").parse(markdown) if t.type == "fence"]
    shown = [block.content for block in blocks if block.info == "text"]
    harmless = "".join(c if c.isprintable() or c == "\u200d" else " " for c in row).strip()
    assert [text.replace("\n", "") for text in shown] == ([harmless] if harmless else [])
    assert all(len(line) <= 100 for text in shown for line in text.splitlines())
    page = MarkdownIt("commonmark").render(markdown)
    assert not re.findall("<script|<b>|<img[^>]*evil|href=.javascript|<h1>no heading", page)


@pytest.mark.parametrize("row", [None, 7, ["a"], {"a": "b"}])
def test_a_first_row_that_is_no_text_is_left_out(run, row):
    note_first_row(run, row)

    assert make_report(job_of(), run, Path("/out"), MANIFEST, STEPS)["first_row"] is None


def test_the_report_is_json_with_the_job_and_every_number_in_full(run):
    job = job_of()

    report = json.loads(json.dumps(make_report(job, run, Path("/out"), MANIFEST, STEPS)))

    assert report["metrics"]["eval_loss"] == 0.342406
    assert report["seconds"] == 761.0
    assert TrainingJob.model_validate(report["job"]) == job


def test_a_terminal_gets_the_report_without_the_picture(run):
    job = job_of()
    markdown = as_markdown(
        job, make_report(job, run, Path("/out"), MANIFEST, STEPS), picture(STEPS)
    )

    text = without_pictures(markdown)
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    console.print(Markdown(text))

    shown = console.file.getvalue()
    assert "base64" not in text + shown
    assert "curves at" not in text + shown
    assert "12:41 min" in shown
    assert rows(text) == rows(markdown)


def test_the_time_between_a_pause_and_its_resume_is_not_training():
    steps = steps_of((1, "10:00:00", "10:01:00"), (2, "22:00:00", "22:02:00"))

    assert seconds_trained(steps) == 180.0
    assert seconds_trained({}) == 0.0
