"""What happens between two steps: obey, evaluate, record."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from transformers import TrainerCallback

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.errors import TrainingFailed
from trainer.contract.events import note_event, write_held
from trainer.contract.files import append_line
from trainer.contract.job_directory import JobDirectory, JobState, utc_now
from trainer.contract.metrics import OF_METHODS
from trainer.contract.trends import Trends
from trainer.contract.words import duration, number
from trainer.contract.world import own_rank
from trainer.engine.collectives import summed
from trainer.engine.control import ControlReader
from trainer.engine.divergence import diverged
from trainer.engine.failures import room_or_later
from trainer.engine.job_trainer import JobTrainer
from trainer.engine.parallelism import agree_on, agreed_end_state
from trainer.engine.telemetry import Telemetry

OF_EVERY_METHOD = {"loss", "grad_norm", "learning_rate", "epoch", "num_tokens"}
TIMINGS = ("_runtime", "_per_second")
STATUS_INTERVAL = 0.25  # seconds; status.json is for people and polls, not for every step


class Obedience(TrainerCallback):  # type: ignore[misc] # transformers is not checked
    """Pause, stop or merely save after the step under way."""

    def __init__(self, control_reader: ControlReader) -> None:
        self._control_reader = control_reader
        self._is_first_here = own_rank().is_first_here
        self.end_state: JobState | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check for a request once a step: two stat calls, and one collective among processes."""
        # One process of a machine asks for all, or each would have a checkpoint of its own saved.
        if self._is_first_here and self._control_reader.has_new_notice():
            control.should_save = True
        if self.end_state is None and (wanted := agreed_end_state(self._control_reader, control)):
            self.end_state = wanted
            control.should_save = True
            # The step is whole here, so the checkpoint resumes with the next one.
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Agree here too: the user's own callbacks may have asked for something."""
        agree_on(control)


