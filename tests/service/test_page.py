"""The page: its files and headers; and in a real browser, what a person does by mouse, finger and keys."""

import re
from typing import TYPE_CHECKING

from ctxdeploy.service.routes import page as page_module

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def test_the_page_is_sent_with_a_strict_policy_and_once(client: "TestClient") -> None:
    sent = client.get("/")
    assert sent.status_code == 200 and sent.headers["content-type"] == "text/html; charset=utf-8"
    assert sent.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert sent.headers["x-content-type-options"] == "nosniff" and sent.headers["referrer-policy"] == "no-referrer"
    again = client.get("/", headers={"If-None-Match": sent.headers["etag"]})
    assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == sent.headers["etag"]
    assert client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.head("/").status_code == 200 and client.head("/").content == b""


def test_the_page_loads_its_own_files_and_no_others(client: "TestClient") -> None:
    text = client.get("/").text
    assert re.search(r"<(script|style)>|\son\w+=|\sstyle=|https?://", text) is None
    wanted = set(re.findall(r'(?:src|href)="(page/[^"]+)"', text))
    for name, file in page_module.page_files().items():
        if name.endswith(".js"):
            script = file.content.decode()
            wanted |= {f"page/{found}" for found in re.findall(r"from '\./(.+?)'", script)}
            assert re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", script) is None
    assert {f"page/{name}" for name in page_module.page_files()} == wanted | {"page/index.html"}
    for path in wanted:
        assert client.get(f"/{path}").status_code == 200
    assert client.get("/page/..%2Fapp.py").status_code == 404 and client.get("/page/none.js").status_code == 404
