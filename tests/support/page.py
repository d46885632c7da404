"""The front door's page as a person finds their way on it."""

from __future__ import annotations

import httpx
from playwright.sync_api import Locator, Page, expect

# Milliseconds. A model may need half a minute to start beside other tests.
START, ANSWER = 150_000, 120_000


def card(page: Page, uid: str) -> Locator:
    """Of one model, in the view of all."""
    return page.locator("article.card").filter(has=page.get_by_role("heading", name=uid, exact=True))


def ask(page: Page, text: str) -> None:
    """In the view of chats, greedily, until the answer is over."""
    page.locator("#temperature").evaluate("node => { node.value = 0; node.dispatchEvent(new Event('input', {bubbles: true})); }")
    page.get_by_label("Your message").fill(text)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".assistant .figures")).to_be_visible(timeout=ANSWER)


def running(url: str, uid: str) -> int:
    """Requests that the model's runtimes have in their batches."""
    (model,) = [model for model in httpx.get(f"{url}/v1/overview", timeout=30, trust_env=False).json()["models"] if model["uid"] == uid]
    return int(sum(replica["load"]["running"] for replica in model["replicas"] if replica["load"]))
