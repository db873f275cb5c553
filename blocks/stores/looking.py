"""What a store allows us, and how long it keeps what: for checks before anything is spent."""

from __future__ import annotations

import asyncio
from typing import Any

from blocks.stores.bucket import Bucket
from blocks.stores.trouble import Right, explained
from trainer.contract.errors import ConfigError, DependencyError, StoreError

TRIED = "tried"
"""The key of the object that a check writes; it stays, for to remove things may not be allowed."""
ABORT_DAYS = 1
RULE_ID = "training-orchestrator-unfinished-uploads"
ONE_PIECE = {
    "gs": "every file goes up in one request: nothing unfinished can stay",
    "az": "Azure drops blocks that were never committed after a week",
    "file": "a folder has no unfinished uploads",
}


async def check_usable(bucket: Bucket) -> str:
    """Write, read and list a little; return in words what is possible.

    Raises:
        StoreError: naming the store, the right that is missing, and the remedy.
    """
    content = b"written by trainctl to see whether it may\n"
    await bucket.put(TRIED, content)
    if await bucket.get(TRIED) != content:
        raise StoreError(f"{bucket.url}: what was written is not what is read.")
    await bucket.entries(TRIED)
    return f"can be written, read and listed; {await _ways(bucket)}"


async def _ways(bucket: Bucket) -> str:
    if not bucket.can_sign:
        return "machines elsewhere reach it through this computer"
    try:
        await bucket.sign("PUT", [TRIED], 60)
    except StoreError:
        return "these credentials sign no addresses, so machines reach it through this computer"
    return "machines bring checkpoints there by signed addresses"


async def unfinished_uploads(bucket: Bucket) -> str:
    """Return in words what becomes of uploads in parts that were never finished.

    Raises:
        StoreError: the rules may not be read.
    """
    if known := ONE_PIECE.get(bucket.url.scheme):
        return known
    try:
        days = await asyncio.to_thread(_abort_days, bucket)
    except DependencyError as error:
        return f"unfinished uploads: not looked at: {error}"
    if days is None:
        return "unfinished uploads stay, and are billed: set a rule with --set-rule"
    return f"unfinished uploads are removed after {days} day{'s' if days > 1 else ''}"


async def set_rule(bucket: Bucket) -> None:
    """Let the store remove uploads that were not finished within a day; other rules stay.

    Raises:
        ConfigError: this kind of store needs none.
        DependencyError: boto3 is not installed.
        StoreError: the rules may not be changed.
    """
    if known := ONE_PIECE.get(bucket.url.scheme):
        raise ConfigError(f"{bucket.url} needs no such rule: {known}.", "Leave --set-rule away.")
    await asyncio.to_thread(_add_rule, bucket)


def _abort_days(bucket: Bucket) -> int | None:
    """Return after how many days unfinished uploads to this place are removed; None: never."""
    keys = f"{bucket.url.path}/" if bucket.url.path else ""  # what ours begin with
    found = [
        int(rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"])
        for rule in _rules(bucket)
        if rule.get("Status") == "Enabled"
        and "AbortIncompleteMultipartUpload" in rule
        and keys.startswith(_prefix(rule))
    ]
    return min(found, default=None)


def _prefix(rule: dict[str, Any]) -> str:
    found = rule.get("Filter") or rule
    # A filter by several things is narrower than its prefix: it is taken not to apply.
    return str(found.get("Prefix") or "") if "And" not in found and "Tag" not in found else "\0"


def _rules(bucket: Bucket) -> list[dict[str, Any]]:
    client, refused = _client(bucket)
    try:
        answer = client.get_bucket_lifecycle_configuration(Bucket=bucket.url.bucket)
    except refused as error:
        if "NoSuchLifecycleConfiguration" in str(error):
            return []
        raise _as_ours(error, bucket, Right.RULES) from None
    return list(answer.get("Rules", []))


def _add_rule(bucket: Bucket) -> None:
    client, refused = _client(bucket)
    # The call replaces them all: what others have set goes along as it is.
    rules = [rule for rule in _rules(bucket) if rule.get("ID") != RULE_ID]
    rules.append(
        {
            "ID": RULE_ID,
            "Status": "Enabled",
            "Filter": {"Prefix": f"{bucket.url.path}/" if bucket.url.path else ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_DAYS},
        }
    )
    try:
        client.put_bucket_lifecycle_configuration(
            Bucket=bucket.url.bucket, LifecycleConfiguration={"Rules": rules}
        )
    except refused as error:
        raise _as_ours(error, bucket, Right.SET_RULES) from None


def _client(bucket: Bucket) -> tuple[Any, tuple[type[Exception], ...]]:
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise DependencyError(
            "the rules of a bucket need boto3, which is not installed.",
            "pip install 'training-orchestrator[aws]'.",
        ) from None
    access = bucket.access
    client = boto3.client(
        "s3",
        endpoint_url=access.endpoint or None,
        region_name=access.region or None,
        aws_access_key_id=access.key_id or None,
        aws_secret_access_key=access.secret or None,
    )
    return client, (BotoCoreError, ClientError)


def _as_ours(error: Exception, bucket: Bucket, right: Right) -> StoreError:
    response = getattr(error, "response", {})
    code = response.get("Error", {}).get("Code", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"status code: {status} <Code>{code}</Code><Message>{error}</Message>"
    return explained(StoreError(said), bucket.url, right)
