"""The page at `/` in a real browser, before a real `jitney local` that gets its models from a hub on this machine."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from hub.server import Hub, running_hub
from jitney_gateway.server import keys
from support.browser import opened, running_browser
from support.local import NAME, Local, running_local, until
from support.models import save_hollow, save_tiny, smollm2_folder
from support.page import START, ask, card, running

FILES = resources.files("jitney_gateway").joinpath("page")
# Where pictures of the page go, when somebody asks for them (`make screenshots`).
PICTURES = os.environ.get("JITNEY_SCREENSHOTS", "")
expect.set_options(timeout=30_000)
NOBODY = {"model_engine": "transformers", "model_name": "tiny/nobody", "model_uid": "nobody"}
DESKTOP = {"viewport": {"width": 1280, "height": 860}, "device_scale_factor": 1.5}
HANDHELD = {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@dataclass
class Site:
    browser: Browser
    local: Local
    hub: Hub

    @property
    def url(self) -> str:
        return self.local.url


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    with running_hub() as hub, running_browser() as browser:
        # Its answers have no end of their own.
        hub.repositories["tiny/rider"] = save_tiny(folder / "tiny", vocab_size=49152, max_position_embeddings=8192)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
        with running_local(folder / "state", **environment) as local:
            # It fails while the other one starts.
            httpx.post(f"{local.url}/v1/models?wait_ready=false", json=NOBODY).raise_for_status()
            yield Site(browser, local, hub)


@pytest.fixture(scope="module")
def rider(site: Site) -> str:
    """A model to talk to, launched by the form and followed until it is ready."""
    site.hub.held.add("model.safetensors")
    with opened(site.browser, site.url) as page:
        page.get_by_role("link", name="Launch", exact=True).click()
        page.get_by_label("Repository or folder").check()
        page.get_by_label("Repository or path").fill("tiny/rider")
        page.get_by_label("Name optional").fill("rider")
        page.get_by_label("Context tokens").fill("4096")
        page.get_by_label("Requests in a batch").fill("2")
        expect(page.locator("#command")).to_contain_text("-n tiny/rider")
        expect(page.locator("#command")).to_contain_text("--max_model_len 4096")
        expect(page.locator("#fit")).to_contain_text("Not known yet")
        page.get_by_role("button", name="Launch").click()
        launched = card(page, "rider")
        expect(launched.get_by_role("heading")).to_be_focused()
        expect(launched.locator(".badge")).to_have_text("Starting")
        expect(launched.get_by_role("progressbar")).to_be_visible()
        expect(launched.locator(".words")).to_contain_text("downloading", timeout=START)
        site.hub.release()
        expect(launched.locator(".badge")).to_have_text("Ready", timeout=START)
        expect(launched.get_by_role("progressbar")).to_be_hidden()
        expect(launched).to_contain_text("4,096 tokens of context")
    return "rider"


@pytest.fixture
def page(site: Site) -> Iterator[Page]:
    with opened(site.browser, site.url) as page:
        yield page


def test_files_come_with_a_policy_and_a_tag_and_name_nothing_outside(site: Site):
    index = httpx.get(site.url)
    policy = dict(part.split(" ", 1) for part in index.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert (policy["require-trusted-types-for"], policy["trusted-types"], policy["img-src"]) == ("'script'", "'none'", "'self' data:")
    assert index.headers["x-content-type-options"] == "nosniff"
    assert index.headers["referrer-policy"] == "no-referrer"
    assert httpx.get(site.url, headers={"If-None-Match": index.headers["etag"]}).status_code == 304
    assert httpx.get(f"{site.url}/page/none.js").status_code == 404
    assert httpx.get(f"{site.url}/page/..%2Fmodel.py").status_code == 404
    for file in FILES.iterdir():
        served = httpx.get(f"{site.url}/page/{file.name}")
        assert served.content == file.read_bytes()
        assert served.headers["content-security-policy"] == index.headers["content-security-policy"]
        outside = re.findall(r"""(?:https?:)?//[a-z0-9-]+\.[a-z]+[^\s"'`]*""", file.read_text())
        assert not [address for address in outside if not address.startswith("http://www.w3.org/2000/svg")], file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\sstyle=", file.read_text()), file.name


