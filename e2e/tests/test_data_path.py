"""Where the front door leads chats in a cluster, and what it does when there is too much, nobody listens, a pod dies, or there is none yet.
It wants a key."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from product import front_door, installation, model_claim, pods, resource
from product.front_door import HOME
from product.launching import COMMAND
from product.pods import Pod
from test_model import model_folder
from xinference_client import RESTfulClient

from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster

NAME, SECRET = "shared", "front-door-keys"
# Of each of two pods: rows, and requests that may wait for one.
ROWS, WAITING = 2, 1
# Without a replica until they are asked for: one that wakes, and one whose pod no node takes.
SLEEPER, HOMELESS = "sleeper", "homeless"
# Requests that the front door holds for one of these, and for how many seconds: more than a wake takes beside what fails from the suite's
# beginning on. Other tests run meanwhile.
HELD, HOLD_SECONDS = 2, 90
# It looks after its pods' volumes every 60 to 90 seconds.
KUBELET_SECONDS = 180
CHATS = "/v1/chat/completions"
ENDLESS = {"max_tokens": 4000, "ignore_eos": True, "temperature": 1}
# A key, and its entry in the file of keys.
MadeKey = tuple[str, dict[str, Any]]
# Long enough to be worth finding again.
INSTRUCTIONS = "You answer in one word, and you are sure of it. " * 8


@dataclass(frozen=True)
class Served:
    """A model in two pods behind one front door. `key` is for all models, `other_key` for others than this one."""

    url: str
    key: str
    other_key: str
    pods: Callable[[], list[Pod]]

    def http(self, key: str | None = None) -> httpx.Client:
        return httpx.Client(**self._options(key or self.key))

    def http_async(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(**self._options(self.key))

    def _options(self, key: str) -> dict[str, Any]:
        return {"base_url": self.url, "headers": {"Authorization": f"Bearer {key}"}, "timeout": 120, "trust_env": False}

    def ask(self, *messages: str, **more: Any) -> dict[str, Any]:
        """One chat, which must be answered; short unless `more` says otherwise."""
        with self.http() as http:
            answer = http.post(CHATS, json=body(*messages, **more))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self) -> dict[str, float]:
        """Requests that are over, by pod."""
        return {pod.name: pod.count("jitney_requests_total") for pod in self.pods()}

    def since(self, before: dict[str, float], count: int) -> dict[str, float]:
        """How many of `count` requests each pod had, once all of them are counted."""

        def counted() -> dict[str, float] | None:
            found = {name: number - before[name] for name, number in self.ended().items()}
            return found if sum(found.values()) >= count else None

        return wait_for(counted, 30, f"{count} requests that are over")

    def busy(self) -> list[Pod]:
        return [pod for pod in self.pods() if pod.count("jitney_requests_running")]

    def until_idle(self) -> None:
        """No row is taken, and nothing waits for one."""
        for pod in self.pods():
            for metric in ("jitney_requests_running", "jitney_requests_waiting"):
                wait_for(lambda: not pod.count(metric), 60, f"end of {metric} of {pod.name}")  # noqa: B023


def body(*messages: str, **more: Any) -> dict[str, Any]:
    """A chat; all but the last message are instructions."""
    roles = ["system"] * (len(messages) - 1) + ["user"]
    turns = [{"role": role, "content": message} for role, message in zip(roles, messages, strict=True)]
    return {"model": NAME, "messages": turns, "max_tokens": 2, "temperature": 0, **more}


@dataclass(frozen=True)
class Keys:
    """Each with its entry. `new` takes the place of `old` while the front door runs, and with it its id."""

    all: MadeKey
    others: MadeKey
    old: MadeKey
    new: MadeKey


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys(made_key("all"), made_key("others", "--model", "other-*"), made_key("changing"), made_key("changing"))


def listing(*keys: MadeKey) -> dict[str, str]:
    """A Secret's data."""
    return {"keys.yaml": json.dumps({"keys": [entry for _, entry in keys]})}


