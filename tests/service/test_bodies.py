"""Bodies: their limits, their forms, their formats. Nothing wrong with one is an error of the server."""

import base64
import gzip
from typing import TYPE_CHECKING, Any

import pytest

from ctxdeploy.service import ServiceConfig
from ctxdeploy.service.forms import parse_form
from ctxdeploy.service.problems import ProblemError

if TYPE_CHECKING:
    from starlette.testclient import TestClient

FORM = "multipart/form-data; boundary=xyz"


def part(name: str, data: bytes, file_name: str | None = "a.jpg") -> bytes:
    """Return a part of a form whose boundary is xyz."""
    named = "" if file_name is None else f'; filename="{file_name}"'
    return f'--xyz\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + data + b"\r\n"


def refused(client: "TestClient", status: int, code: str, **request: Any) -> dict[str, Any]:
    """Return the problem that a search is refused with."""
    answer = client.post("/v1/search", **request)
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def test_parts_of_a_form_come_as_they_were_sent() -> None:
    body = part("photo", b"\r\n--xy\0\xff", "caf\u00e9.jpg") + part("top", b"3", None) + b"--xyz--\r\n"
    first, second = parse_form(body, FORM, 5)
    assert (first.name, first.file_name, first.data) == ("photo", "caf\u00e9.jpg", b"\r\n--xy\0\xff")
    assert (second.name, second.file_name, second.data) == ("top", None, b"3")


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"no form", FORM, 400),
        (part("photo", b"x"), FORM, 400),  # its end is missing
        (b"--xyz--\r\n", "multipart/form-data", 400),
        (b"--xyz\r\nA: " + b"b" * 20_000, FORM, 400),
        (part("photo", b"x") * 6 + b"--xyz--\r\n", FORM, 422),
        (b"", FORM, 400),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, content_type: str, status: int) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_form(body, content_type, 5)
    assert caught.value.status == status


def test_every_beginning_of_a_form_is_refused_as_a_problem() -> None:
    body = part("photo", b"abc") + part("x", b"d", None) + b"--xyz--"
    for end in range(len(body)):
        with pytest.raises(ProblemError):
            parse_form(body[:end], FORM, 5)


def test_bodies_without_a_photo_are_refused(client: "TestClient", album: Any) -> None:
    refused(client, 422, "NoPhoto", content=b"")
    refused(client, 422, "NoPhoto", files={"photo": ("a.jpg", b"")})
    refused(client, 422, "NoPhoto", files={"picture": ("a.jpg", album.query())})
    refused(client, 422, "NoPhoto", files=[("photo", ("a.jpg", album.query()))] * 2)
    refused(client, 400, "BadForm", content=b"nothing", headers={"Content-Type": FORM})


def test_what_is_no_photo_is_an_unsupported_type(client: "TestClient") -> None:
    problem = refused(client, 415, "PhotoError", content=b"%PDF-1.7 and more")
    assert problem["detail"] == "it is not a photo of a format that can be read"
    assert "JPEG XL" in refused(client, 415, "PhotoError", content=b"\xff\x0a" + bytes(100))["detail"]
    assert refused(client, 415, "PhotoError", content=b"x")["exit_code"] == 14


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda photo: b'{"photo": "x"}', "not JSON"),
        (lambda photo: b"https://example.org/a.jpg", "no URL is fetched"),
        (base64.b64encode, "not base64"),
        (base64.encodebytes, "not base64"),
        (lambda photo: b"data:image/jpeg;base64," + base64.b64encode(photo), "not base64"),
        (gzip.compress, "without compression"),
    ],
)
def test_who_sends_something_else_is_told_what_to_send(
    client: "TestClient", album: Any, make: Any, advice: str
) -> None:
    problem = refused(client, 415, "PhotoError", content=make(album.query()))
    assert (
        problem["detail"].startswith("it is not a photo of a format that can be read: ") and advice in problem["detail"]
    )


def test_what_curl_takes_out_of_a_photo_is_said(client: "TestClient", album: Any) -> None:
    photo, urlencoded = album.query(), {"Content-Type": "application/x-www-form-urlencoded"}
    without = photo.replace(b"\n", b"").replace(b"\r", b"")
    assert len(without) < len(photo)
    problem = refused(client, 422, "PhotoError", content=without, headers=urlencoded)
    assert "curl -d" in problem["detail"] and "--data-binary" in problem["detail"]
    assert client.post("/v1/search", content=photo, headers=urlencoded).status_code == 200  # curl --data-binary
    other = refused(client, 422, "PhotoError", content=without, headers={"Content-Type": "image/jpeg"})
    assert "curl" not in other["detail"]


def test_a_damaged_photo_is_named_as_such(client: "TestClient", album: Any) -> None:
    problem = refused(client, 422, "PhotoError", content=album.query()[:3000])
    assert "photo of 3,000 bytes" in problem["detail"]
    assert problem["exit_code"] == 14


def test_too_many_bytes_are_refused_by_what_is_said_and_by_what_comes(connect: Any, album: Any) -> None:
    client = connect(album.archive, config=ServiceConfig(max_bytes=10_000), prepare=False)
    client.app.state.service.readiness.done()
    refused(client, 413, "TooLarge", content=bytes(10_001))
    refused(client, 413, "TooLarge", content=iter([bytes(6000), bytes(6000)]))
    refused(client, 415, "PhotoError", content=bytes(10_000))
    assert client.app.state.service.bodies.held == 0


def test_bodies_that_find_no_room_are_refused(connect: Any, album: Any) -> None:
    config = ServiceConfig(max_bytes=10_000, max_body_memory=10_000)
    client = connect(album.archive, config=config, prepare=False)
    service = client.app.state.service
    service.readiness.done()
    service.bodies.take(5_000)
    refused(client, 429, "BodiesFull", content=bytes(6_000))
    assert service.bodies.held == 5_000
    refused(client, 415, "PhotoError", content=bytes(4_000))