def test_the_form_says_whether_it_fits(page: Page):
    page.goto(page.url.partition("#")[0] + "#launch")
    page.get_by_role("combobox", name="Model").select_option("qwen2.5-instruct")
    page.get_by_role("combobox", name="Size").select_option("0.5")
    expect(page.locator("#fit")).to_contain_text("0.5 needs")
    page.get_by_role("combobox", name="Size").select_option("72")
    expect(page.locator("#fit")).to_contain_text("It does not fit")
    expect(page.locator("#fit")).to_contain_text("take a smaller size")
    page.get_by_label("Requests in a batch").fill("5000")
    expect(page.locator("#fit")).to_contain_text("max_num_seqs: must be a whole number from 1 to 1024, not 5000")


def test_a_chat_streams_and_is_stopped(site: Site, rider: str, page: Page):
    card(page, rider).get_by_role("link", name="Chat").click()
    expect(page.get_by_role("combobox", name="Model")).to_have_value(rider)
    question = page.get_by_label("Your message")
    expect(question).to_be_focused()
    page.get_by_label("System prompt").fill("Answer at length.")
    page.get_by_label("Longest answer").fill("3900")
    question.fill("Tell me <b>everything</b>.")
    question.press("Enter")
    answer = page.locator(".message.assistant .prose")
    expect(answer).not_to_be_empty()
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    assert page.locator("#messages").get_attribute("aria-busy") == "true"
    before = len(answer.inner_text())
    until(lambda: len(answer.inner_text()) > before + 50)
    assert running(site.url, rider) == 1
    stop.click()
    expect(page.locator(".assistant .figures")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert page.locator("#messages").get_attribute("aria-busy") == "false"
    expect(page.locator("#spoken")).to_have_text("The answer was stopped.")
    # The row is free again, and not only the page quiet.
    until(lambda: running(site.url, rider) == 0)
    assert page.locator(".message.user").inner_text().strip().endswith("Tell me <b>everything</b>.")
    # The next answer knows what was said, and ends by itself.
    page.get_by_label("Longest answer").fill("6")
    for slider, key, shown in (("Temperature", "ArrowLeft", "0.60"), ("Top p", "ArrowLeft", "0.85")):
        for _ in range(2):
            page.get_by_label(slider).press(key)
        expect(page.locator(".slider").filter(has_text=slider).locator("output")).to_have_text(shown)
    question.fill("And then?")
    with page.expect_request("**/v1/chat/completions") as asked:
        question.press("Enter")
    body = asked.value.post_data_json
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (6, 0.6, 0.85)
    figures = page.locator(".assistant .figures").last
    expect(figures).to_contain_text(re.compile(r"first token after \d+\.\d\d s · \d+\.\d tokens/s · 6 tokens · cut at the longest answer"))
    expect(page.locator("#spoken")).to_have_text("The answer is complete.")
    page.get_by_role("link", name="Models", exact=True).click()
    first = card(page, rider).get_by_role("img", name=re.compile(r"First token over the last two minutes: now \d+\.\d\d s"))
    expect(first).to_be_visible()
    expect(first.locator("path.dots")).to_have_attribute("d", re.compile("^M"))
    page.go_back()
    # A reload keeps the conversation, and another one begins empty.
    page.reload()
    expect(page.locator(".message")).to_have_count(4)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".message")).to_have_count(0)
    page.get_by_role("link", name="Models").click()
    expect(card(page, rider).get_by_role("img", name=re.compile("Generated over the last two minutes"))).to_be_visible()
    expect(card(page, rider).locator(".chart path.line").first).to_have_attribute("d", re.compile("^M"))


