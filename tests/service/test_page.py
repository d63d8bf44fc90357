"""The page: its files and headers; and in a real browser, what a person does by mouse, finger and keys."""

import base64
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctxdeploy import PhotoIndex
from ctxdeploy.archive import store_origin
from ctxdeploy.index import Aggregated, Codebook, Index
from ctxdeploy.runtime.sources import list_photos
from ctxdeploy.service.routes import page as page_module

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page
    from starlette.testclient import TestClient

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), "")
# Milliseconds. A machine may be busy, and machine code may be compiled first.
PATIENCE = 300_000
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
ODD_NAME = "odd/<i>café & 'x'.png"
TILES = ".tile > a"
in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium: apt-get install chromium"),
]


def browser_test(test: Any) -> Any:
    """Mark a test that needs a browser."""
    for mark in in_browser:
        test = mark(test)
    return test


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


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A browser without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # Root may not use the sandbox. A GPU, where there is none, is computed beside what the page needs.
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def start_service(album: Any) -> Iterator[Callable[..., Any]]:
    """Return what starts services: see ``Starter`` of ``conftest.py``, which no test module can import."""
    starter = sys.modules[type(album).__module__].Starter()
    yield starter
    starter.close()


@pytest.fixture(scope="module")
def archives(album: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A copy of the album, and an archive without photos; both may be changed."""
    folder = tmp_path_factory.mktemp("page")
    photos = Path(shutil.copytree(album.photos, folder / "photos"))
    archive = Path(shutil.copytree(album.archive, folder / "album.ctxindex"))
    store_origin(archive, list_photos(str(photos)), {}, moved=True)
    PhotoIndex.create(folder / "empty.ctxindex").close()
    return archive, folder / "empty.ctxindex"


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Any], archives: tuple[Path, Path]) -> str:
    """Where both archives are served, and may be changed."""
    url: str = start_service(*archives, "--writable").url
    return url


class Shown:
    """A tab, and whatever goes wrong in it but for what is ``expected``."""

    def __init__(self, context: "BrowserContext", url: str) -> None:
        self.url, self.expected = url, "^$"
        self.wrong: list[str] = []
        context.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error(`policy: ${e.violatedDirective}`))"
        )
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not re.search(self.expected, text):
            self.wrong.append(text)

    def open(self, address: str = "") -> "Page":
        """Go to an address of the service."""
        self.page.goto(f"{self.url}/{address}")
        return self.page

    def told(self, heading: str) -> None:
        """Wait for the heading of results."""
        self.page.wait_for_selector(f"#results:not([aria-busy]) .told h1:text-is('{heading}')")

    def names(self) -> list[str]:
        """Return the names of the results, in order."""
        found: list[str] = self.page.eval_on_selector_all(TILES, "(links) => links.map((link) => link.dataset.name)")
        return found

    def query(self) -> dict[str, str]:
        """Return what the address says."""
        found: dict[str, str] = self.page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")
        return found

    def wait(self, condition: str) -> None:
        """Wait until something is true in the page, whose policy lets no driver evaluate text by itself."""
        for _ in range(PATIENCE // 50):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(condition)

    def focused(self) -> str:
        """Return what the focused element says."""
        text: str = self.page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText")
        return text


@pytest.fixture
def show(browser: "Browser", service: str) -> "Iterator[Callable[..., Shown]]":
    """Return a function that opens a tab; at the end nothing may have gone wrong in any."""
    contexts: list[BrowserContext] = []
    opened: list[Shown] = []

    def make(url: str = service, **settings: Any) -> Shown:
        contexts.append(browser.new_context(**{"viewport": DESKTOP, **settings}))
        opened.append(Shown(contexts[-1], url))
        return opened[-1]

    yield make
    wrong = [shown.wrong for shown in opened]
    for context in contexts:
        context.close()
    assert wrong == [[] for _ in opened]


GIVE = """([kind, encoded, type]) => {
    const transfer = new DataTransfer();
    if (type === 'text/uri-list') transfer.setData(type, encoded);
    else transfer.items.add(new File([Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0))], 'given', { type }));
    const how = { bubbles: true, cancelable: true };
    document.body.dispatchEvent(kind === 'paste' ? new ClipboardEvent('paste', { clipboardData: transfer, ...how })
      : new DragEvent('drop', { dataTransfer: transfer, ...how }));
}"""


@browser_test
def test_a_photo_that_is_picked_finds_its_scene(show: "Callable[..., Shown]", album: Any) -> None:
    shown = show()
    page = shown.open()
    page.set_input_files("#pick", album.queries / "chelsea.jpg")
    shown.told("2 photos found")
    assert sorted(shown.names()[:2]) == ["first/chelsea.jpg", "second/chelsea.jpg"]
    assert page.locator(".group h2").all_inner_texts() == ["Found", "Beyond that nothing is certain; the nearest"]
    first = page.locator(TILES).first
    assert "% sure" in first.inner_text() and "places match" in first.inner_text()
    assert first.locator("rect.frame").count() == 1
    page.wait_for_selector(f"{TILES} img.loaded")
    assert "2 photos found" in page.inner_text("#status") and page.title().startswith("chelsea.jpg – 2 found")
    # On from a result; the photo that was given is kept for the way back, until the page is loaded anew.
    first.hover()
    page.locator(".again").first.click()
    shown.wait("location.search.includes('indexed=')")
    shown.told("1 photo found")
    page.go_back()
    shown.told("2 photos found")
    page.reload()
    page.wait_for_selector(".refusal:text('give it again')")


@browser_test
def test_a_photo_is_pasted_and_dropped_and_no_address_is_fetched(show: "Callable[..., Shown]", album: Any) -> None:
    shown = show()
    page = shown.open()
    page.wait_for_selector(".archived a")
    encoded = base64.b64encode(album.query("coffee")).decode()
    for kind in ("paste", "drop"):
        page.evaluate(GIVE, [kind, encoded, "image/jpeg"])
        shown.told("2 photos found")
        assert sorted(shown.names()[:2]) == ["first/coffee.jpg", "second/coffee.jpg"]
        page.click("#brand")
        page.wait_for_selector("#start:not([hidden])")
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(GIVE, ["drop", "http://127.0.0.1:9/cat.jpg", "text/uri-list"])
    assert "fetches nothing from elsewhere" in page.inner_text(".refusal")
    page.evaluate(GIVE, ["paste", encoded, "text/plain"])
    assert "no photo" in page.inner_text(".refusal")
    assert asked == []


@browser_test
def test_a_photo_of_the_clipboard_is_pasted_by_keys_and_by_the_button(show: "Callable[..., Shown]", album: Any) -> None:
    shown = show(permissions=["clipboard-read", "clipboard-write"])
    page = shown.open()
    page.wait_for_selector(".archived a")
    copy = """async (encoded) => {
        const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
        const bitmap = await createImageBitmap(new Blob([bytes], { type: 'image/jpeg' }));
        const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
        canvas.getContext('2d').drawImage(bitmap, 0, 0);
        await navigator.clipboard.write([new ClipboardItem({ 'image/png': await canvas.convertToBlob() })]);
    }"""
    page.evaluate(copy, base64.b64encode(album.query("rocket")).decode())
    page.click("button:has-text('Paste')")
    shown.told("2 photos found")
    page.click("#brand")
    page.wait_for_selector("#start:not([hidden])")
    page.keyboard.press("Control+V")
    shown.told("2 photos found")


@browser_test
def test_a_box_is_drawn_moved_and_cleared_and_stands_in_the_address(show: "Callable[..., Shown]") -> None:
    shown = show()
    page = shown.open("?indexed=first/stereo_motorcycle.jpg")
    shown.told("1 photo found")
    drawn = page.locator(".framed").bounding_box()
    assert drawn is not None
    left, top, width, height = drawn["x"], drawn["y"], drawn["width"], drawn["height"]
    page.mouse.move(left + 0.2 * width, top + 0.3 * height)
    page.mouse.down()
    page.mouse.move(left + 0.7 * width, top + 0.8 * height, steps=5)
    page.mouse.up()
    shown.wait("location.search.includes('box=')")
    shown.told("1 photo found")
    edges = list(map(int, shown.query()["box"].split(",")))
    facts = "async () => (await (await fetch('v1/photos/first/stereo_motorcycle.jpg?archive=album')).json()).size"
    size = page.evaluate(facts)
    for edge, share, side in zip(edges, (0.2, 0.3, 0.7, 0.8), (*size, *size), strict=True):
        assert abs(edge - share * side) <= 3
    # Keys move it, and with Shift its right lower corner.
    page.focus(".part")
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowLeft", "Shift+ArrowUp"):
        page.keyboard.press(key)
    assert "percent" in page.inner_text("#status")
    shown.wait(f"!location.search.includes('box={','.join(map(str, edges))}')")
    moved = list(map(int, shown.query()["box"].split(",")))
    assert moved[0] > edges[0] and moved[1] > edges[1]
    assert abs(moved[2] - edges[2]) <= 1 and abs(moved[3] - edges[3]) <= 1
    # The address alone shows the same.
    other = show()
    other.open("?" + page.evaluate("location.search.slice(1)"))
    other.told("1 photo found")
    part, frame = other.page.locator(".part").bounding_box(), other.page.locator(".framed").bounding_box()
    assert part is not None and frame is not None
    assert abs((part["x"] - frame["x"]) / frame["width"] - moved[0] / size[0]) < 0.02
    page.focus(".part")
    page.keyboard.press("Delete")
    shown.wait("!location.search.includes('box=')")
    shown.told("1 photo found")
    assert not page.is_visible(".part")
    # A slip of the hand is none.
    page.mouse.click(left + 0.5 * width, top + 0.5 * height)
    assert not page.is_visible(".part") and "box" not in shown.query()


@browser_test
def test_two_photos_stand_side_by_side_with_what_they_share(show: "Callable[..., Shown]") -> None:
    shown = show()
    page = shown.open("?indexed=first/coins.jpg")
    shown.told("1 photo found")
    page.click(TILES)
    page.wait_for_selector(".stage .match", state="attached")
    assert shown.query()["compare"] == "second/coins.jpg"
    assert page.locator(".stage image").count() == 2 and page.locator(".match.quiet").count() >= 0
    assert page.locator(".match line.line:visible").count() > 5
    assert "lie in the same arrangement" in page.inner_text(".why") and "sure" in page.inner_text(".how-sure")
    page.keyboard.press("l")
    assert page.locator(".match line.line:visible").count() == 0
    whole = page.get_attribute(".stage svg", "viewBox")
    page.keyboard.press("+")
    enlarged = page.get_attribute(".stage svg", "viewBox")
    page.keyboard.press("Shift+ArrowRight")
    assert len({whole, enlarged, page.get_attribute(".stage svg", "viewBox")}) == 3
    page.keyboard.press("0")
    assert page.get_attribute(".stage svg", "viewBox") == whole
    # To the next and back; the focus stays inside, and goes back to the photo that was shown last.
    page.keyboard.press("ArrowRight")
    shown.wait("!location.search.includes('second/coins.jpg')")
    second = shown.query()["compare"]
    assert "2 of" in page.inner_text("#comparison-title")
    for _ in range(25):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    shown.wait("!location.search.includes('compare')")
    assert page.evaluate("document.activeElement.dataset.name") == second
    # The address of a comparison opens it; the way back closes it.
    page.go_back()
    page.wait_for_selector("dialog.comparison[open]")
    page.click("dialog button:has-text('Search with this one')")
    shown.wait("!location.search.includes('compare')")
    assert shown.query()["indexed"] in (second, "second/coins.jpg") and page.locator("dialog[open]").count() == 0


@browser_test
def test_what_was_not_compared_is_compared_when_it_is_opened(show: "Callable[..., Shown]", album: Any) -> None:
    shown = show()
    page = shown.open("?verify=0")
    page.set_input_files("#pick", album.queries / "astronaut.jpg")
    shown.told("2 photos found")
    assert page.locator("rect.frame").count() == 0 and "places match" not in page.inner_text("#results")
    page.click(TILES)
    page.wait_for_selector(".stage .match", state="attached")
    assert "lie in the same arrangement" in page.inner_text(".why")


@browser_test
def test_nothing_certain_is_said_and_names_are_text(show: "Callable[..., Shown]") -> None:
    shown = show()
    page = shown.open()
    page.fill("#starts", "odd/")
    shown.wait("document.querySelectorAll('.archived a').length === 1")
    assert page.inner_text(".archived a .label").endswith("<i>café & 'x'.png")
    page.click(".archived a")
    shown.told("Nothing certain")
    assert shown.query()["indexed"] == ODD_NAME
    assert page.locator(".group h2").all_inner_texts() == ["Nothing certain; the nearest"]
    assert page.inner_text(".query-name .file") == "<i>café & 'x'.png"
    page.wait_for_selector(".framed img.loaded")
    page.click(TILES)
    page.wait_for_selector("dialog.comparison[open]")
    assert page.locator("i:has-text('café')").count() == 0


@browser_test
def test_folders_settings_and_archives_are_chosen(show: "Callable[..., Shown]") -> None:
    shown = show()
    page = shown.open()
    page.click(".folder-link:has-text('second')")
    shown.wait("document.querySelectorAll('.archived a').length === 8")
    assert shown.query() == {"folder": "second/"} and page.inner_text(".crumbs [aria-current]") == "second"
    page.click(".archived a:has-text('rocket')")
    shown.told("1 photo found")
    page.fill("#within", "second/")
    page.keyboard.press("Tab")
    shown.told("Nothing certain")
    assert all(name.startswith("second/") for name in shown.names()) and shown.query()["prefix"] == "second/"
    page.fill("#within", "")
    page.keyboard.press("Tab")
    shown.told("1 photo found")
    page.select_option("#top", "10")
    shown.wait("((count) => count > 1 && count <= 10)(document.querySelectorAll('.tile').length)")
    page.locator("#least").evaluate("(field) => { field.value = 90; field.dispatchEvent(new Event('change')); }")
    shown.wait("document.querySelectorAll('.tile').length === 1")
    assert shown.query()["min_probability"] == "0.9" and shown.query()["top"] == "10"
    page.select_option("#archives select", "empty")
    page.wait_for_selector(".empty:not([hidden])")
    assert "No photos yet" in page.inner_text(".empty") and page.is_visible(".empty button")
    page.go_back()
    shown.wait("document.querySelectorAll('.tile').length === 1")


@browser_test
def test_errors_are_said_in_plain_words(show: "Callable[..., Shown]", tmp_path: Path) -> None:
    shown = show()
    shown.expected = "Failed to load resource"
    (tmp_path / "broken.jpg").write_bytes(b"this is no photo")
    page = shown.open()
    page.set_input_files("#pick", tmp_path / "broken.jpg")
    page.wait_for_selector(".failure")
    assert "photo" in page.inner_text(".failure p") and page.is_visible(".failure button")
    page = shown.open("?indexed=first/none.jpg")
    page.wait_for_selector(".failure:has-text('none.jpg')")
    page = shown.open("?archive=nowhere")
    page.wait_for_selector(".failure:has-text('There is no such archive')")
    page = shown.open()
    page.wait_for_selector(".archived a")
    page.route("**/v1/search?*", lambda route: route.abort())
    page.click(".archived a")
    page.wait_for_selector(".failure:has-text('The service does not answer')")
    page.unroute("**/v1/search?*")
    page.click(".failure button")
    page.wait_for_selector(".told")


@browser_test
def test_a_busy_service_is_asked_again(show: "Callable[..., Shown]") -> None:
    shown = show()
    shown.expected = "429"
    busy = [0]

    def refuse(route: Any) -> None:
        busy[0] += 1
        if busy[0] > 2:
            route.continue_()
        else:
            problem = {"title": "Too many requests wait", "status": 429, "detail": "ask again", "code": "QueueFull"}
            route.fulfill(status=429, headers={"Retry-After": "1"}, json=problem)

    shown.page.route("**/v1/search?*", refuse)
    shown.open("?indexed=first/rocket.jpg")
    shown.page.wait_for_selector(".progress p:has-text('yours is next')")
    shown.told("1 photo found")
    assert busy[0] == 3


@browser_test
def test_photos_are_added_found_and_removed(show: "Callable[..., Shown]", album: Any, tmp_path: Path) -> None:
    shown = show()
    shutil.copy(album.queries / "hubble_deep_field.jpg", tmp_path / "<b>stars.jpg")
    shutil.copy(album.queries / "camera.jpg", tmp_path / "tripod.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "tripod.jpg").read_bytes()[:300])
    page = shown.open()
    page.click("#actions button")
    page.fill("#place", "new")
    page.set_input_files("#add-files", [tmp_path / "<b>stars.jpg", tmp_path / "broken.jpg", tmp_path / "tripod.jpg"])
    page.wait_for_selector("dialog button:has-text('Search with the first')")
    lines = page.locator(".files li").all_inner_texts()
    assert [line.splitlines()[0] for line in lines] == ["<b>stars.jpg", "broken.jpg", "tripod.jpg"]
    assert page.locator(".files li.good").count() == 2 and page.locator(".files li.bad").count() == 1
    page.click("dialog button:has-text('Search with the first')")
    shown.told("2 photos found")
    assert shown.query()["indexed"] == "new/<b>stars.jpg"
    assert sorted(shown.names()[:2]) == ["first/hubble_deep_field.jpg", "second/hubble_deep_field.jpg"]
    page.set_input_files("#pick", album.queries / "hubble_deep_field.jpg")
    shown.told("3 photos found")
    assert "<b>stars.jpg" in page.inner_text(f"{TILES}[data-name='new/<b>stars.jpg']")
    page.click(f"{TILES}[data-name='new/<b>stars.jpg']")
    page.wait_for_selector(".stage .match", state="attached")
    assert "<b>stars.jpg" in page.inner_text("#comparison-title") and page.locator("b").count() == 0
    page.click("dialog button:has-text('Search with this one')")
    shown.told("2 photos found")
    # Gone again: one as the query, one from the comparison.
    page.click("#asked button:has-text('Remove')")
    page.click("dialog button:has-text('Keep it')")
    assert shown.query()["indexed"] == "new/<b>stars.jpg"
    page.click("#asked button:has-text('Remove')")
    page.check("#with-file")
    page.click("dialog button:has-text('Remove it')")
    page.wait_for_selector("#start:not([hidden])")
    page.set_input_files("#pick", album.queries / "camera.jpg")
    shown.told("3 photos found")
    page.click(f"{TILES}[data-name='new/tripod.jpg']")
    page.click("dialog.comparison button:has-text('Remove')")
    page.check("#with-file")
    page.click("dialog button:has-text('Remove it')")
    shown.told("2 photos found")
    assert "new/tripod.jpg" not in shown.names() and page.locator("dialog[open]").count() == 0


@browser_test
def test_everything_is_reached_by_keys(show: "Callable[..., Shown]") -> None:
    shown = show()
    page = shown.open()
    page.wait_for_selector(".archived a")
    page.keyboard.press("Tab")
    assert shown.focused() == "Skip to the photos"
    page.keyboard.press("Enter")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(shown.focused())
        if reached[-1].startswith("Search with"):
            break
    assert "Choose a photo" in reached and any(text.startswith("first") for text in reached)
    page.keyboard.press("Enter")
    shown.told("1 photo found")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.tile > a')"):
            break
    names = shown.names()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.name") == names[1]
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.name") == names[-1]
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.dataset.name") in names[:-1]
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.comparison[open]")
    page.keyboard.press("Escape")
    shown.wait("!document.querySelector('dialog')")
    assert page.evaluate("document.activeElement.dataset.name") == names[0]
    # A part of the photo without a mouse.
    page.focus("button:has-text('Choose a part')")
    page.keyboard.press("Enter")
    shown.wait("location.search.includes('box=') && document.activeElement.matches('.part')")
    assert "Arrow keys move it" in shown.focused()


@browser_test
def test_the_page_fits_a_phone(show: "Callable[..., Shown]", album: Any) -> None:
    shown = show(viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
    page = shown.open()
    page.wait_for_selector(".archived a")
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.is_visible("button:has-text('Take a photo')")
    assert page.evaluate("document.getElementById('pick-camera').getAttribute('capture')") == "environment"
    assert page.evaluate(fits)
    page.set_input_files("#pick-camera", album.queries / "chelsea.jpg")
    shown.told("2 photos found")
    assert page.evaluate(fits)
    page.tap("button:has-text('Choose a part')")
    shown.wait("location.search.includes('box=')")
    page.tap("button:has-text('Whole photo')")
    shown.wait("!location.search.includes('box=')")
    shown.told("2 photos found")
    page.tap(TILES)
    page.wait_for_selector(".stage .match", state="attached")
    assert page.evaluate(fits)
    inside = (
        "[...document.querySelectorAll('dialog button')].every((b) => b.getBoundingClientRect().right <= innerWidth)"
    )
    assert page.evaluate(inside)


@browser_test
def test_a_key_is_asked_for_and_kept_in_the_tab(
    show: "Callable[..., Shown]", start_service: Callable[..., Any], album: Any
) -> None:
    read, write = "r" * 32, "w" * 32
    keys = {"CTXDEPLOY_READ_KEYS": read, "CTXDEPLOY_WRITE_KEYS": write}
    shown = show(start_service(album.archive, env=keys).url)
    shown.expected = "401"
    page = shown.open()
    page.fill("dialog #key", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog:has-text('not known')")
    page.fill("dialog #key", read)
    page.keyboard.press("Enter")
    page.wait_for_selector(".archived img.loaded")
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    page.click(".archived a")
    shown.told("1 photo found")
    page.wait_for_selector(".tile img.loaded")
    page.click(TILES)
    page.wait_for_selector(".stage .match", state="attached")


@browser_test
@pytest.mark.parametrize("scheme", ["light", "dark", "phone"])
def test_axe_finds_nothing_that_keeps_people_out(show: "Callable[..., Shown]", scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    settings: dict[str, Any] = {"color_scheme": "dark" if scheme == "dark" else "light", "reduced_motion": "reduce"}
    if scheme == "phone":
        settings |= {"viewport": PHONE, "is_mobile": True, "has_touch": True}
    shown = show(**settings)
    shown.expected = "Failed to load resource"

    def check(where: str) -> None:
        found = axe.run(shown.page).response["violations"]
        assert [(where, one["id"], one["nodes"][0]["html"][:200]) for one in found] == []

    page = shown.open()
    page.wait_for_selector(".archived img.loaded")
    check("start")
    page.click("#actions button")
    check("add")
    page.keyboard.press("Escape")
    page = shown.open("?indexed=first/coffee.jpg&box=40,40,200,160")
    page.wait_for_selector(".tile img.loaded")
    page.locator("details.settings").evaluate("(details) => { details.open = true; }")
    check("results")
    page.click(TILES)
    page.wait_for_selector(".stage .match", state="attached")
    check("comparison")
    page.click("dialog.comparison button:has-text('Remove')")
    check("removal")
    page = shown.open("?indexed=first/none.jpg")
    page.wait_for_selector(".failure")
    check("failure")
    page = shown.open("?archive=empty")
    page.wait_for_selector(".empty:not([hidden])")
    check("empty")


COUNT = 3000
# Of the tiles of a list: that each lies to the right of the one before, or below it; else which does not.
LAID = """(list) => {
    const tiles = [...list.children].map((tile) => [Number(tile.ariaPosInSet), tile.getBoundingClientRect()]);
    return tiles.slice(1).map(([at, here], before) => [at, here, ...tiles[before]])
        .filter(([at, here, before, there]) => !(at > before && (here.top >= there.bottom - 1
            || (Math.abs(here.top - there.top) < 1 && here.left >= there.right - 1))))
        .map(([at, here, before, there]) => [before, there.bottom, at, here.top]);
}"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of very many photos that are all alike a little; there are no files of them, and no network."""
    path = tmp_path_factory.mktemp("many") / "many.ctxindex"
    random, words = np.random.default_rng(3), np.arange(8, dtype=np.int32)
    codebook = Codebook.from_centroids(random.normal(size=(64, 128)).astype(np.float32))
    with Index.create(path, codebook) as index:
        for number in range(COUNT):
            codes = random.integers(0, 1 << 64, (8, 2), dtype=np.uint64)
            index.add_aggregated(f"{number // 1000}/{number:04d}.jpg", Aggregated(words=words, codes=codes))
    return path


