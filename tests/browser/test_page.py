"""`troth ui` in a real browser, on a real mesh."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright
from tests.e2e.harness import TROTH, Host, Mesh, eventually
from tests.e2e.manifests import deployment, document, namespace, policy, server, service
from tests.e2e.policies import clients, wait_serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Dialog, Page

pytestmark = pytest.mark.browser

_CHROMIUM = Path(__file__).parents[2] / "scripts" / "chromium"
_PATIENCE_MS = 30_000
OBJECTS = [
    namespace("finance", mesh=True),
    namespace("legacy", mesh=False),
    *server("finance/web", "http:8080"),
    *deployment("finance/payments", "http:8080"),
    service("finance/web", 8080),
    service("finance/payments", 8080),
    *server("legacy/cron"),
    policy("finance/payments-strict", "STRICT", selector={"app": "payments"}),
]


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """With connections that were taken and refused."""
    with Host() as host, Mesh(host, {"mesh.yaml": document(OBJECTS)}) as running:
        wait_serving(running)
        with clients(running, "finance/web", "legacy/cron") as (web, cron):
            web.get("payments", 8080)
            cron.get("web.finance", 8080)
            cron.get("payments.finance", 8080)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = subprocess.run([_CHROMIUM], check=True, capture_output=True, text=True).stdout.strip()
    with sync_playwright() as playwright:
        # Chromium's own sandbox can't be had as root; all that is opened is ours.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def address(mesh: Mesh) -> Iterator[str]:
    """Where the page opens, once."""
    process = subprocess.Popen(
        [TROTH, "ui"], env=mesh.environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened; it has drawn the mesh, and nothing in it has failed."""
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(_PATIENCE_MS)
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(address)
    opened.wait_for_selector(".vertex")
    yield opened
    opened.close()
    assert wrong == []


def vertex(key: str) -> str:
    return f".vertex[data-key='{key}']"


def test_the_picture_shows_each_workload_and_how_its_connections_pass(page: Page) -> None:
    expect(page.locator(".vertex")).to_have_count(3)
    for passage in ("tunnel", "plaintext", "refused"):
        expect(page.locator(f".edge[data-passage={passage}]")).to_have_count(1)
    expect(page.locator(vertex("finance/payments"))).to_have_attribute("data-mode", "STRICT")
    expect(page.locator(vertex("legacy/cron"))).to_contain_text("outside the mesh")
    if pictures := os.environ.get("TROTH_PICTURES"):  # docs/images, when the page has changed
        page.locator(".edge[data-passage=refused]").dispatch_event("click")
        page.screenshot(path=f"{pictures}/ui.png")


def test_a_refused_connection_says_why_and_what_to_do(page: Page) -> None:
    page.locator(".edge[data-passage=refused]").dispatch_event("click")
    details = page.locator("#details")
    expect(details).to_contain_text("finance/payments-strict sets STRICT for app=payments")
    expect(details.locator("pre")).to_contain_text("labels: {troth.dev/mesh: enabled}")


def test_a_workload_shows_which_policy_decides_and_which_lose(page: Page) -> None:
    page.locator(vertex("finance/web")).click()
    ladder = page.locator("#details ol")
    expect(ladder.locator("li.lost")).to_contain_text("finance/payments-strict")
    expect(ladder.locator("li.decides")).to_contain_text("the default")
    page.locator(vertex("finance/payments")).click()
    expect(ladder.locator("li.decides")).to_contain_text("finance/payments-strict")


def test_a_policy_that_is_changed_is_seen_without_a_reload(page: Page, mesh: Mesh) -> None:
    expect(page.locator(vertex("finance/web"))).to_have_attribute("data-mode", "PERMISSIVE")
    mesh.write("more.yaml", document([policy("finance/default", "STRICT")]))
    try:
        expect(page.locator(vertex("finance/web"))).to_have_attribute(
            "data-mode", "STRICT", timeout=_PATIENCE_MS
        )
    finally:
        mesh.delete("more.yaml")