def test_what_does_not_come_up_is_told_in_full(site: Site, page: Page):
    page.goto(f"{site.url}/#launch")
    page.get_by_label("Repository or folder").check()
    page.get_by_label("Repository or path").fill("/no/such/folder")
    page.get_by_role("button", name="Launch").click()
    expect(page.locator("#launch-problem")).to_have_text("model_path: there is no folder /no/such/folder")
    page.get_by_label("Repository or path").fill("tiny/rider")
    expect(page.locator("#launch-problem")).to_be_hidden()
    page.get_by_role("link", name="Models", exact=True).click()
    failed = card(page, "nobody")
    expect(failed.locator(".badge")).to_have_text("Failed", timeout=START)
    expect(failed.get_by_role("alert")).to_contain_text("tiny/nobody")
    assert failed.get_by_role("alert").inner_text() == httpx.get(f"{site.url}/v1/models/nobody").json()["message"]
    failed.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(failed).to_have_count(0)


def test_a_chat_that_is_refused_says_why(site: Site, rider: str, page: Page):
    page.goto(f"{site.url}/#chat/{rider}")
    page.get_by_label("System prompt").fill("word " * 20_000)
    page.get_by_label("Your message").fill("Hello")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".message.assistant").get_by_role("alert")).to_contain_text("4096")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator("#spoken")).to_be_empty()


def test_requests_of_others_are_seen_in_the_batch_and_before_it(site: Site, rider: str, page: Page):
    expect(card(page, rider)).to_be_visible()
    body = {"model": rider, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3900, "stream": True}
    with ExitStack() as asked:
        for _ in range(3):
            asked.enter_context(httpx.stream("POST", f"{site.url}/v1/chat/completions", json=body, timeout=60))
        told = "Requests over the last two minutes: now 2 in the batch. 1 waiting · room for 2"
        chart = card(page, rider).get_by_role("img", name=told)
        expect(chart).to_be_visible()
        # Whose last word is how far from the top they end.
        ends = "node => ['.line', '.second'].map((part) => node.querySelector(part).getAttribute('d').split(' ').at(-1))"
        batch, waiting = (float(end) for end in chart.evaluate(ends))
        assert batch < waiting < float(chart.locator(".base").get_attribute("y2") or 0)


def test_a_look_at_the_memory_is_not_read_out(rider: str, page: Page):
    expect(page.locator("#view-models").get_by_role("status")).to_contain_text("ready")
    expect(page.locator("#models-memory")).to_have_text(re.compile(r"^\d+\.\d of \d+\.\d GiB memory free$"))
    assert "GiB" not in "".join(page.get_by_role("status").all_inner_texts())


def test_of_another_namespace_there_are_only_chats(site: Site, rider: str, page: Page):
    """The rest is the real answer of a front door that has no other namespaces."""
    seen = httpx.get(f"{site.url}/v1/overview").json()
    (model,) = [model for model in seen["models"] if model["uid"] == rider]
    seen["models"] += [model | {"uid": "home/slash"}, model | {"uid": "team/rider", "foreign": True}]
    page.route("**/v1/overview", lambda route: route.fulfill(json=seen))
    for uid, shown in ((rider, 1), ("home/slash", 1), ("team/rider", 0)):
        made = card(page, uid)
        expect(made.get_by_role("link", name="Chat")).to_be_visible()
        for name in ("Log", "Terminate"):
            expect(made.get_by_role("button", name=name)).to_have_count(shown)
        expect(made.get_by_text("It lives in another namespace")).to_be_visible(visible=not shown)


def test_what_nobody_wants_now_does_not_start(site: Site, rider: str, page: Page):
    """The rest is the real answer of a front door whose models never sleep."""
    seen = httpx.get(f"{site.url}/v1/overview").json()
    (model,) = [model for model in seen["models"] if model["uid"] == rider]
    assert model["idle"] is None
    still = model | {"status": "LOADING", "stage": "loading", "progress": 0.0, "message": "It says why.", "replicas": []}
    seen["models"] = [model, still | {"uid": "dozes", "idle": "asleep"}, still | {"uid": "rests", "idle": "suspended"}]
    page.route("**/v1/overview", lambda route: route.fulfill(json=seen))
    page.reload()
    for uid, word in (("dozes", "Asleep"), ("rests", "Suspended")):
        made = card(page, uid)
        expect(made.locator(".badge")).to_have_text(word)
        expect(made.locator(".words")).to_have_text("It says why.")
        expect(made.get_by_role("progressbar")).to_be_hidden()
    expect(page.locator("#models-summary")).to_have_text("1 ready · 1 asleep · 1 suspended")
    expect(page.locator("#chat-model option")).to_have_text([rider, "dozes (asleep)", "rests (suspended)"])
    # Nothing is on its way that a sooner look would see.
    looks = "performance.getEntriesByType('resource').filter(({name}) => name.endsWith('/v1/overview')).map(({startTime}) => startTime)"
    until(lambda: len(page.evaluate(looks)) > 2)
    first, *others = page.evaluate(looks)
    assert min(after - before for before, after in pairwise([first, *others])) > 1900


