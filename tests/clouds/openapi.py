"""Whether a cloud keeps to the provider's OpenAPI document; only where OPENAPI_DIR is set."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response


class Contract:
    """Collects what requests and answers have that the document does not allow."""

    def __init__(
        self, file: str, base: str = "", amend: Callable[[Any], None] | None = None
    ) -> None:
        """Read the document, if there is one.

        Args:
            file: its name in the folder OPENAPI_DIR.
            base: what is cut from the front of a request's path to get one of the document.
            amend: changes the document to what the service does since.
        """
        folder = os.environ.get("OPENAPI_DIR")
        self._document = _read(Path(folder) / file) if folder and file else None
        if self._document is not None and amend is not None:
            amend(self._document)
        self._base = base
        self.violations: list[str] = []
        self.checked = 0
        """How many requests and answers were held against a schema."""

    def check(self, request: Request, body: bytes, response: Response) -> None:
        """Hold a request and its answer against the document; one that was refused only the answer."""
        if self._document is None:
            return
        path = request.url.path.removeprefix(self._base)
        operation = self._operation(request.method, path)
        place = f"{request.method} {path}"
        if operation is None:
            self.violations.append(f"{place}: not in the document")
            return
        if body and response.status_code < 400:
            schema = _schema(self._resolved(operation.get("requestBody", {})))
            self._hold(f"{place} request", json.loads(body), schema)
        answers = operation["responses"]
        answer = answers.get(str(response.status_code), answers.get("default"))
        if answer is None:
            self.violations.append(f"{place}: status {response.status_code} is not in the document")
        elif response.body:
            kind = f"{place} {response.status_code}"
            self._hold(kind, json.loads(bytes(response.body)), _schema(self._resolved(answer)))

    def _hold(self, place: str, value: Any, schema: Any) -> None:
        if schema is None:
            return
        import jsonschema

        self.checked += 1
        rooted = {**schema, "components": self._document["components"]}  # for the local $refs
        for error in jsonschema.Draft202012Validator(rooted).iter_errors(value):
            where = "/".join(map(str, error.absolute_path))
            self.violations.append(f"{place}: {where}: {error.message[:200]}")

    def _operation(self, method: str, path: str) -> Any:
        """Return the operation of a path; one without parameters is meant before one with."""
        templates = sorted(self._document["paths"], key=lambda template: template.count("{"))
        for template in templates:
            pattern = re.sub(r"\\\{[^/]+\\\}", "[^/]+", re.escape(template))
            operation = self._document["paths"][template].get(method.lower())
            if operation and re.fullmatch(pattern, path):
                return operation
        return None

    def _resolved(self, value: Any) -> Any:
        while isinstance(value, Mapping) and "$ref" in value:
            found: Any = self._document
            for name in value["$ref"].removeprefix("#/").split("/"):
                found = found[name.replace("~1", "/").replace("~0", "~")]
            value = found
        return value


def _schema(part: Mapping[str, Any]) -> Any:
    """Return the schema of a JSON body, or None if it has none."""
    for kind, content in part.get("content", {}).items():
        if "json" in kind:
            return content.get("schema")
    return None


@cache
def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    import yaml

    return yaml.safe_load(text)