def test_everything_can_be_done_by_keyboard(page: Page) -> None:
    page.locator(vertex("finance/web")).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#details h2")).to_have_text("finance/web")
    page.keyboard.press("Escape")
    expect(page.locator("#details")).to_contain_text("Choose a workload")
    page.locator("#rows button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#details h2")).to_contain_text("→ finance/payments:8080")


def test_finding_a_workload_fades_the_others_and_shortens_the_table(page: Page) -> None:
    page.locator("#find").fill("cron")
    expect(page.locator(vertex("finance/web"))).to_have_class("vertex faded")
    expect(page.locator("#rows tr")).to_have_count(2)


def test_an_address_that_was_used_opens_no_second_browser(
    page: Page, browser: Browser, address: str
) -> None:
    expect(page.locator("#state")).to_have_text("live")
    other = browser.new_context().new_page()
    answer = other.goto(address)
    assert answer is not None
    assert answer.status == 403
    other.context.close()


def test_nothing_comes_from_elsewhere(browser: Browser, address: str) -> None:
    asked = []
    opened = browser.new_page()
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    opened.wait_for_selector(".vertex", timeout=_PATIENCE_MS)
    opened.close()
    origin = address.partition("/?")[0]
    assert [url for url in asked if not url.startswith(f"{origin}/")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280, 3840])
def test_axe_finds_nothing(page: Page, width: int, scheme: Any) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.locator(vertex("finance/payments")).dispatch_event("click")
    page.wait_for_selector("#details ol")
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    # Nothing is beyond the edge either.
    assert page.evaluate("document.documentElement.scrollWidth") <= width


HOSTILE = "<img src=x onerror=alert(1)>"


def test_names_are_text_whatever_they_say(browser: Browser, address: str) -> None:
    """Names, causes and manifests come from strangers; here each tries to be markup."""
    moment = "2026-01-01T00:00:00Z"
    reason = {"outcome": "refused", "reason": HOSTILE, "count": 1, "cause": HOSTILE}
    edge = {"source": HOSTILE, "destination": HOSTILE, "port": 1, "passage": "refused"}
    counts = {"tunnel": 0, "plaintext": 0, "refused": 1, "failed": 0, "last": moment}
    place = {"x": 100, "y": 100, "width": 300, "height": 200}
    told = {
        "vertices": [
            {"key": HOSTILE, "area": HOSTILE, "name": HOSTILE, "in_mesh": False, "captured": False}
            | {"why": HOSTILE, "mode": None, "ports": {}, "ready": False, "x": 200, "y": 150}
        ],
        "edges": [
            edge | counts | {"refusals": [reason | {"remedy": HOSTILE, "manifests": HOSTILE}]}
        ],
        "areas": [{"name": HOSTILE} | place],
        "problems": [HOSTILE],
        "width": 500,
        "height": 400,
    }
    opened = browser.new_page()
    opened.route(
        "**/api/stream*",
        lambda route: route.fulfill(
            content_type="text/event-stream", body=f"event: graph\ndata: {json.dumps(told)}\n\n"
        ),
    )
    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    opened.on("dialog", note)
    opened.goto(address)
    opened.wait_for_selector(".edge", timeout=_PATIENCE_MS)
    opened.locator(".edge").dispatch_event("click")
    expect(opened.locator("#details pre")).to_have_text(HOSTILE)
    opened.locator(".vertex").dispatch_event("click")
    expect(opened.locator("#details h2")).to_have_text(HOSTILE)
    assert opened.locator("img").count() == 0
    assert dialogs == []
    opened.close()


def test_it_ends_at_once_and_says_so(browser: Browser, mesh: Mesh) -> None:
    process = subprocess.Popen(
        [TROTH, "ui"], env=mesh.environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    opened = browser.new_page()
    opened.goto(process.stdout.readline().strip())
    expect(opened.locator("#state")).to_have_text("live", timeout=_PATIENCE_MS)
    process.terminate()
    assert eventually(lambda: process.poll() is not None, what="its end")
    process.stdout.close()
    expect(opened.locator("#state")).to_contain_text("gone", timeout=_PATIENCE_MS)
    opened.close()
