"""What openapi.json says is what is answered."""

import importlib.metadata
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from ctxdeploy.query import QueryConfig
from ctxdeploy.service.app import schema

if TYPE_CHECKING:
    from starlette.testclient import TestClient

COMMITTED = Path(__file__).parents[2] / "ctxdeploy" / "service" / "openapi.json"


@pytest.mark.skipif(
    tuple(map(int, importlib.metadata.version("fastapi").split(".")[:2])) < (0, 165),
    reason="older versions of FastAPI write binary bodies otherwise",
)
def test_the_committed_schema_is_what_the_code_says() -> None:
    assert json.loads(COMMITTED.read_text()) == schema(), "run  make pages"


def test_the_schema_is_served(client: "TestClient") -> None:
    assert client.get("/openapi.json").json() == schema()


def test_operations_have_names_of_their_own_and_say_what_goes_wrong() -> None:
    operations = [each for path in schema()["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    for each in operations:
        assert "application/problem+json" in each["responses"]["default"]["content"], each["operationId"]
        assert "422" not in each["responses"]


def check(answer: Any, path: str, method: str) -> Any:
    """Check an answer against the committed schema, and return it."""
    document = json.loads(COMMITTED.read_text())
    responses = document["paths"][path][method]["responses"]
    content = responses.get(str(answer.status_code), responses["default"])["content"]
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in content, (kind, answer.text)
    if kind.endswith("json"):
        resolved = {**content[kind]["schema"], "components": document["components"]}
        jsonschema.Draft202012Validator(resolved).validate(answer.json())
    return answer


def test_every_answer_is_as_the_schema_says(client: "TestClient", album: Any) -> None:
    photo, name = album.query(), "first/coffee.jpg"
    for answer, path, method, status in (
        (client.post("/v1/search", content=photo, params={"verify": 4, "matches": True}), "/v1/search", "post", 200),
        (client.post("/v1/search", content=photo, params={"box": "9,9,200,180"}), "/v1/search", "post", 200),
        (client.post("/v1/search", content=b"x"), "/v1/search", "post", 415),
        (client.get("/v1/search", params={"indexed": name, "turn": "all"}), "/v1/search", "get", 200),
        (client.get("/v1/search", params={"indexed": "none"}), "/v1/search", "get", 404),
        (client.get("/v1/search"), "/v1/search", "get", 422),
        (client.post("/v1/search/batch", params={"indexed": [name, "none"]}), "/v1/search/batch", "post", 200),
        (client.post("/v1/search/batch"), "/v1/search/batch", "post", 422),
        (client.post("/v1/descriptors", content=photo), "/v1/descriptors", "post", 200),
        (client.post("/v1/descriptors", content=photo, params={"box": "1,1,9,1"}), "/v1/descriptors", "post", 422),
        (client.get("/livez"), "/livez", "get", 200),
        (client.get("/readyz"), "/readyz", "get", 200),
        (client.get("/metrics"), "/metrics", "get", 200),
    ):
        assert check(answer, path, method).status_code == status, answer.text


def test_parameters_are_those_of_the_command_line() -> None:
    known = {field.name for field in fields(QueryConfig)}
    asked = {each["name"] for each in schema()["paths"]["/v1/search"]["post"]["parameters"]}
    assert asked - known == {"archive", "matches", "name"}
    for name in asked:
        assert re.fullmatch("[a-z_]+", name)