def deployment(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": HOME}
    return {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def reference(cluster: Cluster, kubectl: Kubectl, operator: None) -> str:
    return model_claim.provide(cluster, kubectl, model_folder(), HOME)


@pytest.fixture(scope="module")
def sleepers(kubectl: Kubectl, reference: str) -> Iterator[None]:
    """There before the front door is, which knows them from its first moment on."""
    nowhere = {"nodeSelector": {"jitney.dev/no-such-node": "yes"}}
    kubectl.apply(
        deployment(SLEEPER, model=reference, replicas=0, maxNumSeqs=HELD),
        deployment(HOMELESS, model="file:///nowhere", replicas=0, scheduling=nowhere),
    )
    yield
    kubectl("delete", "mdep", SLEEPER, HOMELESS, "-n", HOME, "--timeout=60s")


@pytest.fixture(scope="module")
def served(cluster: Cluster, kubectl: Kubectl, reference: str, sleepers: None, keys: Keys) -> Iterator[Served]:
    """Loading while the front door is installed. Its keys come from a Secret."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": installation.NAMESPACE},
        "stringData": listing(keys.all, keys.others, keys.old),
    }
    kubectl.apply(secret, deployment(NAME, model=reference, replicas=2, maxNumSeqs=ROWS, args=["--max-waiting", str(WAITING)]))
    bounds = {"limits.maxHeldRequests": str(HELD), "limits.holdSeconds": str(HOLD_SECONDS)}
    try:
        with front_door.installed(cluster, kubectl, replicas="1", keysSecret=SECRET, **bounds) as url:
            resource.wait_ready(kubectl, NAME, 180, HOME)
            served = Served(url, keys.all[0], keys.others[0], lambda: pods.of(kubectl, NAME, HOME))
            wait_for(lambda: known_replicas(served) == ["READY", "READY"], 60, "two replicas that the front door knows")
            yield served
    finally:
        kubectl("delete", "mdep", NAME, "-n", HOME, "--timeout=60s")
        kubectl("delete", "secret", SECRET, "-n", installation.NAMESPACE)


def made_key(name: str, *flags: str) -> MadeKey:
    """A key by the command line, and its entry."""
    command = [*COMMAND, "keys", "make", name, *flags, "-o", "json"]
    made = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    return made["key"], made["entry"]


def known_replicas(served: Served) -> list[str]:
    with served.http() as http:
        return [replica["status"] for replica in http.get(f"/v1/models/{NAME}/replicas").raise_for_status().json()]


@pytest.fixture(scope="module", autouse=True)
def exchanged(served: Served, kubectl: Kubectl, keys: Keys) -> list[tuple[str, int]]:
    """The Secret is changed, and the kubelet brings it in its own time, while other tests run; the containers before that."""
    assert [listed(served, key) for key, _ in (keys.all, keys.old, keys.new)] == [200, 200, 401]
    patch = json.dumps({"stringData": listing(keys.all, keys.others, keys.new)})
    kubectl("patch", "secret", SECRET, "-n", installation.NAMESPACE, "--type=merge", "-p", patch)
    return doors(kubectl)


@pytest.fixture(scope="module", autouse=True)
def in_vain(served: Served) -> Iterator[Future[httpx.Response]]:
    """A chat that wakes the homeless one and is held as long as one may be, while other tests run."""

    def ask() -> httpx.Response:
        with served.http() as http:
            return http.post(CHATS, json=body("Hello", model=HOMELESS))

    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(ask)


def listed(served: Served, key: str) -> int:
    """Status of the list of models."""
    with served.http(key) as http:
        return http.get("/v1/models").status_code


def doors(kubectl: Kubectl) -> list[tuple[str, int]]:
    """The containers of the front door: id, and how often they were started again."""
    found = kubectl.list("pods", installation.NAMESPACE, "-l", "app.kubernetes.io/name=jitney-gateway")
    here = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
    return [(status["containerID"], status["restartCount"]) for pod in here for status in pod["status"]["containerStatuses"]]


def test_who_has_no_key_gets_nothing(served: Served) -> None:
    """Xinference's client asks first whether one is needed."""
    assert httpx.get(f"{served.url}/v1/cluster/auth", trust_env=False).json() == {"auth": True}
    for headers in ({}, {"Authorization": "Bearer jk-wrong"}):
        answer = httpx.post(f"{served.url}{CHATS}", json=body("Hello"), headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(RuntimeError, match="the API key is missing"):
        RESTfulClient(served.url).list_models()
    client = RESTfulClient(served.url, api_key=served.key)
    assert NAME in client.list_models()
    answered = client.get_model(NAME).chat([{"role": "user", "content": "Hello"}], generate_config={"max_tokens": 2})
    assert answered["usage"]["completion_tokens"] == 2


def test_a_key_is_for_its_models(served: Served) -> None:
    with served.http(served.other_key) as http:
        answer = http.post(CHATS, json=body("Hello"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_allowed")
        assert http.delete(f"/v1/models/{NAME}").status_code == 403
    assert NAME not in RESTfulClient(served.url, api_key=served.other_key).list_models()


def test_what_begins_alike_goes_to_one_pod(served: Served) -> None:
    """And what begins otherwise to either."""
    before = served.ended()
    for number in range(6):
        served.ask(INSTRUCTIONS, f"What is {number} plus two?")
    assert sorted(served.since(before, 6).values()) == [0, 6]
    # Which pod a beginning belongs to follows from the pods' addresses, as if by chance.
    for number in range(1, 41):
        served.ask(f"{number}. {INSTRUCTIONS}", "What is one plus two?")
        if all(served.since(before, 6 + number).values()):
            return
    pytest.fail(f"40 different beginnings all went to one pod: {served.since(before, 46)}")


def test_the_pod_with_less_to_do_is_asked_and_who_goes_away_frees_the_row(served: Served) -> None:
    """Nothing is kept back: the first words come while the answer has no end."""
    before = served.ended()
    with served.http() as http, http.stream("POST", CHATS, json=body("Tell a story.", stream=True, **ENDLESS)) as answer:
        events = answer.iter_lines()
        assert next(events).startswith("data: ")
        (busy,) = wait_for(served.busy, 10, "pod that answers")
        for number in range(3):
            served.ask(f"What is {number} plus two?")
        assert served.since(before, 3)[busy.name] == 0
        assert served.busy() == [busy], "the story goes on"
    served.until_idle()
    assert served.since(before, 4)[busy.name] == 1


async def test_what_is_too_much_is_told_at_once(served: Served) -> None:
    """By the runtimes' own queues, with when to try again; who gives up makes room, also one that still waits."""

    def full() -> bool:
        counts = [(pod.count("jitney_requests_running"), pod.count("jitney_requests_waiting")) for pod in served.pods()]
        return counts == [(ROWS, WAITING)] * 2

    async with served.http_async() as http:
        asking = [asyncio.create_task(http.post(CHATS, json=body("Tell a story.", **ENDLESS))) for _ in range(2 * (ROWS + WAITING))]
        try:
            await asyncio.to_thread(wait_for, full, 60, "full queues")
            refused = await http.post(CHATS, json=body("Hello"))
            assert (refused.status_code, refused.headers.get("retry-after")) == (429, "1"), refused.text
            assert refused.json()["error"]["code"] == "overloaded"
            assert not [task for task in asking if task.done()]
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
    await asyncio.to_thread(served.until_idle)
    served.ask("Hello")


async def test_a_model_at_zero_is_woken_and_so_many_wait_for_it(served: Served, kubectl: Kubectl) -> None:
    """One request more is told at once when to try again, and those that wait are answered."""

    def asleep(seen: dict[str, Any]) -> bool:
        return bool(seen.get("status", {}).get("reason") == "ScaledToZero")

    await asyncio.to_thread(resource.wait_until, kubectl, SLEEPER, "asleep", asleep, 60, HOME)
    assert not pods.of(kubectl, SLEEPER, HOME)
    async with served.http_async() as http:
        asking = [asyncio.create_task(http.post(CHATS, json=body("Hello", model=SLEEPER))) for _ in range(HELD + 1)]
        try:
            over, held = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            assert len(held) == HELD, [task.result().text for task in over]
            (refused,) = (task.result() for task in over)
            assert (refused.status_code, refused.headers.get("retry-after")) == (503, "5"), refused.text
            error = refused.json()["error"]
            assert error["code"] == "model_starting"
            assert error["message"].startswith(f"{HELD} requests wait for {SLEEPER} already; it has no replica now: ")
            for answer in await asyncio.gather(*held):
                assert answer.status_code == 200, answer.text
                assert answer.json()["usage"]["completion_tokens"] == 2
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
    woken = kubectl.get("mdep", SLEEPER, HOME) or {}
    assert (woken["spec"]["replicas"], len(pods.of(kubectl, SLEEPER, HOME))) == (1, 1), "one is woken for all of them"


async def test_a_pod_that_dies_before_the_first_byte_costs_no_answer(served: Served, kubectl: Kubectl) -> None:
    """The other one is asked, and its answer is whole. Last of those that need two pods: one is not the same afterwards."""
    asking = asyncio.create_task(asyncio.to_thread(served.ask, INSTRUCTIONS, "Tell a story.", max_tokens=400, ignore_eos=True))
    (dying,) = await asyncio.to_thread(wait_for, served.busy, 30, "pod that answers")
    (other,) = (pod for pod in served.pods() if pod != dying)
    before = other.count("jitney_requests_total")
    # Killed after a moment, in which no such answer comes to its end.
    await asyncio.to_thread(kubectl, "delete", "pod", dying.name, "-n", HOME, "--grace-period=1", "--wait=false")
    assert (await asking)["usage"]["completion_tokens"] == 400
    wait_for(lambda: other.count("jitney_requests_total") == before + 1, 30, "answer of the other pod")


def test_who_waits_in_vain_is_told_why(in_vain: Future[httpx.Response], kubectl: Kubectl) -> None:
    """Its model was woken, and in all the seconds that a chat may be held no pod of it came: in the resource's own words."""
    answer = in_vain.result(HOLD_SECONDS + 30)
    seen = kubectl.get("mdep", HOMELESS, HOME) or {}
    ready = resource.condition(seen, "Ready") or {}
    assert (seen["spec"]["replicas"], ready["reason"]) == (1, "Unschedulable")
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "5"), answer.text
    waited = f"{HOMELESS} has no replica after {HOLD_SECONDS} s of waiting"
    assert answer.json()["error"]["message"] == f"{waited}: Unschedulable: {ready['message']}"
    assert answer.json()["error"]["code"] == "model_starting"
    assert HOLD_SECONDS - 1 < answer.elapsed.total_seconds() < HOLD_SECONDS + 15


def test_a_key_is_exchanged_without_a_restart(exchanged: list[tuple[str, int]], served: Served, keys: Keys, kubectl: Kubectl) -> None:
    wait_for(lambda: listed(served, keys.new[0]) == 200, KUBELET_SECONDS, "key that the kubelet brought")
    assert [listed(served, key) for key, _ in (keys.all, keys.others, keys.old)] == [200, 200, 401]
    with served.http(keys.old[0]) as http:
        answer = http.post(CHATS, json=body("Hello"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert doors(kubectl) == exchanged