HOSTILE = """# Title <script>alert(1)</script>
<img src=x onerror=alert(1)> **bold *both*** and _soft_, snake_case_name, 2 * 3 * 4, `a < b`, ~~gone~~
[good](https://example.org/a_(b)?c=1&d="2") [bad](javascript:alert(1)) [data](data:text/html,x) ![picture](https://example.org/p.png)
See https://example.org/path_with_marks. And \\*no stars\\*.

1. one
   - inner **deep**
   - other
2. two

   with a second paragraph

> quoted
> text

| a | b |
|---|---|
| 1 | `x` |

---
```python
def f(a):
    return a * 2  # <b>
"""


def test_what_a_model_writes_becomes_nodes_and_never_markup(page: Page):
    """The text ends inside a code block, as one that streams does."""
    html = page.evaluate(
        "async text => { const {markdown} = await import('/page/markdown.js'); const node = document.createElement('div');"
        " node.append(...markdown(text)); window.made = node; return node.innerHTML; }",
        HOSTILE,
    )
    found = page.evaluate(
        "() => { const of = (tag) => [...window.made.querySelectorAll(tag)].map((node) => node.textContent);"
        " return {script: of('script, img, iframe, object'), links: [...window.made.querySelectorAll('a')].map((a) => [a.href, a.rel]),"
        " strong: of('strong'), em: of('em'), code: of('code'), inner: of('ol > li > ul > li'), two: of('ol > li:last-child > p'),"
        " cells: of('td'), quote: of('blockquote'), heading: of('h2'), rules: of('hr').length,"
        " attributes: [...window.made.querySelectorAll('*')].flatMap((node) => node.getAttributeNames()) }; }"
    )
    assert found["script"] == []
    assert not [name for name in found["attributes"] if name.startswith("on") or name in ("style", "src")]
    rel = "noopener noreferrer nofollow"
    assert found["links"] == [
        ["https://example.org/a_(b)?c=1&d=%222%22", rel],
        ["https://example.org/p.png", rel],
        ["https://example.org/path_with_marks", rel],
    ], html
    assert found["strong"] == ["bold both", "deep"]
    assert found["em"] == ["both", "soft"]
    assert found["code"] == ["a < b", "x", "def f(a):\n    return a * 2  # <b>\n"]
    assert found["heading"] == ["Title <script>alert(1)</script>"]
    assert found["inner"] == ["inner deep", "other"]
    assert found["two"] == ["two", "with a second paragraph"]
    assert found["cells"] == ["1", "x"]
    assert found["rules"] == 1
    assert page.evaluate("[...window.made.querySelectorAll('pre')].map((node) => [node.role, node.ariaLabel])") == [["region", "Code"]]
    text = page.evaluate("window.made.textContent")
    assert "<img src=x onerror=alert(1)>" in text
    assert "snake_case_name, 2 * 3 * 4" in text
    assert "[bad](javascript:alert(1))" in text
    assert "*no stars*" in text


