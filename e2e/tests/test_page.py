"""The page in a real browser, before the front door of a cluster: what it says of a model is the resource's own word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from product import front_door, model_claim, pods
from product.front_door import HOME
from product.resource import condition
from test_model import model_folder

from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster
from support.browser import opened, running_browser
from support.page import START, ask, card, running

RIDER, LARGE, OTHER = "rider", "too-large", "by-kubectl"
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def door(cluster: Cluster, kubectl: Kubectl, operator: None) -> Iterator[str]:
    """Two of them; what a test has launched is gone afterwards."""
    with front_door.installed(cluster, kubectl) as url:
        try:
            yield url
        finally:
            kubectl("delete", "mdep", RIDER, LARGE, OTHER, "-n", HOME, "--ignore-not-found", "--timeout=120s")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, door: str) -> Iterator[Page]:
    with opened(browser, door) as page:
        yield page


@pytest.fixture(scope="module")
def rider(browser: Browser, door: str, cluster: Cluster, kubectl: Kubectl) -> str:
    """A model to talk to, launched by the form and followed until it is ready."""
    reference = model_claim.provide(cluster, kubectl, model_folder(), HOME)
    with opened(browser, door) as page:
        page.get_by_role("link", name="Launch", exact=True).click()
        page.get_by_label("Repository or folder").check()
        page.get_by_label("Repository or path").fill(reference)
        page.get_by_label("Name optional").fill(RIDER)
        page.get_by_label("Context tokens").fill("2048")
        expect(page.locator("#fit")).to_contain_text("Not known yet")
        expect(page.locator("#fit")).to_contain_text("It would get the profile cpu.")
        page.get_by_role("button", name="Launch").click()
        launched = card(page, RIDER)
        expect(launched.get_by_role("heading")).to_be_focused()
        expect(launched.locator(".badge")).to_have_text("Starting")
        expect(launched.get_by_role("progressbar")).to_be_visible()
        # The resource's reason and sentence while it starts.
        expect(launched.locator(".words")).to_contain_text(re.compile(r"^(Pending|Loading): \w"))
        expect(launched.locator(".badge")).to_have_text("Ready", timeout=START)
        expect(launched.get_by_role("progressbar")).to_be_hidden()
        expect(launched).to_contain_text("2,048 tokens of context")
        assert found(kubectl, RIDER)["status"]["ready"] == "1/1"
    return RIDER


def found(kubectl: Kubectl, name: str) -> dict[str, Any]:
    return kubectl.get("mdep", name, HOME) or {}


def said(kubectl: Kubectl, name: str) -> str:
    """By the resource, of why it is not ready."""
    ready = condition(found(kubectl, name), "Ready") or {}
    return f"{ready['reason']}: {ready['message']}"


def test_the_form_has_the_operators_verdict_and_a_launch_against_it_fails_with_it(page: Page, door: str, kubectl: Kubectl) -> None:
    page.goto(f"{door}/#launch")
    fit = page.locator("#fit")
    expect(page.locator("#machine")).to_have_text("The cluster’s nodes are not seen from here.")
    page.get_by_role("combobox", name="Model").select_option("qwen2.5-instruct")
    page.get_by_role("combobox", name="Size").select_option("0.5")
    expect(fit).to_have_text(re.compile(r"It fits A replica needs \d\.\d\dGi of the 4\.00Gi of the profile cpu \(weights \d"))
    page.get_by_label("Repository or folder").check()
    page.get_by_label("Repository or path").fill("/no/such/folder")
    expect(fit).to_contain_text("It would be refused model_path: a pod does not see this machine's folders")
    page.get_by_label("Catalogue").check()
    page.get_by_role("combobox", name="Size").select_option("72")
    page.get_by_label("Name optional").fill(LARGE)
    expect(fit).to_contain_text("It does not fit")
    verdict = (fit.text_content() or "").removeprefix("It does not fit ")
    assert not found(kubectl, LARGE), "nothing is made for a verdict"
    page.get_by_role("button", name="Launch").click()
    failed = card(page, LARGE)
    expect(failed.locator(".badge")).to_have_text("Failed")
    expect(failed.get_by_role("alert")).to_have_text(f"DoesNotFit: {verdict}")
    assert said(kubectl, LARGE) == f"DoesNotFit: {verdict}"
    failed.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(failed).to_have_count(0)
    assert not found(kubectl, LARGE)


def test_a_chat_streams_and_is_stopped(rider: str, page: Page, door: str, kubectl: Kubectl) -> None:
    card(page, rider).get_by_role("link", name="Chat").click()
    expect(page.get_by_role("combobox", name="Model")).to_have_value(rider)
    page.get_by_label("Longest answer").fill("1500")
    question, answer = page.get_by_label("Your message"), page.locator(".message.assistant .prose")
    question.fill("Write a very long story about a bus that drives around the world.")
    question.press("Enter")
    expect(answer).not_to_be_empty()
    before = len(answer.inner_text())
    wait_for(lambda: len(answer.inner_text()) > before + 50, 60, "more of the answer")
    assert running(door, rider) == 1
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".assistant .figures")).to_contain_text("stopped")
    (pod,) = pods.of(kubectl, rider, HOME)
    wait_for(lambda: not pod.count("jitney_requests_running"), 60, "free row")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "What is the capital of France?")
    expect(answer).to_have_text("The capital of France is Paris.")
    expect(page.locator(".assistant .figures")).to_contain_text(re.compile(r"first token after \d+\.\d\d s · \d+\.\d tokens/s · 8 tokens"))
    page.get_by_role("link", name="Models", exact=True).click()
    expect(card(page, rider).get_by_role("img", name=re.compile("Generated over the last two minutes"))).to_be_visible()


def test_what_kubectl_does_is_seen_at_once(page: Page, kubectl: Kubectl) -> None:
    """Also why it does not come up."""
    metadata = {"name": OTHER, "namespace": HOME}
    spec = {"model": "pvc://nowhere/model"}
    kubectl.apply({"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec})
    made = card(page, OTHER)
    expect(made.locator(".words")).to_contain_text("ClaimNotFound: There is no PersistentVolumeClaim nowhere")
    assert made.locator(".words").inner_text() == said(kubectl, OTHER)
    kubectl("delete", "mdep", OTHER, "-n", HOME, "--timeout=60s")
    expect(made).to_have_count(0)


def test_terminate_ends_its_pods(rider: str, page: Page, kubectl: Kubectl) -> None:
    """The last of the tests that need it."""
    card(page, rider).get_by_role("button", name="Terminate").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The resource is deleted and its pods end.")
    dialog.get_by_role("button", name="Terminate").click()
    expect(card(page, rider)).to_have_count(0)
    assert not found(kubectl, rider)
    wait_for(lambda: not pods.of(kubectl, rider, HOME), 120, "end of its pods")