@pytest.fixture(scope="module")
def crowded(start_service: Callable[..., Any], many: Path) -> str:
    """Where it is served."""
    url: str = start_service(many).url
    return url


@browser_test
def test_of_very_many_photos_those_near_the_window_are_in_the_page(show: "Callable[..., Shown]", crowded: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    shown = show(crowded)
    shown.expected = "Failed to load resource"
    page = shown.open()
    page.wait_for_selector(".archived a")
    tiles = page.locator(".archived li")

    def seen(number: int) -> str:
        """Return a condition: a tile is there and seen."""
        tile = f"document.querySelector('.archived [aria-posinset=\"{number}\"]')?.getBoundingClientRect()"
        return f"((box) => !!box && box.top < innerHeight && box.bottom > 0)({tile})"

    def walk_to(number: int) -> None:
        """Scroll down as far as it goes until a tile is seen; at no time there are many."""
        for _ in range(PATIENCE // 50):
            page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
            page.wait_for_timeout(50)
            assert tiles.count() < 400 and page.eval_on_selector(".archived", LAID) == []
            if page.evaluate(seen(number)):
                return
        raise AssertionError("the end is not reached")

    assert tiles.first.get_attribute("aria-setsize") == str(COUNT)
    walk_to(COUNT)
    assert page.is_hidden(".more button") and tiles.last.inner_text().endswith(f"{COUNT - 1}.jpg")
    # What has the focus stays there, with its neighbours, wherever the window goes.
    tiles.last.locator("a").focus()
    page.evaluate("scrollTo(0, 0)")
    shown.wait(seen(1))
    assert shown.focused().endswith(f"{COUNT - 1}.jpg") and tiles.count() < 400
    assert page.eval_on_selector(".archived", LAID) == []
    page.keyboard.press("Shift+Tab")
    assert shown.focused().endswith(f"{COUNT - 2}.jpg")
    shown.wait(seen(COUNT - 1))
    # Back and forth, and in a window of another width.
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
    shown.wait(f"document.querySelectorAll('.archived li').length < 400 && !({seen(COUNT - 1)})")
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(100)
    shown.wait("document.documentElement.scrollWidth <= innerWidth")
    assert page.eval_on_selector(".archived", LAID) == []
    page.set_viewport_size(DESKTOP)
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in axe.run(page).response["violations"]] == []
    page.fill("#starts", "2/29")
    shown.wait("document.querySelector('.archived li')?.ariaSetSize === '100'")
    assert tiles.first.inner_text().endswith("2900.jpg") and "100 photos" in page.inner_text("#status")


@browser_test
def test_of_very_many_results_those_near_the_window_are_in_the_page(show: "Callable[..., Shown]", crowded: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    shown = show(crowded)
    shown.expected = "Failed to load resource"
    page = shown.open("?indexed=1/1234.jpg&top=1000")
    page.wait_for_selector("#results:not([aria-busy]) .tile > a")
    tiles, here = page.locator(".grid.tiles > .tile"), "document.activeElement.closest('li').ariaPosInSet"
    total = int(tiles.last.get_attribute("aria-setsize") or 0)
    assert total > 500 and 5 < tiles.count() < 300

    def check() -> None:
        assert tiles.count() < 300 and page.eval_on_selector(".grid.tiles", LAID) == []

    check()
    tiles.first.locator("a").focus()
    for key, wanted in (("End", total), ("ArrowLeft", total - 1), ("Home", 1), ("ArrowRight", 2)):
        page.keyboard.press(key)
        shown.wait(f"{here} === '{wanted}'")
        check()
    for _ in range(30):
        page.keyboard.press("ArrowDown")
        check()
    low = int(page.evaluate(here))
    assert low > 60
    name = page.evaluate("document.activeElement.dataset.name")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    shown.wait(f"[...document.querySelectorAll('.tile')].some((tile) => tile.ariaPosInSet === '{total}')")
    assert page.evaluate("document.activeElement.dataset.name") == name
    check()
    page.keyboard.press("ArrowRight")
    shown.wait(f"{here} === '{low + 1}'")
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in axe.run(page).response["violations"]] == []
    # The focus comes back to a tile that is not there any more when a comparison is closed.
    name = page.evaluate("document.activeElement.dataset.name")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.comparison[open]")
    page.evaluate("scrollTo(0, 0)")
    page.keyboard.press("Escape")
    shown.wait("!document.querySelector('dialog')")
    shown.wait(f"document.activeElement.dataset.name === '{name}'")
