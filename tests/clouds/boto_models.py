"""Whether a cloud keeps to what botocore's own models say of an Amazon service."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

JAVA = {r"\p{L}": r"\w", r"\p{N}": r"\d", r"\p{Z}": r"\s"}
"""What the patterns have that Python has not, and about what it has for that."""
NUMBERS = {"integer": int, "long": int, "float": (int, float), "double": (int, float)}


class ServiceContract:
    """Collects what requests and answers in JSON have that the models do not allow."""

    def __init__(self, *services: str) -> None:
        self._services = services
        self.violations: list[str] = []
        self.checked = 0
        """How many requests and answers were held against a model."""

    def check(self, request: Request, body: bytes, response: Response) -> None:
        """Hold a request that was done, and its answer, against the model."""
        name = request.headers.get("x-amz-target", "").rpartition(".")[2]
        operation = _operation(self._services, name)
        if operation is None:
            self.violations.append(f"{name}: in no model")
        elif response.status_code < 400:
            self._hold(f"{name} request", json.loads(body or b"{}"), operation.input_shape)
            self._hold(
                f"{name} answer", json.loads(bytes(response.body) or b"{}"), operation.output_shape
            )
        else:
            error = json.loads(bytes(response.body))
            if not isinstance(error.get("__type"), str):
                self.violations.append(f"{name} error: it has no type")

    def _hold(self, place: str, value: Any, shape: Any) -> None:
        self.checked += 1
        self.violations += _wrong(place, value, shape) if shape else []


@cache
def _operation(services: tuple[str, ...], name: str) -> Any:
    from botocore.session import Session

    for service in services:
        model = Session().get_service_model(service)
        if name in model.operation_names:
            return model.operation_model(name)
    return None


def _wrong(place: str, value: Any, shape: Any) -> list[str]:
    kind = shape.type_name
    if kind == "structure":
        return _wrong_structure(place, value, shape)
    if kind == "list":
        if not isinstance(value, list):
            return [f"{place}: no list"]
        found = [f"{place}: {len(value)} entries"] if _out_of_range(len(value), shape) else []
        return found + [
            w for n, one in enumerate(value) for w in _wrong(f"{place}[{n}]", one, shape.member)
        ]
    if kind == "map":
        if not isinstance(value, dict):
            return [f"{place}: no map"]
        return [
            wrong
            for key, one in value.items()
            for wrong in [
                *_wrong(f"{place}.{key}", key, shape.key),
                *_wrong(f"{place}.{key}", one, shape.value),
            ]
        ]
    if kind == "string":
        return _wrong_string(place, value, shape)
    if kind == "boolean":
        return [] if isinstance(value, bool) else [f"{place}: no boolean"]
    if kind == "timestamp":
        return [] if isinstance(value, (int, float)) else [f"{place}: no time"]
    if not isinstance(value, NUMBERS[kind]) or isinstance(value, bool):  # type: ignore[arg-type]
        return [f"{place}: {value!r} is no {kind}"]
    return [f"{place}: {value} is out of range"] if _out_of_range(value, shape) else []


def _wrong_structure(place: str, value: Any, shape: Any) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place}: no structure"]
    found = [f"{place}: {name} is missing" for name in shape.required_members if name not in value]
    for name, one in value.items():
        if name not in shape.members:
            found.append(f"{place}: {name} is not in the model")
        else:
            found += _wrong(f"{place}.{name}", one, shape.members[name])
    return found


def _wrong_string(place: str, value: Any, shape: Any) -> list[str]:
    if not isinstance(value, str):
        return [f"{place}: no string"]
    if shape.enum and value not in shape.enum:
        return [f"{place}: {value!r} is none of the words there are"]
    if _out_of_range(len(value), shape):
        return [f"{place}: {len(value)} characters"]
    pattern = shape.metadata.get("pattern", "")
    for java, ours in JAVA.items():
        pattern = pattern.replace(java, ours)
    if pattern and not re.fullmatch(pattern, value, re.DOTALL):
        return [f"{place}: {value!r} is not of the form {pattern}"]
    return []


def _out_of_range(size: float, shape: Any) -> bool:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    return (least is not None and size < least) or (most is not None and size > most)
