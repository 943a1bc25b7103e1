"""Debian's Chromium, driven by Playwright."""

import contextlib
import shutil
import time
from collections.abc import Iterator

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def open_browser() -> Iterator:
    """A browser without a window; the test is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium to open the page in: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        yield browser
        browser.close()


def wait(page, expression: str, seconds: float = 60) -> None:
    """Wait until a JavaScript expression is true; a page's policy forbids Playwright's own way."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"not true after {seconds} s: {expression}"
        time.sleep(0.02)
