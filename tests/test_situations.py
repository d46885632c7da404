"""The gate of the cluster suite, which no cluster is needed for: what was not seen, came too late or was cut fails the run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from product import rollouts, situations
from product.client import Chat
from product.ear import Ear
from product.eye import Eye
from product.rollouts import Rollout
from product.situations import Situation

from cluster.kubectl import Kubectl, wait_for

ROOT = Path(__file__).parents[1]
CONFTEST = """
from pathlib import Path

import pytest
from product import situations
from product.gate import Gate
from product.situations import Row

GATE = Gate("what was seen", Path(__file__).parent, situations.table, frozenset({"disk full", "node lost"}), frozenset({ELSEWHERE}))


def pytest_configure(config):
    config.pluginmanager.register(GATE)


@pytest.fixture
def row(request):
    return lambda *seen: GATE.rows(request.node).append(Row(*seen))
"""
BOTH = """
import pytest


def test_a_disk(row):
    row("disk full", "test_a_disk", "DiskFull", 0.1)


def test_a_node(row):
    row("node lost", "test_a_node", "NodeLost", 4.9)
"""
UNSEEN = "NOT SEEN: node lost"


EXCUSES = """
from product.gate import NoExcuses


def pytest_configure(config):
    config.pluginmanager.register(NoExcuses())
"""


@pytest.mark.parametrize("mark", ["skip(reason='r')", "skipif(True, reason='r')", "xfail(reason='r')"])
def test_where_everything_can_be_shown_nothing_is_excused(tmp_path: Path, mark: str):
    """Also of what has no row: writes, Events, rights."""
    (tmp_path / "conftest.py").write_text(EXCUSES)
    test = tmp_path / "test_it.py"
    test.write_text("import pytest\n\n\ndef test_a():\n    pass\n")
    assert _run(tmp_path, ".")[0] == 0
    test.write_text(f"import pytest\n\n\n@pytest.mark.{mark}\ndef test_a():\n    pass\n")
    code, shown = _run(tmp_path, ".")
    assert code == 1, shown
    assert "EXCUSED: test_it.py::test_a" in shown


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Of two situations, both of which are seen."""
    (tmp_path / "conftest.py").write_text(CONFTEST.replace("ELSEWHERE", ""))
    (tmp_path / "test_it.py").write_text(BOTH)
    return tmp_path


