"""Search over HTTP gives what the library gives, bit by bit."""

import json
from typing import TYPE_CHECKING, Any

import httpx

from ctxdeploy import IndexedPhoto, PhotoIndex, QueryConfig
from ctxdeploy.query import Answer

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def without_seconds(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what does not differ from one answer to the next."""
    return {key: value for key, value in fields.items() if key not in ("seconds", "query")}


def library(index: PhotoIndex, photo: Any, **settings: Any) -> dict[str, Any]:
    """Return the library's answer as JSON has it."""
    (answer,) = index.search_many([photo], QueryConfig(**settings))
    assert isinstance(answer, Answer)
    return without_seconds(json.loads(json.dumps(answer.metadata())))


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Return whether an answer has all that the library's has."""
    return all(found[key] == value for key, value in wanted.items())


def test_a_raw_photo_is_answered_as_by_the_library(client: "TestClient", index: PhotoIndex, album: Any) -> None:
    found = client.post("/v1/search", content=album.query(), params={"top": 5, "verify": 3}).json()
    assert same(found, library(index, album.query(), top=5, verify=3))
    assert found["results"][0]["name"] in ("first/chelsea.jpg", "second/chelsea.jpg")


def test_a_form_is_answered_as_the_bare_photo(client: "TestClient", index: PhotoIndex, album: Any) -> None:
    found = client.post("/v1/search", files={"photo": ("any.jpg", album.query("coins"))}).json()
    assert same(found, library(index, album.query("coins")))


def test_a_photo_of_the_archive_is_asked_with_by_name(client: "TestClient", index: PhotoIndex) -> None:
    found = client.get("/v1/search", params={"indexed": "first/rocket.jpg", "top": 3}).json()
    assert same(found, library(index, IndexedPhoto(name="first/rocket.jpg"), top=3))


def test_a_process_answers_as_the_library(served: Any, index: PhotoIndex, album: Any) -> None:
    found = httpx.post(f"{served.url}/v1/search", content=album.query("rocket"), timeout=300).json()
    assert same(found, library(index, album.query("rocket")))
