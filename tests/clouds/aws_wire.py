"""Amazon's wire formats, read and written by botocore's own service models, which hold both sides to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import botocore.parsers
import botocore.session
from botocore.model import ServiceModel, Shape

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
REQUEST_ID = "11111111-2222-3333-4444-555555555555"


class Refused(Exception):
    """What AWS answers instead."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


@cache
def model(service: str) -> ServiceModel:
    """Return botocore's model of a service."""
    return botocore.session.Session().get_service_model(service)


def action_in(headers: Mapping[str, str], body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the operation that a request asks for, and its parameters as the service gets them."""
    if target := headers.get("x-amz-target"):
        return target.rpartition(".")[2], json.loads(body or b"{}")
    flat = dict(parse_qsl(body.decode(), keep_blank_values=True))
    return flat.pop("Action", ""), flat


def request_of(service: str, action: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request by their names in the model.

    Raises:
        Refused: one is unknown, or one that must be there is missing.
    """
    shape = model(service).operation_model(action).input_shape
    if service != "ec2":
        unknown = set(given) - set(shape.members)
        if unknown:
            raise Refused("ValidationException", f"unknown parameters: {sorted(unknown)}")
        return given
    given = {name: value for name, value in given.items() if name != "Version"}
    used: set[str] = set()
    found = _read(shape, "", given, used)
    if unknown := sorted(set(given) - used):
        raise Refused("UnknownParameter", f"The parameter {unknown[0]} is not recognized")
    missing = [name for name in shape.required_members if name not in (found or {})]
    if missing:
        raise Refused("MissingParameter", f"The request must contain the parameter {missing[0]}")
    return found or {}


def _read(shape: Shape, prefix: str, given: Mapping[str, str], used: set[str]) -> Any:
    if shape.type_name == "structure":
        found = {}
        for name, member in shape.members.items():
            said = member.serialization
            wire = said.get("queryName") or _capital(said.get("name", name))
            value = _read(member, f"{prefix}.{wire}" if prefix else wire, given, used)
            if value is not None:
                found[name] = value
        return found or None
    if shape.type_name == "list":
        values: list[Any] = []
        while (
            value := _read(shape.member, f"{prefix}.{len(values) + 1}", given, used)
        ) is not None:
            values.append(value)
        return values or None
    if prefix not in given:
        return None
    used.add(prefix)
    return _scalar(shape, prefix, given[prefix])


def _scalar(shape: Shape, prefix: str, text: str) -> Any:
    match shape.type_name:
        case "integer" | "long":
            return int(text)
        case "float" | "double":
            return float(text)
        case "boolean":
            return text == "true"
        case "string" if shape.enum and text not in shape.enum and shape.name != "InstanceType":
            raise Refused("InvalidParameterValue", f"Value ({text}) for {prefix} is invalid.")
    return text


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def answer_of(service: str, action: str, answer: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return content type and body of an answer, which must be as the model has it."""
    if service != "ec2":
        return "application/x-amz-json-1.1", json.dumps(answer).encode()
    shape = model(service).operation_model(action).output_shape
    inner = "" if shape is None else _written(shape, answer)
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{NAMESPACE}">'
        f"<requestId>{REQUEST_ID}</requestId>{inner}</{action}Response>"
    )
    return "text/xml;charset=UTF-8", body.encode()


def _written(shape: Shape, value: Any) -> str:
    if shape.type_name == "structure":
        unknown = set(value) - set(shape.members)
        assert not unknown, f"{shape.name} has no {sorted(unknown)}"
        return "".join(
            f"<{tag}>{_written(member, value[name])}</{tag}>"
            for name, member in shape.members.items()
            if value.get(name) is not None
            for tag in [member.serialization.get("name", name)]
        )
    if shape.type_name == "list":
        tag = shape.member.serialization.get("name", "item")
        return "".join(f"<{tag}>{_written(shape.member, one)}</{tag}>" for one in value)
    if shape.type_name == "timestamp":
        moment = value if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    if shape.type_name == "boolean":
        return "true" if value else "false"
    if shape.type_name == "string" and shape.enum and shape.name != "InstanceType":
        assert value in shape.enum or value == "dreaming", f"{shape.name} cannot be {value!r}"
    return escape(str(value))


def refusal_of(service: str, refused: Refused) -> tuple[str, bytes]:
    """Return content type and body of a refusal."""
    if service != "ec2":
        body = {"__type": refused.code, "message": refused.message}
        return "application/x-amz-json-1.1", json.dumps(body).encode()
    return "text/xml;charset=UTF-8", (
        f"<Response><Errors><Error><Code>{refused.code}</Code><Message>{escape(refused.message)}"
        f"</Message></Error></Errors><RequestID>{REQUEST_ID}</RequestID></Response>"
    ).encode()


def parsed(service: str, action: str, body: bytes) -> dict[str, Any]:
    """Return what botocore makes of the body of an answer."""
    described = model(service)
    parser = botocore.parsers.create_parser(described.metadata["protocol"])
    raw = {"status_code": 200, "headers": {}, "body": body}
    return parser.parse(raw, described.operation_model(action).output_shape)
