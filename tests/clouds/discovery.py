"""Whether a cloud keeps to Google's discovery document, which a package of the tests ships."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

KINDS = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": Mapping,
    "array": list,
}


class Discovered:
    """Collects what requests and answers have that the document does not allow."""

    def __init__(self, name: str, base: str) -> None:
        """Read the document.

        Args:
            name: its file, such as compute.v1.json.
            base: where the API begins, such as /compute/v1/.
        """
        self._document = _read(name)
        self._base = base
        self.violations: list[str] = []
        self.checked = 0
        """How many requests and answers were held against a schema."""

    def wrong(self, method: str, path: str, query: Mapping[str, str], body: Any) -> list[str]:
        """Return what a request has that the document does not allow."""
        operation = self._operation(method, path)
        if operation is None:
            return [f"{method} {path}: not in the document"]
        known = {**operation.get("parameters", {}), **self._document["parameters"]}
        wrong = [f"the parameter {name} is not known" for name in query if name not in known]
        if "request" in operation:
            wrong += self._wrong(body, operation["request"], "")
        elif body is not None:
            wrong.append("a body where none is taken")
        return wrong

    def check(self, request: Request, body: bytes, response: Response) -> None:
        """Hold a request and its answer against the document; one that was refused only the answer."""
        path = request.url.path
        if not path.startswith(self._base):
            return
        operation = self._operation(request.method, path)
        if operation is None:
            self.violations.append(f"{request.method} {path}: not in the document")
            return
        self.checked += 1
        if response.status_code < 400:
            said = json.loads(bytes(response.body))
            self.violations += [
                f"{request.method} {path} answer: {wrong}"
                for wrong in self._wrong(said, operation["response"], "")
            ]
        else:
            self.violations += [
                f"{request.method} {path} refused: {wrong}"
                for wrong in self.wrong(
                    request.method, path, request.query_params, json.loads(body) if body else None
                )
                if response.status_code != 400
            ]

    def _operation(self, method: str, path: str) -> Any:
        for pattern, verb, operation in _operations(self._document["name"], self._base):
            if verb == method and pattern.fullmatch(path):
                return operation
        return None

    def _wrong(self, value: Any, schema: Any, at: str) -> Iterator[str]:
        """Yield what a value has that its schema does not allow."""
        if "$ref" in schema:
            schema = self._document["schemas"][schema["$ref"]]
        kind = schema.get("type", "any")
        if kind == "any":
            return
        right = isinstance(value, KINDS[kind])
        if not right or (isinstance(value, bool) and kind in {"integer", "number"}):
            yield f"{at or 'it'} is {value!r} and no {kind}"
            return
        if kind == "array":
            for number, entry in enumerate(value):
                yield from self._wrong(entry, schema["items"], f"{at}[{number}]")
        elif kind == "object":
            yield from self._wrong_object(value, schema, at)
        elif kind == "string":
            yield from _wrong_string(value, schema, at)

    def _wrong_object(self, value: Any, schema: Any, at: str) -> Iterator[str]:
        for name, entry in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if inner is None:
                yield f"{at}.{name} is not known"
            else:
                yield from self._wrong(entry, inner, f"{at}.{name}")


def _wrong_string(value: str, schema: Any, at: str) -> Iterator[str]:
    if schema.get("format") in {"int64", "uint64"} and not re.fullmatch(r"-?\d+", value):
        yield f"{at} is {value!r} and no number in a string"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at} is {value!r} and none of {schema['enum']}"


@cache
def _read(name: str) -> Any:
    spec = find_spec("googleapiclient")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the local Google Cloud needs google-api-python-client, whose document it is held to: "
            "make .venv/installed-dev"
        )
    path = Path(spec.origin).parent / "discovery_cache" / "documents" / name
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def _operations(name: str, base: str) -> list[tuple[re.Pattern[str], str, Any]]:
    document = _read(f"{name}.v1.json")
    return [
        (re.compile(base + re.sub(r"\\{[^}]+\\}", "[^/]+", re.escape(entry["path"]))), verb, entry)
        for resource in document["resources"].values()
        for entry in resource.get("methods", {}).values()
        if (verb := entry["httpMethod"])
    ]
