"""Every causal architecture of the installed transformers, trained for two steps by our trainer.

    python -m tests.trainer.architectures.sweep [KIND …]

prints a row for each; without kinds it writes the table in docs/models.md. What is trained is a tiny
model with random weights, in a process of its own with a limit on its memory. Its losses are held
against those of plain transformers: each row by itself, without padding, by the logits alone.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.trainer.architectures.tiny import tiny_model_folder
from tests.trainer.jobs import Job
from trainer.contract.errors import OrchestratorError, TrainingFailed

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "models.md"
MARK = "<!-- the table is written by tests/trainer/architectures/sweep.py -->"
MEMORY = 16 * 2**30  # bytes of address space for one architecture
SECONDS = 240  # of the processor, which others may use too
CLOSE = 2e-3  # of a loss of about 8, in float32
BETA = 5.0  # of dpo: so that two steps show in its loss
OK, SLOWER, REFUSED, UNEXPLAINED = "ok", "slower path", "refused", "unexplained"
METHODS = ("sft", "dpo")
TALKS = [
    ("Which metal carries current?", "Copper does, and silver carries it better than any other."),
    ("Who reads notes?", "Zoe."),
    ("What is a batch of rows, and why does its size matter?", "Rows that are learned at once."),
    ("How many?", "Two hundred good examples, in eleven evenings, on the shared machine."),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one method on one architecture."""

    state: str
    words: str = ""


def outcomes(kind: str) -> dict[str, Outcome]:
    """Train an architecture in a process of its own; return an outcome for each method."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _confine()
        found = {name: asdict(outcome) for name, outcome in _trained(kind).items()}
        with os.fdopen(writing, "w") as stream:
            json.dump(found, stream)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if not said:
        ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else status
        return dict.fromkeys(METHODS, Outcome(UNEXPLAINED, f"its process ended: {ended}"))
    return {name: Outcome(**outcome) for name, outcome in json.loads(said).items()}


def _confine() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")  # pytest makes errors of them, also of what plain PEFT warns of
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(10 * SECONDS)  # one that waits for ever


def _trained(kind: str) -> dict[str, Outcome]:
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        root = Path(folder)
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            model = root / "model"
            try:
                tiny_model_folder(model, kind)
            except Exception as error:  # noqa: BLE001 - transformers cannot build it: can we say so?
                if not (model / "config.json").exists():
                    why = Outcome(UNEXPLAINED, f"no config: {_sentence(error)}")
                    return dict.fromkeys(METHODS, why)
            return {"sft": _caught(_sft, root, model), "dpo": _caught(_dpo, root, model)}


def _caught(method: Callable[[Path, Path], Outcome], root: Path, model: Path) -> Outcome:
    try:
        return method(root, model)
    except TrainingFailed as error:
        return Outcome(UNEXPLAINED, str(error))
    except OrchestratorError as error:
        return Outcome(REFUSED, error.message.replace(str(model), model.name))
    except Exception as error:  # noqa: BLE001 - that is what the sweep is for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(
            UNEXPLAINED, f"{_sentence(error)} ({Path(where.filename).name}:{where.lineno})"
        )


def _job(root: Path, model: Path, rows: list[dict[str, Any]], method: str) -> Job:
    data, is_built = root / f"{method}.jsonl", any(model.glob("*.safetensors"))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Job(
        root / method,
        method=method,
        model=str(model),
        dataset={"path": str(data), "eval_path": str(data)},
        peft={"r": 4, "lora_alpha": 8} if is_built else None,
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=len(rows),
        per_device_eval_batch_size=len(rows),
        learning_rate=0.01,
        init="pretrained" if is_built else "random",
        lr_scheduler_type="constant",
        eval_on_start=False,
        **({"beta": BETA} if method == "dpo" else {}),
    )


def _sft(root: Path, model: Path) -> Outcome:
    rows = [{"messages": [_turn("user", q), _turn("assistant", a)]} for q, a in TALKS]
    job = _job(root, model, rows, "sft")
    job.train()
    data, base = _prepared(job)
    first, last = job.metrics[1]["train_loss"], job.evaluations[2]
    expected = _mean(base, data.train) + _balance(base, data.train)
    if not abs(first - expected) < CLOSE:
        return Outcome(UNEXPLAINED, f"loss {first:.5g}, of plain rows {expected:.5g}")
    expected = _mean(_with_adapter(base, job), data.eval)
    if not abs(last - expected) < CLOSE:
        return Outcome(UNEXPLAINED, f"eval_loss {last:.5g}, of plain rows {expected:.5g}")
    return _way(job)


def _dpo(root: Path, model: Path) -> Outcome:
    rows = [
        {"prompt": question, "chosen": answer, "rejected": TALKS[number - 1][1]}
        for number, (question, answer) in enumerate(TALKS)
    ]
    job = _job(root, model, rows, "dpo")
    job.train()
    data, base = _prepared(job)
    before = [_likelihoods(base, row) for row in data.eval]
    tuned = _with_adapter(base, job)
    after = [_likelihoods(tuned, row) for row in data.eval]
    margins = [
        (better - old_better) - (worse - old_worse)
        for (old_better, old_worse), (better, worse) in zip(before, after, strict=True)
    ]
    expected = sum(math.log1p(math.exp(-BETA * margin)) for margin in margins) / len(margins)
    answers = [
        {"input_ids": row["prompt_ids"] + row[name]}
        for name in ("chosen_ids", "rejected_ids")
        for row in data.eval
    ]
    expected += _balance(tuned, answers)
    found = job.evaluations[2]
    if not abs(found - expected) < CLOSE:
        return Outcome(UNEXPLAINED, f"eval_loss {found:.5g}, of plain pairs {expected:.5g}")
    return _way(job)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _way(job: Job) -> Outcome:
    proof = json.loads((job.directory.cache / "proof.json").read_text())["proof"]
    words = proof["name"] + (" (loss from the logits)" if proof["loss_fault"] else "")
    return Outcome(OK if words == "by document" else SLOWER, words)


def _prepared(job: Job) -> tuple[Any, Any]:
    """Return a job's data, and its model as plain transformers loads it."""
    from transformers import AutoModelForCausalLM

    from trainer.data.tokenization import prepare_datasets
    from trainer.engine.model import load_tokenizer
    from trainer.training.train import read_config

    config = read_config(job.directory)
    data = prepare_datasets(config, load_tokenizer(config), job.directory.cache)
    return data, AutoModelForCausalLM.from_pretrained(config.model).eval()


