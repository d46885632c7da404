"""A real browser on a page of this machine, and everything that it complains about."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

INSTALL = Path(__file__).parents[2] / "e2e" / "install-chromium.sh"
# Told of every answer that is an error, and such answers are what some tests are about; and of a page that comes over plain HTTP from
# elsewhere than this machine, as a cluster's does.
EXPECTED = ("Failed to load resource", "The Cross-Origin-Opener-Policy header has been ignored")
# The browser's own word for what the page's policy has kept from happening.
LISTEN = "document.addEventListener('securitypolicyviolation', e => console.error('policy', e.violatedDirective, e.blockedURI))"


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Debian's chromium, installed where it is not there yet."""
    done = subprocess.run(["bash", str(INSTALL)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with sync_playwright() as playwright:
        # Tests run as root in many places, where chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str, **how: Any) -> Iterator[Page]:
    """A page in a context of its own. AssertionError at the end where anything went wrong in it: an exception, an error on the console,
    or something that its policy has refused."""
    complaints: list[str] = []

    def said(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(EXPECTED):
            complaints.append(message.text)

    context = browser.new_context(**how)
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.add_init_script(LISTEN)
    page.on("console", said)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert not complaints, complaints
