"""Every error of the product, in one family tree. Standard library only.

Each class says what the caller does next (`Action`) and carries a suggestion for a person:

    OrchestratorError
    ├── ConfigError              stop: tell the user which field, which value, which remedy
    │   ├── DataError            stop: the dataset is wrong; rows are named
    │   └── ModelNotFound        stop: neither a folder nor a model the Hub gives us
    ├── CodeError                stop: the user's own code raised an error, or returned nonsense
    ├── DependencyError          stop: something that must be installed is not
    ├── OutOfMemory              retry: with half the batch and twice the accumulation
    ├── TrainingDiverged         retry: once, from the last checkpoint with half the learning rate
    ├── TrainingStalled          retry: no sign of life for too long
    ├── TrainerKilled            retry: a signal ended the trainer
    ├── PeerLost                 retry: another process of the training went away
    ├── TrainingFailed           stop: anything else that ended the trainer
    ├── ShareExceeded            stop: it used more of a shared GPU than it had
    ├── DiskFull                 stop: with both sizes
    │   └── HomeDiskFull         retry: what a machine holds waits for room on this computer
    ├── IntegrityError           stop: bytes are not what the manifest says
    │   └── CheckpointDamaged    retry: a machine of several is brought its part once more
    ├── ConnectionLost           retry: the machine may still be well
    ├── StoreError               stop: an object store refuses: no such bucket, no right, a wrong key
    │   ├── StoreAway            retry: it does not answer, or asks to slow down
    │   └── LinkExpired          retry: a signed address no longer permits what it did
    ├── MachineLost              elsewhere: continue from the newest checkpoint
    │   ├── GpuSick              elsewhere: the GPU is broken, and taken out of use
    │   ├── TimeUp               elsewhere: the time for which the machine was given is over
    │   └── HostKeyChanged       elsewhere: what answers is not the machine we hired
    └── ProviderError
        ├── CapacityError, QuotaError, BootError        elsewhere
        │   └── GpusTaken                               elsewhere: on other GPUs, once there are some
        ├── RateLimited                                 retry
        │   └── GpusBusy                                retry: none is free now
        └── CredentialsError, FundsError, BudgetExceeded    stop
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar, Self

from trainer.contract.redaction import redacted


class Action(StrEnum):
    """What a caller does about an error."""

    RETRY = "retry"
    ELSEWHERE = "elsewhere"
    STOP = "stop"


class Scope(StrEnum):
    """What an error of a provider rules out, besides the very order that failed."""

    OFFER = "offer"
    """This kind of machine in this place."""
    ZONE = "zone"
    """Every machine in this zone."""
    REGION = "region"
    """Every machine in this region, as an exhausted quota does."""
    ACCOUNT = "account"
    """Every machine of this account."""


class OrchestratorError(Exception):
    """The root: one sentence for a person, and a suggestion to act on."""

    action: ClassVar[Action] = Action.STOP
    default_suggestion: ClassVar[str] = "Read the log above this line for the cause."

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        # A provider's answer, or a library's error, may quote the key that was sent.
        self.message = redacted(message)
        super().__init__(self.message)
        self.suggestion = redacted(suggestion or self.default_suggestion)

    def __str__(self) -> str:
        return f"{self.message} {self.suggestion}"

    def __reduce__(self) -> tuple[type[OrchestratorError], tuple[str, str]]:
        return type(self), (self.message, self.suggestion)

    def to_dict(self) -> dict[str, str]:
        """Return the record kept in `status.json`: class, message and suggestion."""
        return {
            "class": type(self).__name__,
            "message": self.message,
            "suggestion": self.suggestion,
        }


class ConfigError(OrchestratorError):
    default_suggestion = "Correct the job file and run it again."


class DataError(ConfigError):
    default_suggestion = "Correct the rows named above and run the job again."


class ModelNotFound(ConfigError):
    default_suggestion = (
        "Give the path of a folder with config.json, or the name of a model on the Hub "
        "(and HF_TOKEN when it is private)."
    )


class CodeError(OrchestratorError):
    default_suggestion = "Correct the file and run the job again."


class DependencyError(OrchestratorError):
    default_suggestion = "Install what is missing and run the job again."


class OutOfMemory(OrchestratorError):
    action = Action.RETRY
    default_suggestion = (
        "Lower max_length, set gradient_checkpointing: true, or choose a machine with more memory."
    )


class TrainingDiverged(OrchestratorError):
    action = Action.RETRY
    default_suggestion = "Lower learning_rate, add warmup_steps, or look for broken rows."


class TrainingStalled(OrchestratorError):
    action = Action.RETRY
    default_suggestion = (
        "The stacks in train.log show where it hung; raise limits.stall_timeout_minutes if "
        "a single step may take that long."
    )


class TrainerKilled(OrchestratorError):
    action = Action.RETRY
    default_suggestion = (
        "If no one killed it, the machine ran out of memory: lower max_length or the batch size."
    )


class PeerLost(OrchestratorError):
    action = Action.RETRY
    default_suggestion = (
        "Look at the logs of the other machines; if nothing ended there, look at the network "
        "between them."
    )


class TrainingFailed(OrchestratorError):
    default_suggestion = "The last lines of train.log show the cause."


class ShareExceeded(OrchestratorError):
    default_suggestion = (
        "Raise resources.min_vram_gb to what the job needs, or lower its batch size or max_length, "
        "and resume it."
    )


class DiskFull(OrchestratorError):
    default_suggestion = "Free disk space or lower save_total_limit, then resume the job."


class HomeDiskFull(DiskFull):
    """The disk of the computer that has the orchestrator: what a machine holds waits for room."""

    action = Action.RETRY
    default_suggestion = "Free disk space on this computer; it is tried again meanwhile."


class IntegrityError(OrchestratorError):
    default_suggestion = "The file was not kept. Run the job again to fetch or make it again."


class CheckpointDamaged(IntegrityError):
    """A machine of several has not what the others go on from; it is brought there once more."""

    action = Action.RETRY
    default_suggestion = "It is brought to the machine anew, and training starts again."


class ConnectionLost(OrchestratorError):
    action = Action.RETRY
    default_suggestion = "The connection is retried; training continues meanwhile."


class StoreError(OrchestratorError):
    default_suggestion = "Look at the store's own console, and at docs/stores.md."


class StoreAway(StoreError):
    action = Action.RETRY
    default_suggestion = "It is tried again; look at the network and the store's status page."


class LinkExpired(StoreError):
    action = Action.RETRY
    default_suggestion = "Another one is signed."


class MachineLost(OrchestratorError):
    action = Action.ELSEWHERE
    default_suggestion = "The job continues on another machine from its newest checkpoint."


class GpuSick(MachineLost):
    """A GPU broke while a job had it; nobody else gets it until it is healed."""

    default_suggestion = (
        "The job continues on other GPUs. Reset this one, then: trainctl gpus heal UUID."
    )


class TimeUp(MachineLost):
    """The machine was given for a time, and that is over: nobody took it back."""


class HostKeyChanged(MachineLost):
    default_suggestion = (
        "Nothing was sent to it. If you set the host up anew, remove the file named above."
    )


class ProviderError(OrchestratorError):
    default_suggestion = "Look at the provider's own console."
    scope: Scope = Scope.OFFER
    """What it rules out; a provider that knows better sets it with `ruling_out`."""

    zones: tuple[str, ...] = ()
    """Where its provider says that what it lacks is to be had; those are tried first."""

    def ruling_out(self, scope: Scope) -> Self:
        """Return this error, with another scope."""
        self.scope = scope
        return self

    def pointing_to(self, zones: Iterable[str]) -> Self:
        """Return this error, naming zones that have what was asked for."""
        self.zones = tuple(zones)
        return self

    def to_dict(self) -> dict[str, str]:
        """Return the record of the root, with the scope."""
        return {**super().to_dict(), "scope": self.scope.value}


class CapacityError(ProviderError):
    action = Action.ELSEWHERE
    default_suggestion = "Allow more GPU types, regions or providers in resources."


class QuotaError(ProviderError):
    action = Action.ELSEWHERE
    scope = Scope.REGION
    default_suggestion = "Ask the provider to raise the quota, or allow other providers."


class BootError(ProviderError):
    action = Action.ELSEWHERE
    default_suggestion = "Another offer is tried; nothing is left running."


class RateLimited(ProviderError):
    action = Action.RETRY
    default_suggestion = "The call is repeated after the pause that the provider asks for."


class GpusTaken(CapacityError):
    """Others have the GPUs that a job was to have."""

    default_suggestion = "Other GPUs are tried; 'trainctl gpus' shows who has which."


class GpusBusy(RateLimited):
    """There are GPUs that would do, and others have all of them now."""

    default_suggestion = "They are waited for; 'trainctl gpus' shows who has which."


class CredentialsError(ProviderError):
    scope = Scope.ACCOUNT
    default_suggestion = "Set a valid key for this provider."


class FundsError(ProviderError):
    scope = Scope.ACCOUNT
    default_suggestion = "Add funds to the provider's account."


class BudgetExceeded(ProviderError):
    default_suggestion = "Raise limits.max_cost to go on; the newest checkpoint is kept."


def family(root: type[OrchestratorError]) -> dict[str, type[OrchestratorError]]:
    """Return an error and all that are of its kind, by name."""
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= family(child)
    return found


def from_dict(record: dict[str, str]) -> OrchestratorError:
    """Rebuild the error that `to_dict` wrote; an unknown class becomes `TrainingFailed`."""
    # Looked up among our own classes only: the record may come from a machine that we rented.
    kind = family(OrchestratorError).get(record.get("class", ""), TrainingFailed)
    error = kind(record.get("message", "The trainer gave no reason."), record.get("suggestion"))
    if isinstance(error, ProviderError) and record.get("scope") in set(Scope):
        error.ruling_out(Scope(record["scope"]))
    return error
