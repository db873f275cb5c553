"""What the benchmarks share: a folder of their own, processes that never outlive them, medians."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from gateway.prefect.server import SETTINGS
from trainer.contract.files import replace_json
from trainer.contract.job_directory import JobDirectory

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MAKE_LLAMA = """
import sys
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed
set_seed(0)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
size, layers, heads = map(int, sys.argv[3:])
config = LlamaConfig(vocab_size=8192, hidden_size=size, intermediate_size=size * 43 // 16,
    num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
    max_position_embeddings=1024, tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id,
    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, dtype="float32")
LlamaForCausalLM(config).save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""
SERVER_SECONDS = 180.0
END_SECONDS = 20.0  # a process asked to end is killed after this


def options(text: str, rounds: int = 3, **more: Any) -> argparse.Namespace:
    """Parse `--quick`, `--rounds` and numbers of the benchmark's own, given with their defaults."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run: one round, small sizes")
    parser.add_argument("--rounds", type=int, default=None, help=f"default {rounds}; quick 1")
    for name, default in more.items():
        parser.add_argument(
            f"--{name}", type=type(default), default=None, help=f"default {default}"
        )
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else rounds)
    for name, default in more.items():
        if getattr(given, name) is None:
            setattr(given, name, default)
    return given


class Place:
    """A benchmark's temporary folder, its environment, and the processes that it started."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.home = folder / "home"
        """The orchestrator's home of this benchmark, for every process in it."""
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
            "TRAINING_ORCHESTRATOR_HOME": str(self.home),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the API still gets every line
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",  # CPU seconds of two arms compare only at equal threads
        }
        self._stack = stack
        self.server_pid = 0

    def start(self, command: Sequence[object], log: str, **environment: str) -> Process:
        """Start a command; what it prints goes to the file `log`. It ends with the benchmark."""
        path = self.folder / log
        with path.open("ab") as stream:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=self.environment | environment,
                start_new_session=True,
            )
        self._stack.callback(end, process)
        return Process(process, path)

    def python(self, *words: object, **environment: str) -> str:
        """Run this Python to its end and return what it printed; a failure ends the benchmark."""
        log = f"{time.monotonic_ns()}.log"
        return self.start([sys.executable, *words], log, **environment).finished()

    def prefect_server(self) -> str:
        """Start a Prefect server as ours is, for this process too, and return the URL of its API."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ["-m", "gateway.prefect.serving", "server", "start"]
        command += ["--host", "127.0.0.1", "--no-ui"]
        server = self.start([sys.executable, *command, "--port", port], "server.log", **SETTINGS)
        self.server_pid = server.process.pid
        url = f"http://127.0.0.1:{port}/api"
        wait_until(lambda: _healthy(url) or server.must_live(), SERVER_SECONDS)
        self.environment["PREFECT_API_URL"] = url
        os.environ.update(self.environment)  # before anything here imports Prefect
        return url

    def job_directory(self, name: str, config: dict[str, Any], **more: Any) -> JobDirectory:
        """Make a job directory with this config, ready for `python -m trainer`."""
        job = JobDirectory(self.folder / name)
        job.root.mkdir()
        replace_json(job.job, {"config": config, **more})
        return job

    def llama(self, name: str, *, hidden_size: int, layers: int, heads: int) -> Path:
        """Make a Llama at random with a head of 8,192 tokens; its tokenizer is the tiny model's."""
        folder = self.folder / name
        self.python("-c", MAKE_LLAMA, EXAMPLES / "tiny-llama", folder, hidden_size, layers, heads)
        return folder

    def end_trainings(self) -> None:
        """Kill whatever still trains: a trainer outlives the process that started it."""
        for file in self.folder.rglob("job.json"):
            job = JobDirectory(file.parent)
            status = job.read_status()
            # The supervisor goes first, for it would start the trainer again.
            for pid in filter(None, (status.pid, status.trainer_pid) if job.is_alive() else ()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Process:
    """A process that the benchmark started, and what it prints."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def finished(self) -> str:
        """Wait for its end and return what it printed; a failure ends the benchmark."""
        if code := self.process.wait():
            fail(f"exit code {code} of {self.process.args!r}:\n{self.log.read_text()[-3000:]}")
        return self.log.read_text()

    def must_live(self) -> bool:
        """Return False; end the benchmark when the process has ended."""
        if self.process.poll() is not None:
            fail(f"{self.process.args!r} ended:\n{self.log.read_text()[-3000:]}")
        return False


@contextmanager
def place() -> Iterator[Place]:
    """Yield a place of work; processes and files are gone afterwards, also on Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores the first
        signal.signal(number, _interrupt)
    print(f"{os.cpu_count()} cores, load {_load()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        with ExitStack() as stack:
            here = Place(Path(folder), stack)
            stack.callback(here.end_trainings)
            yield here
        print(f"load at the end {_load()}", flush=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its session: ask, wait, and kill who does not listen."""
    for _ in range(2):  # a supervisor saves a checkpoint first, unless it is asked twice
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS / 2)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], Any], seconds: float, every: float = 0.05) -> Any:
    """Return the first true answer of `condition`; no answer in time ends the benchmark."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(every)
    return fail(f"waited {seconds:.0f} s in vain")


def write_chats(path: Path, length: int, rows: int = 400) -> Path:
    """Write chats of up to about `length` tokens; most are much shorter, as real ones are."""

    def chat(draw: Draw) -> dict[str, Any]:
        words = draw(1.0)
        turns = [("user", words[: len(words) // 4]), ("assistant", words[len(words) // 4 :])]
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    return _write_rows(path, length, rows, chat)


def write_pairs(path: Path, length: int, rows: int = 128) -> Path:
    """Write prompts with two answers, of up to about `length` tokens together, as `write_chats`."""

    def pair(draw: Draw) -> dict[str, Any]:
        said = {"prompt": draw(0.25), "chosen": draw(0.75), "rejected": draw(0.75)}
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return {name: [{"role": roles[name], "content": text}] for name, text in said.items()}

    return _write_rows(path, length, rows, pair)


Draw = Callable[[float], str]
"""Draws a text of some share of a row."""


def _write_rows(path: Path, length: int, rows: int, make: Callable[[Draw], Any]) -> Path:
    text = "".join(json.loads(t)["text"] for t in (EXAMPLES / "corpus.jsonl").open())
    random_numbers = random.Random(0)  # noqa: S311 - no secret
    longest = 2 * length  # characters; a token of the example's tokenizer has two or more

    def draw(share: float) -> str:
        most = share * longest
        size = max(16, int(min(most, random_numbers.lognormvariate(-1.2, 0.9) * most)))
        start = random_numbers.randrange(len(text) - size)
        return text[start : start + size]

    with path.open("w") as stream:
        for _ in range(rows):
            stream.write(json.dumps(make(draw)) + "\n")
    return path


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread(values: Sequence[float], unit: str = "s") -> str:
    """Return median and range as a person reads them."""
    return f"{median(values):8.2f} {unit}  ({min(values):.2f} to {max(values):.2f})"


def conclude(name: str, ratio: float, sense: str, goal: float) -> None:
    """Print the last line: the ratio and its goal. A missed goal is a figure, not a failure."""
    print(f"{name} {ratio:.3f} (goal {sense} {goal:g})", flush=True)


def fail(message: str) -> NoReturn:
    """End the benchmark: its result would be wrong, not slow."""
    print(message, file=sys.stderr)
    sys.exit(1)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310 - ours
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)
