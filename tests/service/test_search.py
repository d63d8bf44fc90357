"""Search over HTTP gives what the library gives, bit by bit."""

import io
import json
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from PIL import Image
from safetensors.numpy import load

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
    """Return whether an answer has all that the library's has; how large photos are is the service's to say."""
    results = [{key: value for key, value in result.items() if key != "size"} for result in found["results"]]
    return all(({**found, "results": results})[key] == value for key, value in wanted.items())


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


def test_some_photos_are_searched_alone(client: "TestClient", index: PhotoIndex, album: Any) -> None:
    asked = {"prefix": ["second/", "odd/"], "name": ["second/chelsea.jpg", "second/coins.jpg", "none"]}
    found = client.post("/v1/search", content=album.query(), params=asked).json()
    assert found["coverage"] == {"searched": 2, "photos": len(index), "missing": []}
    assert found["results"][0]["name"] == "second/chelsea.jpg"
    assert any("none" in remark for remark in found["remarks"])
    assert found["state"] == index.state
    assert found["size"] == list(Image.open(io.BytesIO(album.query())).size)


def test_matches_are_the_points_of_what_was_verified(client: "TestClient", index: PhotoIndex, album: Any) -> None:
    found = client.post("/v1/search", content=album.query(), params={"verify": 3, "matches": True}).json()
    hit = index.answer(album.query(), QueryConfig(verify=3)).hits[0]
    assert hit.verification is not None
    points = [[*a, *b] for a, b in zip(hit.verification.query_points, hit.verification.photo_points, strict=True)]
    assert found["results"][0]["matches"] == points and len(points) >= hit.verification.inliers > 0


def test_a_batch_answers_in_order_with_problems_in_their_places(
    client: "TestClient", index: PhotoIndex, album: Any
) -> None:
    files = [("photo", ("a", album.query("coins"))), ("photo", ("b", b"x")), ("photo", ("c", album.query()[:2000]))]
    asked = {"indexed": ["first/rocket.jpg", "none"], "top": 4}
    answers = client.post("/v1/search/batch", files=files, params=asked).json()["answers"]
    assert same(answers[0], library(index, album.query("coins"), top=4))
    assert [answer.get("status") for answer in answers] == [None, 415, 422, None, 404]
    assert same(answers[3], library(index, IndexedPhoto(name="first/rocket.jpg"), top=4))
    too_many = client.post("/v1/search/batch", params={"indexed": ["first/rocket.jpg"] * 65})
    assert (too_many.status_code, too_many.json()["code"]) == (422, "TooMany")


def test_descriptors_are_those_of_the_library(client: "TestClient", index: PhotoIndex, album: Any) -> None:
    wanted = index.describe(album.query()).descriptors
    found = client.post("/v1/descriptors", content=album.query()).json()
    headers = {"Accept": "application/x-safetensors"}
    answer = client.post("/v1/descriptors", content=album.query(), headers=headers)
    assert answer.headers["content-type"] == "application/x-safetensors"
    tensors = load(answer.content)
    for name in ("vectors", "attention", "positions", "scales"):
        array = getattr(wanted, name)
        assert np.array_equal(np.array(found[name], np.float32).reshape(array.shape), array), name
        assert tensors[name].dtype == np.float32 and np.array_equal(tensors[name], array), name