HEADINGS = {
    "# C#": "<h2>C#</h2>",
    "# a #": "<h2>a</h2>",
    "## a ##  ": "<h3>a</h3>",
    "# ##": "<h2></h2>",
    "###### six": "<h6>six</h6>",
    "#a": "<p>#a</p>",
}
# What a pattern would look through again and again: begins without an end, spaces that two parts of it could take.
LONG = {
    "bold": "**a " * 5000,
    "bold of the other kind": "__a " * 5000,
    "italic": "*a " * 6000,
    "italic of the other kind": "_a " * 6000,
    "heading": f"# a{' ' * 19_000}b",
    "link": f"[a]({' ' * 19_000}b",
    "table": f"a|b\n{' ' * 9000}-{' ' * 9000}b",
}
MILLISECONDS = """async texts => {
    const {markdown} = await import('/page/markdown.js');
    const took = (text) => { const begun = performance.now(); markdown(text); return performance.now() - begun; };
    return texts.map((text) => Math.min(...Array.from({length: 5}, () => took(text))));
}"""


def test_signs_at_the_end_of_a_heading_are_its_own_where_no_space_is_before_them(page: Page):
    told = "async text => (await import('/page/markdown.js')).markdown(text).map((node) => node.outerHTML).join('')"
    assert {text: page.evaluate(told, text) for text in HEADINGS} == HEADINGS


def test_no_text_takes_much_longer_than_an_ordinary_one(page: Page):
    """Which is compared with in the same run, on the same machine. What takes the square of its length takes 7 times as long or more."""
    usual, *others = page.evaluate(MILLISECONDS, ["**a** b " * 2500, *LONG.values()])
    assert not [(name, took, usual) for name, took in zip(LONG, others, strict=True) if took > 4 * usual]


CUT = """async ([text, size]) => {
    const {events} = await import('/page/sse.js');
    const bytes = new TextEncoder().encode(text);
    const body = new ReadableStream({start(to) {
        for (let i = 0; i < bytes.length; i += size) to.enqueue(bytes.slice(i, i + size));
        to.close();
    }});
    const all = [];
    for await (const data of events(body)) all.push(data);
    return all;
}"""


def test_events_are_cut_as_the_standard_says(page: Page):
    """However the bytes are cut on the way."""
    sent = 'data: {"a": "é"}\r\n\r\n: a comment\nevent: x\ndata: one\ndata:two\n\ndata: [DONE]\n\n'
    for size in (1, 2, 3, 1000):
        got = page.evaluate(CUT, [sent, size])
        assert got == ['{"a": "é"}', "one\ntwo", "[DONE]"]


def test_a_phone_and_a_keyboard_are_enough(site: Site, rider: str):
    with opened(site.browser, site.url, **PHONE) as page:
        expect(card(page, rider)).to_be_visible()
        for view in ("models", "launch", "chat"):
            page.goto(f"{site.url}/#{view}")
            expect(page.locator(f"#view-{view}")).to_be_visible()
            if view == "chat":
                page.locator("summary").click()
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            for target in page.locator("button:visible, a:visible, select:visible, input:visible, summary:visible").all():
                box, label = target.bounding_box(), target.evaluate("node => node.outerHTML.slice(0, 80)")
                assert box, label
                assert box["height"] >= 44 or "skip" in label, label
            unnamed = "[...document.querySelectorAll('input, select, textarea')].filter((node) => !node.labels.length).length"
            assert page.evaluate(unnamed) == 0
        # Nobody's screen is half a keyboard after an answer, and without Shift Enter is a new line.
        page.get_by_label("Longest answer").fill("6")
        page.locator("summary").click()
        question, send = page.get_by_label("Your message"), page.get_by_role("button", name="Send")
        question.fill("One")
        question.press("Enter")
        expect(question).to_have_value("One\n")
        expect(page.locator(".message")).to_have_count(0)
        question.press_sequentially("two")
        send.tap()
        expect(page.locator(".assistant .figures")).to_be_visible()
        expect(send).to_be_focused()
    with opened(site.browser, site.url) as page:
        expect(card(page, rider)).to_be_visible()
        reached = []
        for _ in range(6):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.textContent.trim()"))
        assert reached == ["Skip to the content", "Models", "Launch", "Chat", "Launch a model", reached[-1]]
        assert page.evaluate("matchMedia('(prefers-color-scheme: light)').matches")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_who_likes_it_dark_has_it_dark_and_others_light(site: Site, rider: str, scheme: str):
    with opened(site.browser, site.url, color_scheme=scheme) as page:
        expect(card(page, rider)).to_be_visible()
        for view in ("models", "launch", "chat"):
            page.goto(f"{site.url}/#{view}")
            expect(page.locator(f"#view-{view}")).to_be_visible()
            seen = [(words, luminance(ink, behind, part), luminance(behind)) for words, ink, behind, part in page.evaluate(TEXTS)]
            assert len(seen) > 10
            for words, ink, behind in seen:
                assert (max(ink, behind) + 0.05) / (min(ink, behind) + 0.05) >= 4.5, (view, words, ink, behind)
            assert (luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.5) == (scheme == "dark")


