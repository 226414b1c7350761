"""The browser of the page's tests: the Chromium of the system, driven by Playwright."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def missing() -> str:
    """Return the reason why there is no browser, or an empty text if there is one."""
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        return "playwright is not installed"
    return "" if _chromium() else "no Chromium found (apt-get install chromium)"


def _chromium() -> str | None:
    return next(
        (path for path in ("/usr/bin/chromium", shutil.which("chromium")) if path and Path(path).exists()), None
    )


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser; if there is none, skip the test with a reason, or fail it in CI."""
    reason = missing()
    if reason:
        if os.environ.get("CI") == "true":
            pytest.fail(f"the page's tests need a browser: {reason}")
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


class Opened:
    """A saved page in its own tab."""

    def __init__(
        self, browser: Any, path: Path, *, width: int = 1280, height: int = 800, scheme: str = "light"
    ) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.tab = self.context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.messages.append(message.text))
        self.tab.on("pageerror", lambda error: self.messages.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(path.as_uri())
        self.wait_until("window.nonlocalPage && window.nonlocalPage.ready")

    def wait_until(self, condition: str, seconds: float = 30) -> None:
        """Wait until a JavaScript expression is true; Playwright's own wait needs eval, which the page denies."""
        end = time.monotonic() + seconds
        while not self.tab.evaluate(condition):
            assert time.monotonic() < end, f"not true after {seconds} s: {condition}; messages: {self.messages}"
            self.tab.wait_for_timeout(20)

    def get(self, name: str) -> Any:
        """Return a value of `window.nonlocalPage`; typed arrays become lists."""
        return self.tab.evaluate(
            "name => { const value = window.nonlocalPage[name];"
            " return value instanceof Float32Array ? Array.from(value) : value; }",
            name,
        )

    def click(self, frame: int, y: float, x: float, size: tuple[int, int]) -> None:
        """Click the center of a pixel of a frame: in the strip, or on the stage of an image."""
        canvases = self.tab.locator("#strip canvas")
        canvas = canvases.nth(frame) if canvases.count() > 1 else self.tab.locator("#stage canvas")
        canvas.scroll_into_view_if_needed()
        self.tab.evaluate(PAINTED)  # on a busy machine, the page may still change its layout
        box = canvas.bounding_box()
        canvas.click(
            position={"x": (x + 0.5) / size[1] * box["width"], "y": (y + 0.5) / size[0] * box["height"]}, force=True
        )

    def close(self) -> None:
        """Close the tab, and check that it made no requests and logged no messages."""
        self.context.close()
        assert self.messages == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []
