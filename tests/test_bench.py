"""The parts of the engine's bench that judge: an error there would be a wrong figure that nobody sees."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.engine import machine
from bench.engine.bench import ALONE, LONG, Bench, Found
from bench.engine.checks import AIM, MISS, PASS, TOLD, Check
from bench.engine.fleet import Fleet
from bench.engine.load import Failed, Heard, Round
from bench.engine.model import endless_folder, model_folder
from bench.engine.permuted import permuted
from bench.engine.results import Results
from bench.engine.rounds import Compared
from bench.engine.rows.curves import step
from bench.engine.rows.throughput import _against
from bench.engine.servers import NONE, PEERS
from support.models import tiny_model


def event(text: str = "", tokens: int | None = None) -> bytes:
    choices = [{"delta": {"content": text}}] if text else []
    return b"data: " + json.dumps({"choices": choices, "usage": tokens and {"completion_tokens": tokens}}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (Check("1", "", 1.0, must=1.0, aim=1.3), PASS),
        (Check("1", "", 1.3, must=1.0, aim=1.3), AIM),
        (Check("1", "", 0.99, must=1.0, aim=1.3), MISS),
        (Check("9", "", 11.0, "s", must=15.0, aim=11.0, most=True), AIM),
        (Check("9", "", 15.1, "s", must=15.0, aim=11.0, most=True), MISS),
        (Check("Q", "", None, "%", must=2.0, most=True), MISS),
        (Check("1", "", 1.0, aim=1.3), "aim missed"),
        (Check("Q", "", 97.0, "%"), TOLD),
    ],
)
def test_verdict(check: Check, verdict: str):
    assert check.verdict == verdict
    assert check.missed == (verdict == MISS)


def test_an_answer_is_read_across_the_cuts_between_its_pieces():
    whole = event("One") + event(" two") + event(tokens=5) + b"data: [DONE]\n\n"
    for cut in range(1, len(whole)):
        heard = Heard(10.0, ((10.5, whole[:cut]), (11.0, whole[cut:])))
        assert heard.text == "One two"
        assert heard.tokens == 5
        assert heard.first == (0.5 if cut >= len(event("One")) - 1 else 1.0)


def test_tokens_are_pieces_where_a_server_does_not_count_them():
    assert Heard(0.0, ((1.0, event("a") + event("b")), (2.0, event("c")))).tokens == 3


def test_an_answer_without_a_token_has_no_first_one():
    with pytest.raises(Failed):
        _ = Heard(0.0, ((1.0, b"data: [DONE]\n\n"),)).first


def test_a_round_is_timed_from_the_first_question_to_the_last_answer():
    found = Round.of([Heard(1.0, ((2.0, event("a")),)), Heard(3.0, ((5.0, event("a") + event("b") + event("c")),))])
    assert (found.speed, found.first, found.tokens) == (1.0, 1.5, 4)


def test_a_step_is_what_one_token_takes_while_all_decode():
    """The second begins late, and sends two tokens in a piece."""
    one = Heard(0.0, tuple((float(at), event("a")) for at in range(1, 13)))
    two = Heard(0.0, (*((float(at), event("ab")) for at in range(4, 11, 2)), (10.0, event(tokens=8))))
    assert step([one, two]) == pytest.approx(1000.0)
    assert step([one, Heard(0.0, ((20.0, event("a")),))]) is None


def test_without_one_of_the_peers_nobody_is_the_best():
    vllm, llama = PEERS["vllm"][0], PEERS["llamacpp"][0]
    found = Compared({server.name: [Round(speed, 0.1, 64)] for server, speed in ((NONE, 300), (vllm, 200), (llama, 100))})
    (check,) = _against("1", "", found, NONE, [vllm, llama], must=1.0)
    assert check.figure == 1.5
    del found.rounds[vllm.name]
    found.failed[vllm.name] = "it ended"
    (check,) = _against("1", "", found, NONE, [vllm, llama], must=1.0)
    assert check.missed
    assert "it ended" in check.note


def test_the_best_setting_is_the_work_s(tmp_path: Path):
    first, second, *_ = PEERS["vllm"]
    speeds = {ALONE.name: {first.name: 50.0, second.name: 60.0}, LONG.name: {first.name: 100.0, second.name: 90.0}}
    bench = Bench(Fleet(tmp_path), tmp_path, ("vllm", "llamacpp", "transformers"), 3, speeds=speeds)
    assert bench.best(ALONE)[0] is second
    assert bench.best(LONG)[0] is first
    speeds[LONG.name] |= {PEERS["llamacpp"][0].name: 49.0}
    # One that was never measured must not be passed over in silence.
    assert bench.ahead(LONG) == [first, PEERS["transformers"][0]]


def test_a_peer_that_cannot_ignore_the_end_gets_a_model_without_one():
    folder, own = endless_folder(), model_folder()
    ends = [
        json.loads((place / name).read_text())["eos_token_id"]
        for place in (folder, own)
        for name in ("config.json", "generation_config.json")
    ]
    assert ends[0] == ends[1] != ends[2] == ends[3]
    assert (folder / "model.safetensors").resolve() == (own / "model.safetensors").resolve()
    assert (folder / "tokenizer.json").read_bytes() == (own / "tokenizer.json").read_bytes()


def test_another_runtime_is_measured_anew_and_the_peers_settings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = {True: "this runtime", False: "these peers"}
    monkeypatch.setattr(machine, "subject", lambda runtime: now[runtime])
    file = tmp_path / "results.json"
    kept = Results(file, fresh=False)
    for row in ("settings", "1"):
        kept.put(row, ["vllm"], 2, Found([], {"of": row}))
    assert Results(file, fresh=False).get("1", ["vllm"], 2) == Found([], {"of": "1"})
    assert Results(file, fresh=False).get("1", ["llamacpp"], 2) is None
    assert Results(file, fresh=False).get("1", ["vllm"], 3) is None
    assert not Results(file, fresh=False).begun_anew
    now[True] = "another runtime"
    again = Results(file, fresh=False)
    assert again.begun_anew
    assert again.get("1", ["vllm"], 2) is None
    assert again.get("settings", ["vllm"], 2) == Found([], {"of": "settings"})
    assert len(again.dates(["settings"])) == 1
    now[False] = "other peers"
    assert Results(file, fresh=False).get("settings", ["vllm"], 2) is None


def test_other_channels_are_the_same_model_and_no_group_stays():
    model = tiny_model("llama", "sdpa", hidden_size=128, intermediate_size=192, head_dim=32)
    moved = permuted(model.state_dict(), {name: getattr(model.config, name) for name in model.config.to_dict()})
    other = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    other.load_state_dict(moved)
    ids = torch.arange(1, 40)[None]
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, other(ids).logits, atol=1e-4, rtol=1e-4)
    groups = {name: weight.unflatten(-1, (-1, 32)).sort().values for name, weight in moved.items() if name.endswith("_proj.weight")}
    for name, weight in model.state_dict().items():
        if name in groups and "o_proj" not in name:
            theirs = weight.unflatten(-1, (-1, 32)).sort().values[0]
            assert not any(torch.equal(one, other) for row in groups[name] for one in row for other in theirs), name