# What can be read: its words, their colour, the colour behind them, and the part of theirs that is seen. What is disabled is left out.
TEXTS = """() => [...document.querySelectorAll('body *')].flatMap((node) => {
    const written = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!node.checkVisibility() || node.matches(':disabled') || !(written || node.placeholder)) return [];
    let behind = node;
    while (!getComputedStyle(behind).backgroundColor.startsWith('rgb(')) behind = behind.parentElement;
    const style = getComputedStyle(node, written ? null : '::placeholder');
    return [[node.textContent.trim() || node.placeholder, style.color, getComputedStyle(behind).backgroundColor, Number(style.opacity)]];
})"""


def luminance(colour: str, behind: str = "rgb(0, 0, 0)", part: float = 1) -> float:
    """From 0 to 1, as WCAG has it; of the colour that comes of `part` of the one over the other."""
    pairs = zip(*([int(figure) for figure in re.findall(r"\d+", text)] for text in (colour, behind)), strict=True)
    shares = [(part * over + (1 - part) * under) / 255 for over, under in pairs]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_of_ones_own_leave_nothing_untold(site: Site, rider: str):
    """What else is told by the colour behind it has a border."""
    border = "node => getComputedStyle(node).borderTopStyle + getComputedStyle(node).borderTopWidth"
    with opened(site.browser, f"{site.url}/#launch", forced_colors="active") as page:
        expect(page.locator("#view-launch")).to_be_visible()
        assert page.locator("nav a").evaluate_all(f"nodes => nodes.map({border})") == ["none0px", "solid2px", "none0px"]
        assert page.locator(".segments span").evaluate_all(f"nodes => nodes.map({border})") == ["solid2px", "none0px"]
        assert page.locator("progress").first.evaluate(border) == "solid1px"
        # And the focus is told on them still.
        for place, shown in (("nav a[aria-current]", "nav a[aria-current]"), ("[name=source]", "[name=source]:checked + span")):
            outline = page.locator(shown).evaluate_handle("node => getComputedStyle(node)")
            assert outline.evaluate("style => style.outlineStyle") == "none"
            tab_to(page, place, "Shift+Tab" if "nav" in place else "Tab")
            assert outline.evaluate("style => style.outlineStyle") == "solid"


def test_nothing_lies_under_a_notch(site: Site, rider: str):
    for view, narrow in (("models", False), ("launch", False), ("chat", True)):
        size = {"width": 600 if narrow else 844, "height": 390}
        with opened(site.browser, f"{site.url}/#{view}", **PHONE | {"viewport": size}) as page:
            insets = {"left": 47, "leftMax": 47, "right": 47, "rightMax": 47}
            page.context.new_cdp_session(page).send("Emulation.setSafeAreaInsetsOverride", {"insets": insets})
            expect(page.locator(f"#view-{view}")).to_be_visible()
            until(lambda page=page: page.locator(".brand").bounding_box()["x"] > 47)
            for place in page.locator("nav a:visible, main :is(h1, p, button, a, input):visible, #connection").all():
                box = place.bounding_box()
                assert box
                assert box["x"] >= 47, place
                assert box["x"] + box["width"] <= size["width"] - 47, place


