"""Both ends of what the rooms share (ARCHITECTURE.md, "The wire contract"), held against each other. Only tests may import two rooms."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from jitney_gateway.kubernetes import manifest
from jitney_gateway.local.runtime import FINAL
from jitney_operator import builders, conditions, exits, resolve
from jitney_operator.api import CONTAINER, PORT, WANTED, ModelDeployment
from jitney_operator.catalogue import Catalogue
from jitney_operator.settings import Profile, Settings
from jitney_runtime import errors
from jitney_runtime.errors import StartError
from jitney_runtime.progress import Stage
from jitney_runtime.server.lifecycle import GRACE_SECONDS
from jitney_runtime.settings import RuntimeSettings, parse_settings

ROOT = Path(__file__).parents[2]
GI = 1024**3
SETTINGS = Settings(profiles={"cpu": Profile("cpu", "cpu", 64 * GI), "gpu": Profile("gpu", "cuda", 24 * GI, gpus=1)})


def container(**spec: Any) -> dict[str, Any]:
    body = {"metadata": {"name": "chat", "namespace": "team", "uid": "u"}, "spec": {"model": "org/name", **spec}}
    mdep = ModelDeployment.parse(body)
    return builders.container(mdep, resolve.resolve(mdep, SETTINGS, Catalogue.read()), "IfNotPresent")


def read_by_the_runtime(**spec: Any) -> RuntimeSettings:
    made = container(**spec)
    values = {entry["name"]: entry.get("value", "from a secret") for entry in made["env"]}
    return parse_settings(made["args"], values)


def test_the_runtime_understands_what_the_operator_asks_for():
    found = read_by_the_runtime(
        servedModelName="Qwen/Chat",
        maxNumSeqs=7,
        maxModelLen=4096,
        revision="v1",
        rollout={"drainSeconds": 33},
        apiKeySecretRef={"name": "keys", "key": "main"},
    )
    assert (found.model, found.revision, found.served_model_name) == ("org/name", "v1", "Qwen/Chat")
    assert (found.max_num_seqs, found.max_model_len, found.drain_seconds) == (7, 4096, 33)
    assert (found.device, found.quantization, found.api_key) == ("cpu", "none", "from a secret")
    assert (found.host, found.port) == ("0.0.0.0", PORT)


@pytest.mark.parametrize(
    ("model", "reference"),
    [("hf://org/name", "org/name"), ("pvc://claim/a/b", "/mnt/model/a/b"), ("pvc://claim", "/mnt/model"), ("file:///opt/m", "/opt/m")],
)
def test_where_the_model_is(model: str, reference: str):
    assert read_by_the_runtime(model=model).model == reference


def test_the_persons_arguments_come_last():
    found = read_by_the_runtime(resourceProfile="gpu", args=["--device=cpu", "--max-waiting", "9"])
    assert (found.device, found.max_waiting) == ("cpu", 9)


def test_flags_that_are_refused_are_the_runtimes_and_all_that_the_operator_gives():
    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(RuntimeSettings).parameters}
    refused = resolve.FIELD_OF.keys() | resolve.OPERATORS
    given = {word for word in container(revision="v1", maxModelLen=4096)["args"] if word.startswith("--")}
    assert given <= refused <= known


def test_the_runtime_takes_no_abbreviation_of_them(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        read_by_the_runtime(args=["--max-num", "9"])
    assert "unrecognized arguments: --max-num 9" in capsys.readouterr().err


def test_a_gpu_profile_asks_for_cuda():
    assert read_by_the_runtime(resourceProfile="gpu").device == "cuda"


def test_every_exit_code_has_its_reason():
    causes = [
        cause
        for _, cause in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cause, StartError) and cause not in (StartError, errors.Crashed, errors.EngineGone)
    ]
    assert {cause.exit_code: cause.__name__ for cause in causes} == {code: word for code, word in exits.EXIT_CODES.items() if code > 2}


def test_a_local_launch_tries_again_only_what_may_pass_by_itself():
    assert set(exits.EXIT_CODES) - FINAL == {1, errors.HubUnreachable.exit_code}


def test_every_stage_is_a_reason():
    assert {stage.value for stage in Stage} == conditions.LOADING


def test_a_pod_has_time_to_leave():
    spec = builders.pod_template(
        mdep := ModelDeployment.parse({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {"model": "org/name"}}),
        resolve.resolve(mdep, SETTINGS, Catalogue.read()),
        "IfNotPresent",
    )["spec"]
    assert builders.LINGER == GRACE_SECONDS
    assert spec["terminationGracePeriodSeconds"] == GRACE_SECONDS + 120 + 10


def test_names_of_the_pod():
    made = container()
    assert made["name"] == CONTAINER
    assert [(port["name"], port["containerPort"]) for port in made["ports"]] == [("http", 8000)]
    assert {made[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe")} == {"/readyz"}
    assert made["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_the_front_door_calls_for_a_replica_where_the_operator_looks():
    metadata = {"name": "c", "namespace": "n", "uid": "u", "annotations": {manifest.WANTED: "now"}}
    assert manifest.WANTED == WANTED
    assert ModelDeployment.parse({"metadata": metadata, "spec": {"model": "org/name"}}).wanted_at == "now"


def test_the_operator_reads_the_configuration_that_the_chart_gives_it(tmp_path: Path):
    values = yaml.safe_load((ROOT / "charts" / "jitney" / "values.yaml").read_text())
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values["config"]))
    found = Settings.read({"JITNEY_CONFIG": str(file)})
    assert set(found.profiles) == set(values["config"]["profiles"])


def test_every_example_is_a_resource_that_resolves():
    files = sorted((ROOT / "examples").glob("*.yaml"))
    assert files
    values = yaml.safe_load((ROOT / "charts" / "jitney" / "values.yaml").read_text())["config"]
    settings = Settings(profiles={name: Profile.parse(name, profile) for name, profile in values["profiles"].items()})
    for file in files:
        for document in yaml.safe_load_all(file.read_text()):
            document["metadata"] |= {"namespace": "default", "uid": "u"}
            assert resolve.resolve(ModelDeployment.parse(document), settings, Catalogue.read()).image, file.name
