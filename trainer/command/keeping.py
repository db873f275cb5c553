"""Keep what another trainer leaves: checkpoints and output, with manifests. Stdlib only.

Files are taken over by hard links where the file system has them: they cost no room and outlive
the trainer's own tidying. A file that it writes to again no longer matches its manifest.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import time
from pathlib import Path

from trainer.command.plan import Plan
from trainer.contract.checkpoints import (
    NO_PART_OF_A_MODEL,
    STAGING,
    all_checkpoints,
    commit,
    newest_valid,
    prune,
    step_of,
)
from trainer.contract.errors import OrchestratorError, TrainingFailed
from trainer.contract.files import fsync_directory, link_or_copy, read_json
from trainer.contract.job_directory import JobDirectory
from trainer.contract.manifest import MANIFEST, refuse_pickles, write_manifest
from trainer.contract.metrics import final_metrics
from trainer.contract.words import number

Signature = tuple[tuple[str, int, int], ...]
LOOK_SECONDS = 1.0
INCOMPLETE = "checkpoint-is-incomplete.txt"  # transformers' sign that it is still being written
_NUMBER = re.compile(r"\d+")


class CheckpointKeeper:
    """Gives checkpoints that are complete a manifest, once each."""

    def __init__(self, directory: JobDirectory, plan: Plan) -> None:
        self._directory = directory
        self._plan = plan
        self._seen: dict[Path, tuple[Signature, float]] = {}
        self._kept: dict[Path, Signature] = {}
        self._looked_at = 0.0

    def catch_up(self) -> None:
        """Take over what an earlier attempt completed and left behind; the rest may be torn.

        What is torn in another project's own folder is removed: it would resume from it unasked.
        """
        # Without a marker, or up to the newest we have, what is there now counts as seen: it may be
        # torn, and a resumed run writes it again.
        have = max(map(step_of, all_checkpoints(self._directory.checkpoints)), default=-1)
        for folder in self._found():
            if not self._plan.marker or number_in(folder.name, have) <= have:
                self._kept[folder] = _signature(folder)
        self._take(0, self._plan.still_seconds)
        # Presets name the folder themselves; of a command we do not know whose files they are.
        if self._plan.trainer != "command":
            for folder in self._found():
                if folder not in self._kept:
                    shutil.rmtree(folder, ignore_errors=True)

    def look(self, step: int) -> list[Path]:
        """Take over what has become complete, and return its new places; looks once a second.

        Args:
            step: which step it is, for a folder whose name has no number.
        """
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return []
        self._looked_at = time.monotonic()
        return self._take(step, self._plan.still_seconds)

    def finish(self, step: int, *, orderly: bool) -> list[Path]:
        """Take over what is left now that the trainer has ended.

        Args:
            step: which step it was.
            orderly: whether it ended by itself, so that what it began to write is complete.
        """
        return self._take(step, 0.0 if orderly else self._plan.still_seconds)

    def _take(self, step: int, still_seconds: float) -> list[Path]:
        taken = []
        for folder in self._found():
            try:
                signature = _signature(folder)
                if signature and self._kept.get(folder) != signature:
                    if not self._is_complete(folder, signature, still_seconds):
                        continue
                    signature = _signature(folder)  # it may have been completed only now
                    taken.append(self._commit(folder, step))
                    self._kept[folder] = signature
            except FileNotFoundError:  # the trainer tidied it away meanwhile
                continue
        if taken:
            prune(self._directory.checkpoints, self._plan.save_total_limit)
        return [path for path in taken if path.exists()]

    def _found(self) -> list[Path]:
        pattern = self._plan.checkpoints
        found = self._directory.root.glob(pattern) if pattern else ()
        folders = [path for path in found if path.is_dir() and not path.is_symlink()]
        return sorted(folders, key=lambda path: (number_in(path.name, -1), path.name))

    def _is_complete(self, folder: Path, signature: Signature, still_seconds: float) -> bool:
        if (folder / INCOMPLETE).exists():
            return False
        # Written last by the trainer, so nothing needs to be waited for.
        if self._plan.marker:
            return _is_there(folder / self._plan.marker)
        before, since = self._seen.get(folder, ((), 0.0))
        now = time.monotonic()
        if before != signature:
            self._seen[folder], since = (signature, now), now
        return now - since >= still_seconds

    def _commit(self, folder: Path, step: int) -> Path:
        # Other programs name theirs epoch_3 or step-00000040-state; ours are all checkpoint-N.
        number = number_in(folder.name, step)
        staged = self._directory.checkpoints / STAGING / f"checkpoint-{number}"
        shutil.rmtree(staged, ignore_errors=True)
        _take_over(folder, staged)
        return commit(staged, self._directory.checkpoints, trainer=self._plan.trainer)


def _is_there(marker: Path) -> bool:
    """Whether a marker is there and, where it is JSON, complete."""
    return read_json(marker) is not None if marker.suffix == ".json" else marker.exists()


def number_in(name: str, otherwise: int) -> int:
    """Return the last number in the name of a checkpoint."""
    numbers = _NUMBER.findall(name)
    return int(numbers[-1]) if numbers else otherwise


def resume_point(directory: JobDirectory) -> tuple[Path | None, dict[str, str]]:
    """Return the newest valid checkpoint, and by name why newer ones were passed over.

    Invalid ones are removed: their steps are trained and saved again.
    """
    newest, rejected = newest_valid(directory.checkpoints)
    for path in all_checkpoints(directory.checkpoints):
        # Otherwise a checkpoint that is written again at the same step would be passed over as one
        # that we have.
        if newest is None or step_of(path) > step_of(newest):
            shutil.rmtree(path, ignore_errors=True)
    return newest, rejected


def keep_output(directory: JobDirectory, plan: Plan, facts: dict[str, str]) -> None:
    """Make the artifact of what the trainer wrote, without what does not belong to a model.

    Args:
        directory: the job's.
        plan: names the output.
        facts: what the model card says: name → value.

    Raises:
        TrainingFailed: there is no output.
        IntegrityError: it holds a pickle, or no weights as safetensors.
    """
    source, staged = directory.root / plan.output, directory.root / ".output"
    if not source.exists():
        raise TrainingFailed(
            f"The command ended well, but its output {plan.output} is not there.",
            "Correct training.command.output, or let the command write there: {output}.",
        )
    shutil.rmtree(staged, ignore_errors=True)
    metrics = final_metrics(directory.metrics)
    try:
        _take_over(source, staged, leave_out=NO_PART_OF_A_MODEL)
        # Before the manifest: what is refused must not look like a finished output.
        refuse_pickles(p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file())
        card = staged / "README.md"
        if not card.exists():
            shown = {**facts, **{name: number(value) for name, value in metrics.items()}}
            rows = [f"| {name} | {value} |" for name, value in shown.items()]
            table = "\n".join(["| name | value |", "| --- | --- |", *rows])
            card.write_text(f"# Trained by {plan.trainer}\n\n{table}\n", encoding="utf-8")
        write_manifest(staged, trainer=plan.trainer, metrics=metrics, data={})
    except (OSError, OrchestratorError):
        shutil.rmtree(staged, ignore_errors=True)
        raise
    shutil.rmtree(directory.output, ignore_errors=True)
    # In one step: the output is there entirely or not at all.
    staged.rename(directory.output)
    fsync_directory(directory.root)


def _signature(folder: Path) -> Signature:
    """Return names, sizes and times of the files of a folder."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(found)


def _take_over(source: Path, target: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Link or copy a file or a folder to a new place; links in it become what they lead to."""

    def unwanted(_folder: str, names: list[str]) -> set[str]:
        patterns = (*leave_out, MANIFEST)
        return {n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)}

    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link_or_copy, ignore=unwanted)
    else:
        target.mkdir()
        link_or_copy(str(source), str(target / source.name))