class Evaluation(TrainerCallback):  # type: ignore[misc] # transformers is not checked
    """Evaluate by steps, by epochs and at the end; stop early; remember the best.

    What is best follows from the log history that every checkpoint holds, so there is no state
    of its own to lose.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._steps_per_epoch = 1
        self.best: tuple[int, float] | None = None
        """Step and eval_loss of the best evaluation so far."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Learn how many steps an epoch has, and what was best before a resume."""
        batches = len(kwargs["train_dataloader"])
        self._steps_per_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
        self._judge(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for an evaluation where one is due."""
        every = self._config.eval_steps or self._steps_per_epoch
        if state.global_step % every == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the best checkpoint, and stop when patience is at its end."""
        # Before the first step there is no checkpoint that could be the best.
        if self._config.early_stopping_patience is None or state.global_step == 0:
            return
        since_best = self._judge(state)
        if since_best == 0:
            control.should_save = True
        elif since_best >= self._config.early_stopping_patience:
            control.should_training_stop = True
            control.should_save = True

    def has_ended(self, state: Any) -> bool:
        """Whether training was over in this state of transformers: by steps, or stopped early."""
        since_best = self._judge(state)
        patience = self._config.early_stopping_patience
        stopped_early = patience is not None and since_best >= patience
        return stopped_early or bool(state.global_step >= state.max_steps)

    def best_steps(self) -> set[int]:
        """Return the step whose checkpoint must be kept: with early stopping, the best."""
        early = self._config.early_stopping_patience is not None
        return {self.best[0]} if early and self.best else set()

    def _judge(self, state: Any) -> int:
        """Set `best` from the history; return how many evaluations came after it.

        The evaluation before the first step does not count: it has no checkpoint to go back to.
        """
        since = 0
        self.best = None
        for entry in state.log_history:
            loss = entry.get("eval_loss")
            if loss is None or entry["step"] == 0:
                continue
            threshold = self._config.early_stopping_threshold
            if self.best is None or loss < self.best[1] - threshold:
                self.best, since = (entry["step"], loss), 0
            else:
                since += 1
        return since


class Recorder(TrainerCallback):  # type: ignore[misc] # transformers is not checked
    """Write metrics.jsonl, status.json and one line of log per logging step."""

    def __init__(self, directory: JobDirectory, trainer: JobTrainer, attempt: int) -> None:
        self._directory = directory
        self._trainer = trainer
        self._attempt = attempt
        self._telemetry = Telemetry()
        self._rank = own_rank()
        self._first: tuple[float, int] | None = None
        self._last = (time.monotonic(), 0, 0)
        self._evaluated = 0.0  # see `InParts.evaluation_seconds`
        self._status_at = 0.0
        self._trends = Trends(trainer.run.config.logging_steps)
        self._judged = not METHODS[trainer.run.config.method].generates  # there rewards count
        self._unwritten: list[str] = []
        """Records of metrics for which the disk had no room yet."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say that training runs; the clock of the speeds starts here."""
        # The counters begin at 0 in a resumed process as well.
        self._last = (time.monotonic(), 0, 0)
        self._trends.resume(state)
        self._write_status(state)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        """Record a step's loss or an evaluation's; anything else is transformers' summary."""
        if "loss" in logs:
            self._record_step(state, logs, mixed=args.fp16)
        elif "eval_loss" in logs:
            self._record_evaluation(state, logs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say at once how far training is; the checkpoint may still be on its way to the disk."""
        self._write_status(state)

    def _record_step(self, state: Any, logs: dict[str, Any], *, mixed: bool) -> None:
        loss, norm = logs["loss"], logs.get("grad_norm", 0.0)
        if mixed and math.isfinite(loss) and not math.isfinite(norm):
            norm = None  # float16 overflowed: its scaler left the step out and scales less
        if not (math.isfinite(loss) and (norm is None or math.isfinite(norm))):
            for row in self._trainer.recent.rows(self._trainer.run.tokenizer):
                print(f"a row of that step: {row}", flush=True)  # noqa: T201 - as _say
            what = f"At step {state.global_step} the loss was {loss} and the gradient norm {norm}"
            raise diverged(what, state)
        record = self._common(state) | {
            "train_loss": loss,
            **self._perplexity(loss),
            **of_method(logs),
            "learning_rate": logs["learning_rate"],
            "grad_norm": norm,
            **self._speed(state),
            **self._telemetry.read(),
        }
        event = self._trends.event(state.global_step, loss, state.max_steps)
        if event and self._judged:
            self._note(state.global_step, event, loss)
        self._append(record)
        _say(
            state,
            f"loss {number(loss)}{_shown(record)}",
            f"lr {number(logs['learning_rate'])}",
            "grad overflow" if norm is None else f"grad {number(norm)}",
            f"{number(record['tokens_per_second'])} tokens/s",
            f"ETA {duration(record['eta_seconds'])}",
        )
        if time.monotonic() - self._status_at > STATUS_INTERVAL:
            self._write_status(state)

    def _note(self, step: int, event: dict[str, str], loss: float) -> None:
        kind, message = event["kind"], event["message"]
        print(f"event {kind} at step {step}: {message}", flush=True)  # noqa: T201 - as _say
        if self._rank.is_first:
            note_event(self._directory, kind, message, step=step, loss=loss)

    def _record_evaluation(self, state: Any, logs: dict[str, Any]) -> None:
        loss = logs["eval_loss"]
        if not math.isfinite(loss) and state.global_step == 0:
            raise TrainingFailed(
                f"Before the first step the evaluation loss was {loss}.",
                "Check for held-out rows with nothing to learn from, and for broken weights "
                "in training.model.",
            )
        if not math.isfinite(loss):
            raise diverged(f"At step {state.global_step} the evaluation loss was {loss}", state)
        record = self._common(state) | {
            "eval_loss": loss,
            **self._perplexity(loss),
            **of_method(logs),
        }
        self._append(record)
        perplexity = record.get("perplexity")
        words = "" if perplexity is None else f"  perplexity {number(perplexity)}"
        held_out = self._trainer.run.eval_dataset
        names = list(held_out) if isinstance(held_out, dict) else []
        each = "".join(f"  {name} {number(logs[f'eval_{name}_loss'])}" for name in names)
        _say(state, f"eval_loss {number(loss)}{words}{each}{_shown(record)}")

    def _perplexity(self, loss: float) -> dict[str, float | None]:
        """Return exp(loss) where the loss is that of the next token.

        It is None where that is too large to mean anything.
        """
        if not METHODS[self._trainer.run.config.method].learns_from_tokens:
            return {}
        return {"perplexity": math.exp(loss) if loss < 100 else None}

    def _common(self, state: Any) -> dict[str, Any]:
        return {
            "step": state.global_step,
            "total_steps": state.max_steps,
            "epoch": round(state.epoch or 0.0, 4),
            "attempt": self._attempt,
            "timestamp": utc_now(),
        }

    def _speed(self, state: Any) -> dict[str, float | None]:
        now, tokens = time.monotonic(), int(self._trainer.tokens_seen)
        samples = int(self._trainer.samples_seen)
        # A collective: every rank must come here, so the check of the rank is in `_append`.
        tokens, samples = summed([tokens, samples])
        before, tokens_before, samples_before = self._last
        self._last = (now, tokens, samples)
        # The time of an evaluation is not that of a step; transformers measures it by the wall
        # clock.
        evaluated, self._evaluated = self._evaluated, self._trainer.evaluation_seconds
        seconds = max(now - before - (self._evaluated - evaluated), 1e-9)
        # The first step of a run also warms up; the pace is taken from the later ones.
        self._first = self._first or (now, state.global_step)
        started, first_step = self._first
        done = state.global_step - first_step
        pace = (now - started) / done if done else seconds / state.logging_steps
        return {
            "tokens_per_second": round((tokens - tokens_before) / seconds, 2),
            "samples_per_second": round((samples - samples_before) / seconds, 3),
            "eta_seconds": round(pace * (state.max_steps - state.global_step), 1),
        }

    def _append(self, record: dict[str, Any]) -> None:
        if not self._rank.is_first:
            return
        write_held(self._directory)
        # Held while the disk is full, so that the curve has no gap once there is room again.
        self._unwritten.append(json.dumps(record))
        with room_or_later():
            while self._unwritten:
                append_line(self._directory.metrics, self._unwritten[0])
                self._unwritten.pop(0)

    def _write_status(self, state: Any) -> None:
        if not self._rank.is_first_here:
            return
        self._status_at = time.monotonic()
        with room_or_later():
            self._directory.update_status(
                durable=False,
                state=JobState.RUNNING,
                step=state.global_step,
                total_steps=state.max_steps,
            )


def of_method(logs: dict[str, Any]) -> dict[str, float | None]:
    """Return what a method logs of its own, by TRL's names: rewards/margins, kl, reward, …"""
    return {
        name: value if math.isfinite(value) else None
        for name, value in logs.items()
        if name.removeprefix("eval_") not in OF_EVERY_METHOD
        and isinstance(value, int | float)
        and not name.endswith(TIMINGS)
    }


def _shown(record: dict[str, Any]) -> str:
    """Return the one or two metrics that show how well a method does, as words of a log line."""
    words = []
    for name in OF_METHODS:
        value = record.get(name, record.get(f"eval_{name}"))
        if value is not None:
            words.append(f"  {name.rpartition('/')[2]} {number(value)}")
    return "".join(words)


def _say(state: Any, *words: str) -> None:
    line = "  ".join([f"step {state.global_step}/{state.max_steps}", *words])
    with room_or_later():  # what was not written stays in the stream's buffer
        print(line, flush=True)  # noqa: T201 - standard output is the job's log