def _run(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """How pytest ends and what it prints."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "e2e"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_suite_that_saw_everything(suite: Path):
    code, shown = _run(suite, ".")
    assert code == 0, shown
    assert re.search(r"^disk full +DiskFull +0\.10 s  test_a_disk\nnode lost +NodeLost +4\.90 s  test_a_node$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    "before",
    [
        "@pytest.mark.skip\n",
        "@pytest.mark.xfail(strict=False)\n",
        "@pytest.mark.xfail(raises=ZeroDivisionError)\n",
        "@pytest.mark.skipif(True, reason='another cluster')\n",
    ],
)
def test_a_test_that_is_not_expected_to_pass_has_seen_nothing(suite: Path, before: str):
    after = "    1 / 0\n" if "raises" in before else ""
    (suite / "test_it.py").write_text(BOTH.replace("def test_a_node", f"{before}def test_a_node") + after)
    code, shown = _run(suite, ".")
    assert code == 1, shown
    assert UNSEEN in shown
    assert not re.search(r"\bfailed", shown)


def test_a_test_that_skips_after_it_saw(suite: Path):
    (suite / "test_it.py").write_text(BOTH + "    pytest.skip()\n")
    code, shown = _run(suite, ".")
    assert (code, UNSEEN in shown) == (1, True), shown


def test_a_test_that_fails_after_it_saw(suite: Path):
    (suite / "test_it.py").write_text(BOTH + "    assert False\n")
    code, shown = _run(suite, ".")
    assert (code, UNSEEN in shown) == (1, True), shown


def test_a_test_that_is_gone(suite: Path):
    (suite / "test_it.py").write_text(BOTH.partition("def test_a_node")[0])
    code, shown = _run(suite, ".")
    assert (code, UNSEEN in shown) == (1, True), shown


def test_a_part_of_the_suite_need_not_see_everything(suite: Path):
    for part in (("test_it.py::test_a_disk",), (".", "-k", "disk")):
        code, shown = _run(suite, *part)
        assert (code, UNSEEN in shown) == (0, False), shown


@pytest.mark.parametrize("part", [".", "test_it.py::test_a_node"])
def test_a_row_that_is_late(suite: Path, part: str):
    (suite / "test_it.py").write_text(BOTH.replace("4.9", "5.1"))
    code, shown = _run(suite, part)
    assert code == 1, shown
    assert "LATE: node lost after 5.10 s of 5, test_a_node" in shown


def _watched(lines: list[tuple[float, str]], heard: list[tuple[float, str]]) -> list[situations.Row]:
    """The row of a download, of which the resource told these lines and the ear heard those."""
    kubectl, rows = Kubectl(None), list[situations.Row]()
    eye = Eye(kubectl)
    metadata = {"name": "moving", "namespace": "team", "labels": {situations.LABEL: "moving"}}
    for at, line in lines:
        eye.note("modeldeployments", at, {"metadata": metadata, "status": {"progress": line, "reason": "Downloading"}})
    for at, line in heard:
        eye.note("runtimes", at, {"metadata": metadata, "said": {"progress": line, "reason": "Downloading"}})
    Situation(eye, kubectl, "team", "test_it", rows).moved("download moving", "moving", r"downloading (\d+)/\d{3} MB")
    return rows


@pytest.mark.parametrize(("second", "late"), [(16.0, ""), (21.5, "LATE: download moving after 6.50 s of 5, test_it")])
def test_a_line_of_progress_is_counted_from_when_its_runtime_had_come_so_far(second: float, late: str):
    """And not from the line before, after which a new one may wait 5 s. A figure that nobody heard is told by the next."""
    heard = [(8.0, "starting"), (9.0, "downloading 4/4 MB"), (10.0, "downloading 10/290 MB"), (15.0, "downloading 90/290 MB")]
    (row,) = _watched([(10.5, "downloading 10/290 MB"), (second, "downloading 88/290 MB")], [*heard, (16.5, "downloading 120/290 MB")])
    assert (row.reason, row.seconds, row.wrong) == ("Downloading", second - 15.0, late)


class _Proxied(Kubectl):
    """`kubectl proxy` has begun already: `body` is answered to whatever is asked."""

    def __init__(self) -> None:
        super().__init__(None)
        proxied = self
        self.body: bytes = b"no endpoints available"
        self.paths: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxied.paths.append(self.path)
                body = proxied.body
                self.send_response(503)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def open(self, *arguments: str) -> subprocess.Popen[str]:
        assert arguments == ("proxy", "--port=0")
        line = f"Starting to serve on 127.0.0.1:{self.server.server_port}"
        return subprocess.Popen(["echo", line], stdout=subprocess.PIPE, text=True)

    def says(self, **said: str) -> float:
        """The moment before."""
        asked, now = len(self.paths), time.time()
        self.body = json.dumps(said).encode()
        wait_for(lambda: len(self.paths) > asked + 2, 20, "questions")
        return now


def test_a_runtime_is_never_heard_later_than_it_spoke():
    """A row would be too short by as much: what is stamped is the last question before."""
    kubectl = _Proxied()
    eye = Eye(kubectl)
    metadata = {"name": "chat-1", "namespace": "team", "uid": "u1", "labels": {situations.LABEL: "chat"}}
    running = {"state": {"running": {}}, "containerID": "one", "ready": False}
    pod = {"metadata": metadata, "status": {"containerStatuses": [running]}}
    with Ear(kubectl, eye):
        eye.note("pods", 0.0, pod)
        wait_for(lambda: len(kubectl.paths) > 2, 20, "questions")
        spoke = [
            kubectl.says(status="starting", reason="Loading", progress="loading 1 %"),
            kubectl.says(status="starting", reason="Loading", progress="loading 2 %"),
        ]
        eye.note("pods", 0.0, pod | {"status": {"containerStatuses": [running | {"ready": True}]}})
        time.sleep(1)
        asked = len(kubectl.paths)
        time.sleep(1)
        assert len(kubectl.paths) == asked, "of one that is ready nobody asks how far it is"
    assert set(kubectl.paths) == {"/api/v1/namespaces/team/pods/chat-1:8000/proxy/readyz"}
    heard = eye.stamped("runtimes")
    assert [found["said"]["progress"] for _, found in heard] == ["loading 1 %", "loading 2 %"]
    assert [at <= moment for (at, _), moment in zip(heard, spoke, strict=True)] == [True, True]
    kubectl.server.shutdown()


def test_what_only_another_cluster_can_show(suite: Path):
    (suite / "conftest.py").write_text(CONFTEST.replace("ELSEWHERE", '"node lost"'))
    (suite / "test_it.py").write_text(BOTH.replace("def test_a_node", "@pytest.mark.skip\ndef test_a_node"))
    code, shown = _run(suite, ".")
    assert (code, UNSEEN in shown) == (0, False), shown
    assert "not on this cluster: node lost" in shown


@pytest.mark.parametrize("kind", ["local", "current"])
def test_the_cluster_suite_has_both_gates(kind: str):
    """With its own conftest.py, as `make e2e` calls it, but no test, so that no cluster is needed."""
    _, shown = _run(ROOT, "e2e/tests", "--ignore-glob=*/test_*.py", JITNEY_CLUSTER=kind, PYTEST_DISABLE_PLUGIN_AUTOLOAD="")
    only_local = situations.LOCAL_ONLY | rollouts.LOCAL_ONLY
    here = frozenset() if kind == "local" else only_local
    needed = situations.NEEDED | rollouts.NEEDED
    assert only_local < needed
    assert set(re.findall(r"^NOT SEEN: (.+)$", shown, re.MULTILINE)) == needed - here, shown
    assert set(re.findall(r"^not on this cluster: (.+)$", shown, re.MULTILINE)) == here


def _chat(started: float, error: str | None = None, answer: str = "", finish_reason: str | None = None) -> Chat:
    return Chat(1, "Hello", answer, started, 1.0, error, finish_reason=finish_reason)


WHOLE = _chat(0, answer="Hi", finish_reason="stop")
REFUSED = _chat(0, "ConnectionRefusedError: [Errno 111] Connection refused")


@pytest.mark.parametrize(
    "cut",
    [
        _chat(0, "ValueError: the stream ended without [DONE]", "H"),
        _chat(0, "ValueError: HTTP 503 after all", "H"),
        _chat(0, "ConnectionResetError: [Errno 104] Connection reset by peer"),
        _chat(0, "ValueError: HTTP 500 "),
        _chat(0, answer="H"),
    ],
)
def test_a_chat_that_is_neither_whole_nor_refused_was_cut(cut: Chat):
    rows: list[rollouts.Row] = []
    rollout = Rollout("test_it", rows)
    rollout("drained", [WHOLE, REFUSED, _chat(0, "ValueError: HTTP 503 ")])
    rollout("torn", [WHOLE, cut])
    rollout("nobody came", [])
    assert [(row.asked, row.whole, row.refused, row.cut) for row in rows] == [(3, 1, 2, 0), (2, 1, 0, 1), (0, 0, 0, 0)]
    assert [row.wrong for row in rows] == ["", "CUT: 1 of 2 chats, torn, test_it", "NOBODY ASKED: nobody came, test_it"]


def test_each_step_has_the_chats_that_were_under_way():
    """One that began in the step before and ended in this one is in both."""
    rows: list[rollouts.Row] = []
    chats = [_chat(at, answer="Hi", finish_reason="stop") for at in (0.0, 9.5, 15.0, 19.5, 30.0)]
    Rollout("test_it", rows).steps({"first": 10.0, "second": 20.0}, chats)
    assert [(row.situation, row.asked) for row in rows] == [("first", 3), ("second", 2)]
