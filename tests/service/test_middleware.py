"""What every request passes: ids, headers of answers, problems, names that the service is asked by."""

import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ctxdeploy.core.errors import ArchiveError, MismatchError, PhotoError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime.decode import DecodeLimits, decode_bytes
from ctxdeploy.service import ServiceConfig
from ctxdeploy.service.problems import ProblemError, problem_of

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def test_a_plain_request_id_is_kept_and_any_other_replaced(client: "TestClient") -> None:
    assert client.get("/livez", headers={"X-Request-ID": "trace-1.a:b"}).headers["x-request-id"] == "trace-1.a:b"
    for given in ("", "a b", "x" * 65, "<script>", 'a"b', "-a"):
        found = client.get("/livez", headers={"X-Request-ID": given}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", found), given


def test_every_answer_has_the_headers_of_security(client: "TestClient") -> None:
    for path in ("/livez", "/metrics", "/nothing", "/v1/archives", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers and "access-control-allow-origin" not in headers


def test_unknown_paths_and_methods_are_problems(client: "TestClient") -> None:
    answer = client.get("/v1/nothing%20<b>", params={"key": "secret"})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (404, "NotFound", 404)
    assert problem["instance"] == "/v1/nothing%20%3Cb%3E"
    answer = client.delete("/v1/archives")
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (405, "MethodNotAllowed", "GET")
    assert client.get("/v1/archives/").status_code == 404


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({"top": "0"}, "top: "),
        ({"top": "many"}, "top: "),
        ({"top": "1001"}, "top=1001 is above 1000"),
        ({"colour": "red"}, "colour: "),
        ({"box": "1,2,3"}, "box"),
        ({"box": "5,5,1,1"}, "box"),
        ({"box": "nan,0,1,1"}, "box"),
        ({"rank": "beauty"}, "rank: "),
        ({"min_probability": "2"}, "min_probability: "),
        ({"rerank": "7"}, "--rerank needs --rank"),
    ],
)
def test_wrong_parameters_are_named(client: "TestClient", album: Any, parameters: Any, detail: str) -> None:
    answer = client.post("/v1/search", params=parameters, content=album.query())
    assert (answer.status_code, answer.json()["code"]) == (422, "ConfigError")
    assert answer.json()["detail"].startswith(detail), answer.json()["detail"]


def test_a_defect_is_answered_without_a_traceback_and_logged_with_its_id(
    connect: Any, album: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(album.archive, prepare=False)

    @client.app.get("/broken")
    def broken() -> None:
        raise ExceptionGroup("several", [ValueError("the secret /etc/passwd"), OSError(5, "disk")])

    answer = client.get("/broken", headers={"X-Request-ID": "abc"})
    assert (answer.status_code, answer.json()["code"]) == (500, "InternalError")
    assert "secret" not in answer.text and "Traceback" not in answer.text
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.ctxdeploy_fields == {"request_id": "abc"}  # type: ignore[attr-defined]
    assert record.exc_info is not None and "the secret" in caplog.text


def test_too_many_pixels_are_too_large() -> None:
    """The reason crosses processes as a text; what to do about it is for the owner of the server alone."""
    limits = DecodeLimits(max_pixels=1199)
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "PNG")
    with pytest.raises(PhotoError) as caught:
        decode_bytes(file.getvalue(), Preprocessing(), None, limits)
    found = problem_of(caught.value)
    assert (found.status, found.code) == (413, "PhotoError")
    assert found.detail == "40×30 pixels exceed 1,199, the limit against decompression bombs"


def test_of_a_group_the_error_on_purpose_counts() -> None:
    group = BaseExceptionGroup("all", [ValueError("no"), ExceptionGroup("inner", [MismatchError("other model")])])
    assert (problem_of(group).status, problem_of(group).code) == (409, "MismatchError")
    nested = ExceptionGroup("all", [ExceptionGroup("inner", [ProblemError(404, "none", code="NoSuchPhoto")])])
    assert problem_of(nested).code == "NoSuchPhoto"


def test_folders_of_the_server_are_not_told(connect: Any, album: Any) -> None:
    client = connect(album.archive, prepare=False)

    @client.app.get("/damaged")
    def damaged() -> None:
        raise ArchiveError(f"{album.archive}/shard is damaged; the photos are in {album.photos}/first")

    answer = client.get("/damaged")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    assert answer.json()["detail"] == "album/shard is damaged; the photos are in the folder of the photos/first"


def test_names_that_lead_here_from_elsewhere_are_refused_where_nothing_else_protects(connect: Any, album: Any) -> None:
    client = connect(album.archive, config=ServiceConfig(allow_hosts=("Photos.example",)), prepare=False)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "photos.example:80", "192.0.2.7"):
        assert client.get("/livez", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::1", "a@b"):
        answer = client.get("/v1/archives", headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "WrongHost"), host


def test_pages_of_other_servers_change_nothing(connect: Any, album: Any) -> None:
    config = ServiceConfig(allow_origins=("https://friend.example",))
    client = connect(album.archive, config=config, prepare=False)
    client.app.state.service.readiness.done()
    for headers, status in (
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1"}, 415),
        ({"Origin": "https://friend.example"}, 415),
        ({"Origin": "https://behind.proxy", "Sec-Fetch-Site": "same-origin"}, 415),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
    ):
        assert client.post("/v1/search", content=b"x", headers=headers).status_code == status, headers
    assert client.get("/livez", headers={"Origin": "https://evil.example"}).status_code == 200


def test_other_servers_may_ask_where_they_are_named(connect: Any, album: Any) -> None:
    config = ServiceConfig(allow_origins=("https://friend.example",))
    client = connect(album.archive, config=config, prepare=False)
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}
    friend = client.options("/v1/photos/a", headers={"Origin": "https://friend.example", **asked})
    assert friend.headers["access-control-allow-origin"] == "https://friend.example"
    other = client.options("/v1/photos/a", headers={"Origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in other.headers


def test_nothing_is_answered_before_the_service_is_ready(connect: Any, album: Any) -> None:
    client = connect(album.archive, prepare=False)
    readiness = client.app.state.service.readiness
    readiness.step("loading the model of album")
    for path in ("/v1/archives", "/readyz"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "NotReady", "1")
        assert "loading the model of album" in answer.json()["detail"]
    assert client.get("/livez").status_code == client.head("/livez").status_code == 200
    assert client.head("/readyz").status_code == 503
    readiness.done()
    assert client.get("/v1/archives").status_code == client.head("/readyz").status_code == 200
    readiness.end()
    assert client.get("/readyz").json()["detail"] == "shutting down"
    answer = client.get("/v1/archives")
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