def test_the_skip_link_stays_in_its_view(site: Site, page: Page):
    for view in ("launch", "chat"):
        page.goto(f"{site.url}/#{view}")
        expect(page.locator(f"#view-{view}")).to_be_visible()
        tab_to(page, ".skip", "Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        expect(page.locator(f"#view-{view}")).to_be_visible()


def test_what_is_copied_over_plain_http_is_copied(site: Site, page: Page):
    """There a browser has no clipboard for pages; the keyboard pastes all the same."""
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.goto(f"{site.url}/#models")
    page.reload()
    button = page.locator("#address").get_by_role("button")
    button.click()
    expect(button).to_have_text("Copied")
    expect(button).to_be_focused()
    page.goto(f"{site.url}/#chat")
    page.locator("#question").focus()
    page.keyboard.press("Control+V")
    expect(page.locator("#question")).to_have_value(page.locator("#address-url").text_content() or "")


def test_an_address_that_says_nothing_is_looked_at_all_the_same(site: Site):
    for part, view in (("chat/%", "chat"), ("constructor", "models"), ("chat/%E0%A4%A", "chat")):
        with opened(site.browser, f"{site.url}/#{part}") as page:
            expect(page.locator(f"#view-{view}")).to_be_visible()
            expect(page.locator("#connection")).to_contain_text("connected ·")


def test_what_scrolls_by_itself_has_a_name(page: Page):
    told = "[...document.querySelectorAll('[tabindex=\"0\"]')].map((node) => [node.role, Boolean(node.ariaLabel)])"
    assert page.evaluate(told) == [["region", True], ["log", True], ["region", True]]


def tab_to(page: Page, place: str, key: str = "Tab") -> None:
    """By that key alone."""
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate("place => document.activeElement.matches(place)", place):
            return
    raise AssertionError(f"{key} never comes to {place}")


def test_a_model_is_launched_asked_stopped_and_ended_by_the_keyboard_alone(site: Site, rider: str, page: Page):
    press, write = page.keyboard.press, page.keyboard.type
    expect(card(page, rider)).to_be_visible()
    tab_to(page, "a[href='#launch']")
    press("Enter")
    tab_to(page, "[name=source]")
    press("ArrowRight")
    tab_to(page, "[name=reference]")
    write("tiny/rider")
    tab_to(page, "[name=uid]")
    write("typed")
    press("Enter")
    launched = card(page, "typed")
    expect(launched.get_by_role("heading")).to_be_focused()
    expect(launched.locator(".badge")).to_have_text("Ready", timeout=START)
    tab_to(page, "a[href='#chat/typed']")
    press("Enter")
    expect(page.get_by_label("Your message")).to_be_focused()
    tab_to(page, "#max-tokens")
    press("Control+a")
    write("3900")
    tab_to(page, "#question", "Shift+Tab")
    write("Tell me everything.")
    press("Enter")
    expect(page.locator(".message.assistant .prose")).not_to_be_empty()
    tab_to(page, "#stop")
    press("Enter")
    expect(page.locator(".assistant .figures")).to_contain_text("stopped")
    until(lambda: running(site.url, "typed") == 0)
    tab_to(page, "a[href='#models']", "Shift+Tab")
    press("Enter")
    expect(launched).to_be_visible()
    tab_to(page, "article.card:has(a[href='#chat/typed']) button.danger")
    press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Keep it")).to_be_focused()
    press("Tab")
    press("Enter")
    expect(launched).to_have_count(0)


def test_a_key_is_asked_for_and_kept_in_the_tab(site: Site, tmp_path: Path):
    secret, key = keys.make("rider")
    (tmp_path / "keys.yaml").write_text(json.dumps({"keys": [key.written()]}))
    with (
        running_local(tmp_path / "state", "--keys-file", str(tmp_path / "keys.yaml")) as local,
        opened(site.browser, local.url) as page,
    ):
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Cancel").click()
        # What the next look would open stands when the one after it has its answer.
        for _ in range(2):
            with page.expect_response("**/v1/overview"):
                pass
        assert not dialog.is_visible()
        page.get_by_role("button", name="API key").click()
        for given, told in (("jk-wrong", "the API key is wrong"), (secret, "")):
            dialog.get_by_label("Key", exact=True).fill(given)
            dialog.get_by_role("button", name="Use this key").click()
            expect(page.locator("#problem")).to_contain_text(told)
            if told:
                page.get_by_role("button", name="API key").click()
        expect(page.get_by_text("No model is on the road yet")).to_be_visible()
        expect(page.locator("#problem")).to_be_hidden()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.reload()
        expect(page.get_by_text("No model is on the road yet")).to_be_visible()


def test_terminate_asks_first(site: Site, rider: str, page: Page):
    """The last of the tests that need it."""
    (before,) = [pid for pid in site.local.runtimes() if rider in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
    card(page, rider).get_by_role("button", name="Terminate").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Terminate {rider}?")
    expect(dialog.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    assert Path(f"/proc/{before}").exists()
    card(page, rider).get_by_role("button", name="Terminate").click()
    dialog.get_by_role("button", name="Terminate").click()
    expect(card(page, rider)).to_have_count(0)
    until(lambda: not Path(f"/proc/{before}").exists())


@pytest.mark.skipif(not PICTURES, reason="only `make screenshots` takes pictures")
@pytest.mark.timeout(900)
def test_screenshots(tmp_path: Path):
    """Of the real test model under load, one that downloads and one that is refused; the files are for the README."""
    over = threading.Event()
    with running_hub() as hub, running_browser() as browser:
        hub.repositories["Qwen/Qwen2.5-0.5B-Instruct"] = save_hollow(tmp_path / "hollow", 1.0)
        hub.refused["meta-llama/Llama-3.2-1B-Instruct"] = 403, "GatedRepo"
        hub.pace = 4_000_000
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        with running_local(tmp_path / "state", **environment) as local, ThreadPoolExecutor(16) as others:
            body = NAME | {"model_uid": "assistant", "model_path": str(smollm2_folder()), "max_model_len": 2048}
            httpx.post(f"{local.url}/v1/models", json=body, timeout=300).raise_for_status()
            with opened(browser, f"{local.url}/#chat/assistant", color_scheme="dark", **DESKTOP) as page:
                ask(page, "Write a Python function that reverses a string, then explain it in three short bullet points.")
                _rest(page)
                page.screenshot(path=f"{PICTURES}/chat.png")
            with opened(browser, f"{local.url}/#chat/assistant", **HANDHELD) as page:
                ask(page, "What is the capital of France, and what is it known for?")
                _rest(page)
                page.screenshot(path=f"{PICTURES}/phone.png")
            with opened(browser, f"{local.url}/#launch", **DESKTOP) as page:
                expect(page.locator("#fit")).to_contain_text("It fits", timeout=60_000)
                page.screenshot(path=f"{PICTURES}/launch.png")
            for name, uid in (("Qwen/Qwen2.5-0.5B-Instruct", "drafts"), ("meta-llama/Llama-3.2-1B-Instruct", "summaries")):
                more = {"model_engine": "transformers", "model_name": name, "model_uid": uid}
                httpx.post(f"{local.url}/v1/models?wait_ready=false", json=more).raise_for_status()
            with opened(browser, local.url, **DESKTOP) as page:
                _busy(others, local.url, over)
                expect(card(page, "summaries").locator(".badge")).to_have_text("Failed", timeout=START)
                expect(card(page, "drafts").locator(".words")).to_contain_text("downloading 0.", timeout=START)
                page.wait_for_timeout(60_000)
                page.screenshot(path=f"{PICTURES}/models.png")
            over.set()
            hub.pace = 0


def _rest(page: Page) -> None:
    """Nothing on the picture shows where somebody's cursor was."""
    page.locator("#chat-title").evaluate("node => node.focus()")
    page.mouse.move(0, 0)


def _busy(others: ThreadPoolExecutor, url: str, over: threading.Event) -> None:
    """Chats of several lengths and with pauses, until it is over."""

    def chat(number: int) -> None:
        while not over.wait(number % 4):
            body = {"model": "assistant", "messages": [{"role": "user", "content": f"Tell me a story about number {number}."}]}
            httpx.post(f"{url}/v1/chat/completions", json=body | {"max_tokens": 40 + 15 * number}, timeout=300)
            over.wait(3)

    for number in range(12):
        others.submit(chat, number)