def _with_adapter(base: Any, job: Job) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(base, job.directory.output).eval()


def _losses(model: Any, ids: list[int], labels: list[int]) -> Any:
    """Return the loss of each token but the first, 0 where there is nothing to learn."""
    import torch

    from trainer.methods.proof import without_cache

    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), **without_cache(model))
    logits = out.logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="none")


def _mean(model: Any, rows: Any) -> float:
    total = sum(float(_losses(model, row["input_ids"], row["labels"]).sum()) for row in rows)
    return total / sum(label != -100 for row in rows for label in row["labels"][1:])


def _balance(model: Any, rows: Any) -> float:
    """Return what the routers add over all rows at once, by transformers' own padded batch."""
    import torch

    text = model.config.get_text_config()
    weight = getattr(text, "router_aux_loss_coef", 0.0)
    if not weight or not hasattr(text, "output_router_logits"):
        return 0.0
    longest = max(len(row["input_ids"]) for row in rows)
    ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
    mask = [[int(at < len(row["input_ids"])) for at in range(longest)] for row in rows]
    text.output_router_logits = True
    with torch.no_grad():
        out = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    text.output_router_logits = False
    routers = getattr(out, "aux_loss", None)
    return float(weight * routers) if isinstance(routers, torch.Tensor) else 0.0


def _likelihoods(model: Any, row: dict[str, Any]) -> tuple[float, float]:
    """Return the log-likelihoods of the better and the worse answer."""
    found = []
    for name in ("chosen_ids", "rejected_ids"):
        ids = row["prompt_ids"] + row[name]
        labels = [-100] * len(row["prompt_ids"]) + row[name]
        found.append(-float(_losses(model, ids, labels).sum()))
    return found[0], found[1]


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:200]}"


def kinds() -> list[str]:
    """Return the names of all causal architectures."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def warm_up() -> None:
    """Import what every fork needs."""
    import peft  # noqa: F401 - for the forks
    import torch

    import trainer.methods.dpo
    import trainer.methods.sft
    import trainer.training.train  # noqa: F401 - for the forks

    torch.set_num_threads(1)


def main(wanted: list[str]) -> None:
    """Print the rows of these architectures, or of all, and then write them."""
    warm_up()
    began = time.monotonic()
    found: dict[str, dict[str, Outcome]] = {}
    for kind in wanted or kinds():
        found[kind] = outcomes(kind)
        print(row(kind, found[kind]), flush=True)  # noqa: T201 - that is what it is for
    minutes = (time.monotonic() - began) / 60
    print(f"{minutes:.1f} minutes")  # noqa: T201 - as above
    if not wanted:
        write([row(kind, outcome) for kind, outcome in found.items()], minutes)


def row(kind: str, found: dict[str, Outcome]) -> str:
    """Return it as a line of the table."""
    return f"| {kind} | {cell(found['sft'])} | {cell(found['dpo'])} |"


def cell(outcome: Outcome) -> str:
    """Return it as it stands in the table."""
    words = outcome.words.replace("|", "/").replace("\n", " ")
    return f"{outcome.state}{f': {words}' if words else ''}"


def write(lines: list[str], minutes: float) -> None:
    """Put the table in its page, with the time that it took."""
    from transformers import __version__

    counts = dict.fromkeys((OK, SLOWER, REFUSED, UNEXPLAINED), 0)
    for line in lines:
        for words in line.split(" | ")[1:]:
            counts[next(state for state in counts if words.startswith(state))] += 1
    head, _, _ = PAGE.read_text().partition(MARK)
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    table = ["| architecture | `sft` | `dpo` |", "| --- | --- | --- |", *lines]
    text = f"{len(lines)} architectures of transformers {__version__}, two methods each: {summary}."
    text = f"{text} Tried one after another, in {minutes:.0f} minutes."
    PAGE.write_text("\n".join([head + MARK, "", text, "", *table, ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
