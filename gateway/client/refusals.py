"""What a call may raise; each says in its text what to do.

OrchestratorError
├── RequestRejected        correct the call; `.status` is that of HTTP
│   ├── JobNotFound        there is no such job, or it is not yours to see
│   └── NotPermitted       the key is missing, wrong, over, or may not do this
├── ServiceFailed          the service failed by it; its log says why
├── ServiceUnreachable     nobody answers; it was tried several times
└── IntegrityError         what came is not what was trained (of `trainer.contract.errors`)
"""

from __future__ import annotations

import httpx

from trainer.contract.errors import OrchestratorError

NOT_JSON = "an answer that is no JSON; is there something else at this address?"


class RequestRejected(OrchestratorError):
    """The service does not do what was asked."""

    default_suggestion = "Correct the call."

    def __init__(
        self, message: str, suggestion: str | None = None, *, status: int = 400, again: bool = False
    ) -> None:
        super().__init__(message, suggestion)
        self.status = status
        """Of HTTP."""
        self.again = again
        """Whether an answer was lost before this one: what was asked may have been done by then."""


class JobNotFound(RequestRejected):
    """There is no such job, or none that this key may see."""

    default_suggestion = "list_jobs() returns those that there are."


class NotPermitted(RequestRejected):
    """The key is missing or wrong, or may not do this."""

    default_suggestion = "Give key=…, one whose scope allows it; see 'trainctl keys --help'."


class ServiceFailed(OrchestratorError):
    """The service failed by the call."""

    default_suggestion = "The service's log says why; the call may be made again."


class ServiceUnreachable(OrchestratorError):
    """No service answers at the address."""

    default_suggestion = (
        "Check the address, and start the service there: trainctl serve. Without an address, "
        "TrainingOrchestrator() does without a service."
    )


def rejected(answer: httpx.Response, *, again: bool = False) -> OrchestratorError:
    """Return the error of an answer that is none of success; see `RequestRejected` for `again`."""
    status, said = answer.status_code, _said(answer)
    message = f"{answer.request.method} {answer.request.url.path}: {said}"
    match status:
        case 401 | 403:
            return NotPermitted(message, status=status, again=again)
        case 404:
            return JobNotFound(message, status=status, again=again)
        case _ if status >= 500:
            return ServiceFailed(message)
        case _:
            return RequestRejected(message, status=status, again=again)


def _said(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
    except ValueError:
        return f"{answer.status_code}, {NOT_JSON}"
    detail = problem.get("detail") if isinstance(problem, dict) else None
    return str(detail or problem)
