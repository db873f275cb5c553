"""What the answers of Azure Resource Manager mean, by their codes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from blocks.providers.api import Answer, Unanswered
from trainer.contract.errors import (
    BootError,
    CapacityError,
    ConfigError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    OrchestratorError,
    ProviderError,
    QuotaError,
    RateLimited,
    Scope,
)

ABSENT = {"ResourceNotFound", "ResourceGroupNotFound", "NotFound", "ParentResourceNotFound"}
RIGHTS = (
    "Give the login the role of docs/azure.md on the resource group; a new assignment takes some "
    "minutes to work."
)
RAISE_QUOTA = "Ask for more under Quotas in the portal, or allow other GPU types or regions."


class GroupMissing(ProviderError):
    """The resource group is not there: nothing is hired in it."""


class _Meaning(NamedTuple):
    kind: type[OrchestratorError]
    codes: tuple[str, ...]
    suggestion: str | None = None
    scope: Scope | None = None


MEANINGS = (
    _Meaning(
        CapacityError,
        (
            *("SkuNotAvailable", "AllocationFailed", "ZonalAllocationFailed"),
            *("OverconstrainedAllocationRequest", "OverconstrainedZonalAllocationRequest"),
        ),
    ),
    # Such as the number of addresses: every machine in the region needs one.
    _Meaning(
        QuotaError,
        ("PublicIPCountLimitReached", "QuotaExceeded", "ResourceCountExceedsLimitDueToTemplate"),
        RAISE_QUOTA,
        Scope.REGION,
    ),
    _Meaning(GroupMissing, ("ResourceGroupNotFound",)),
    # Something else is at work on it, or on what it hangs from: it is tried again.
    _Meaning(
        RateLimited,
        (
            *("Conflict", "AnotherOperationInProgress", "OperationPreempted", "RetryableError"),
            *("NetworkingInternalOperationError", "ResourceGroupBeingDeleted", "NicInUse"),
            *("PublicIPAddressCannotBeDeleted", "InUseNetworkSecurityGroupCannotBeDeleted"),
            *("TooManyRequests", "RetryableErrorDueToAnotherOperation", "PreconditionFailed"),
        ),
        "It is tried again: something else is at work there.",
    ),
    _Meaning(
        BootError,
        ("OSProvisioningTimedOut", "VMStartTimedOut", "VMExtensionProvisioningError"),
    ),
    _Meaning(CredentialsError, ("AuthorizationFailed", "LinkedAuthorizationFailed"), RIGHTS),
    _Meaning(
        CredentialsError,
        ("InvalidAuthenticationToken", "ExpiredAuthenticationToken", "AuthenticationFailed"),
        "Log in anew, and look at the clock of this computer.",
    ),
    _Meaning(
        CredentialsError,
        ("SubscriptionNotFound", "InvalidSubscriptionId", "InvalidAuthenticationTokenTenant"),
        "Set AZURE_SUBSCRIPTION_ID to a subscription that the login may use.",
    ),
    _Meaning(
        FundsError,
        ("ReadOnlyDisabledSubscription", "SubscriptionDisabled"),
        "Raise the subscription's spending limit, or pay what is due.",
    ),
    _Meaning(
        ConfigError,
        (
            *("InvalidParameter", "ImageNotFound", "PlatformImageNotFound", "SkuNotSupported"),
            *("RequestDisallowedByPolicy", "BadRequest", "InvalidRequestContent"),
            *("InvalidResourceLocation", "LocationNotAvailableForResourceType"),
        ),
        "Correct the settings of the provider azure (docs/azure.md).",
    ),
)
_BY_CODE = {code: meaning for meaning in MEANINGS for code in meaning.codes}


def code_of(answer: Answer) -> str:
    """Return the code of a failure; empty where there is none."""
    match answer.data:
        case {"error": {"code": str(code)}} if not answer.ok:
            return code
    return ""


def is_absent(answer: Answer) -> bool:
    """Whether what was asked for is not there."""
    return answer.status == 404 and code_of(answer) in ABSENT


def data_of(answer: Answer) -> dict[str, Any]:
    """Return the object that an answer is.

    Raises:
        OrchestratorError: it reports a failure.
        Unanswered: it is something else.
    """
    if answer.ok and isinstance(answer.data, dict):
        return answer.data
    raise error_of(answer)


def error_of(answer: Answer) -> OrchestratorError:
    """Return what a failure means."""
    code = code_of(answer)
    words = str(answer.data["error"].get("message") or "") if code else f"HTTP {answer.status}"
    if answer.ok or answer.status == 408:
        return Unanswered(f"Azure's answer does not say what was done (HTTP {answer.status}).")
    if not code and answer.status == 401:
        return meaning_of("AuthenticationFailed", words)
    if not code:  # said by a proxy in front of the API
        return ConnectionLost(f"Azure says: {words}.")
    return meaning_of(code, words)


def meaning_of(
    code: str, words: str, *, otherwise: type[OrchestratorError] = ProviderError
) -> OrchestratorError:
    """Return the error that a code stands for.

    Args:
        code: of Azure.
        words: what it says with it.
        otherwise: what a code is that is not known.
    """
    words = " ".join(words.split()).rstrip(".")[:400]
    message = f"Azure says: {words or 'nothing'} ({code or 'no code'})."
    if quota := _quota(code, words):
        return quota
    if code == "MissingSubscriptionRegistration":
        return _unregistered(words)
    if "uthorizationFailed" in code and (action := re.search(r"action '([^']+)'", words)):
        place = re.search(r"scope '([^']+)'", words)
        message = (
            f"Azure: the login lacks the right {action[1]}{f' on {place[1]}' if place else ''}."
        )
    meaning = _BY_CODE.get(code)
    if meaning is None:
        return otherwise(message)
    error = meaning.kind(message, meaning.suggestion)
    if isinstance(error, ProviderError) and meaning.scope:
        error.ruling_out(meaning.scope)
    return error


def _quota(code: str, words: str) -> QuotaError | None:
    """Return the quota that a refusal is about: its code alone does not tell it from a conflict."""
    found = re.search(r"exceeding approved (.+?) (?:vCPU|Cores) quota", words, re.IGNORECASE)
    if found is None or code not in {"OperationNotAllowed", "QuotaExceeded"}:
        return None
    facts = {
        name: match[1] if (match := re.search(rf"{name}: ([\w.-]+)", words)) else "?"
        for name in ("Location", "Current Limit", "Current Usage", "Additional Required")
    }
    place, limit, used, needed = facts.values()
    return spent(found[1], place, limit=limit, used=used, needed=needed)


def spent(family: str, place: str, *, limit: object, used: object, needed: object) -> QuotaError:
    """Return the error of a quota that does not suffice, in vCPUs.

    What counts for the whole region rules out all of it; a family's quota leaves the others.
    """
    error = QuotaError(
        f"Azure's quota {family} in {place} has {used} of {limit} vCPUs in use, {needed} more are "
        "needed.",
        RAISE_QUOTA,
    )
    whole = family.lower() in {"total regional", "cores"}
    return error.ruling_out(Scope.REGION if whole else Scope.OFFER)


def _unregistered(words: str) -> ConfigError:
    name = re.search(r"namespace '([^']+)'", words)
    return unregistered(name[1] if name else "that the message names")


def unregistered(namespace: str) -> ConfigError:
    """Return the error of a resource provider that the subscription has not registered."""
    return ConfigError(
        f"Azure: the subscription has not registered the resource provider {namespace}.",
        f"Run: az provider register --namespace {namespace}",
    )


def text(row: Mapping[str, Any], *path: str) -> str:
    """Return a text that lies deep in an answer; empty where any part of the way is missing.

    Raises:
        TypeError: something on the way, or the text, is of another kind.
    """
    at: Any = row
    for name in path:
        if at is None:
            return ""
        if not isinstance(at, Mapping):
            raise TypeError(f"{at!r} is not an object")
        at = at.get(name)
    if at is None or isinstance(at, str):
        return at or ""
    raise TypeError(f"{at!r} is not a text")


def part(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object within an object; an empty one where it is missing.

    Raises:
        TypeError: it is something else.
    """
    found = row.get(name)
    if found is None or isinstance(found, Mapping):
        return found or {}
    raise TypeError(f"{found!r} is not an object")


def last(id: str) -> str:
    """Return the name at the end of a resource's id; Azure spells ids in various cases."""
    return id.rpartition("/")[2].lower()
