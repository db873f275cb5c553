"""Train one job at every provider, against the local clouds of the tests, and print a table.

    <provider> <machine> <eval_loss> <adapter> <same: yes|no> <USD> <seconds> <left over>

The job is the quickstart, cut short; nothing of it changes but its provider. Same: every loss,
gradient norm and learning rate, and the adapter's SHA-256, are those of the provider `local`, to the last
bit. NAME-private: its machines are reached by a store alone. What is left over is what the account
still has when the job has ended and reconcile has run once.
Exits with 1 unless every provider trains the same and leaves nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from common import EXAMPLES, Place, fail, place

from blocks.home import runs
from blocks.keys import MachineKeys
from flows.job_file import load_job
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from tests.clouds.__main__ import CLOUDS
from tests.clouds.machines import SshdMachine
from trainer.contract.metrics import read_metrics

EXACT = ("train_loss", "eval_loss", "grad_norm", "learning_rate")
TRAINCTL = Path(sys.executable).with_name("trainctl")
BOOT_SECONDS = 1.0
Losses = dict[int, dict[str, Any]]


def main() -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("providers", nargs="*", help="default: all")
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    with place() as here:
        here.prefect_server()
        job = _job_file(here.folder / "job.json", given.steps)
        print(
            f"{'provider':10} {'machine':30} {'eval_loss':>9} {'adapter':12} {'same':4} "
            f"{'USD':>9} {'seconds':>7}  left over",
            flush=True,
        )
        good = True
        measure: Any = None
        for provider in ["local", *(given.providers or ["ssh", *CLOUDS])]:
            learned, well = _row(here, job, provider, measure)
            measure = measure or learned
            good = good and well
        return 0 if good else 1


def _job_file(path: Path, steps: int) -> Path:
    """Write the quickstart's job, cut to some steps."""
    job = load_job(EXAMPLES / "quickstart.yaml").model_dump(mode="json", exclude_unset=True)
    job["training"] |= {"max_steps": steps, "eval_steps": steps // 2, "save_steps": steps // 3}
    # Machines without GPUs, where a provider has such; one thread, for sums in one order.
    job["resources"] = {"gpu_count": 0, "cpu_threads": 1}
    path.write_text(json.dumps(job))
    return path


def _row(here: Place, job: Path, provider: str, measure: Any) -> tuple[Any, bool]:
    """Train at one provider and print its row; return what was learned, and whether all is well."""
    with _account(here, provider) as (variables, left_over):
        began = time.monotonic()
        known = set(runs().glob("*"))
        words = [TRAINCTL, "run", job, "--provider", provider.removesuffix("-private")]
        here.start(words, f"{provider}.log", **variables).finished()
        seconds = time.monotonic() - began
        here.start([TRAINCTL, "reconcile"], f"{provider}.log", **variables).finished()
        rest = left_over()
    [made] = set(runs().glob("*")) - known
    run = RunFolder(made.name)
    sha256 = json.loads(run.report.read_text())["sha256"]
    steps, _ = read_metrics(run.metrics)
    losses: Losses = {n: {key: steps[n].get(key) for key in EXACT} for n in sorted(steps)}
    same = measure in (None, (losses, sha256))
    journal = Journal.of(run)
    kinds = ", ".join(sorted({hire.instance_type for hire in journal.hires})) or "this computer"
    last = [row["eval_loss"] for row in losses.values() if row["eval_loss"] is not None][-1]
    print(
        f"{provider:10} {kinds:30} {last:9.4f} {sha256[:12]} {'yes' if same else 'no':4} "
        f"{journal.cost() or 0:9.6f} {seconds:7.1f}  {', '.join(rest) or 'nothing'}",
        flush=True,
    )
    return (losses, sha256), same and not rest


Account = tuple[dict[str, str], Callable[[], list[str]]]


@contextmanager
def _account(here: Place, provider: str) -> Iterator[Account]:
    """Open what a provider is tried on.

    Gives the variables that set it up, and what asks the account for whatever is left there.
    """
    if provider == "local":
        yield {}, list
    elif provider == "ssh":
        keys = MachineKeys("own")
        with SshdMachine(here.folder / "host", public_keys=[keys.public_key()]) as machine:
            host = f"{machine.user}@{machine.address}:{machine.port}"
            yield {"SSH_KEY_FILE": str(keys.private_key), "SSH_HOSTS": host}, list
    elif provider in CLOUDS:
        module, _, name = CLOUDS[provider].partition(":")
        with getattr(import_module(module), name)(here.folder / provider) as cloud:
            cloud.boot_seconds = BOOT_SECONDS
            yield cloud.environ(), cloud.alive
    else:
        fail(f"there is no provider {provider} here; there are: local, ssh, {', '.join(CLOUDS)}")


if __name__ == "__main__":
    sys.exit(main())
