"""What a custom model's family says of its answers, from the registration to the runtime's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from jitney_gateway.family import LONGEST_STOP, LONGEST_TEMPLATE, MOST_STOP_IDS, MOST_STOPS, Family
from jitney_gateway.kubernetes import manifest
from jitney_gateway.launch import Launch
from jitney_operator import builders, permits, resolve
from jitney_operator.api import ModelDeployment
from jitney_operator.catalogue import Catalogue
from jitney_operator.settings import Allow, Profile, Settings
from jitney_runtime.settings import RuntimeSettings, parse_settings

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(profiles={"cpu": Profile("cpu", "cpu", 64 * 1024**3)})
SPEC = {"model_format": "pytorch", "model_size_in_billions": "0_5", "model_id": "org/repo"}
# Quotes, dollar signs that would be a pod's variables, and what a shell or a flag would be.
STRANGE = "{% if a %}$$$(HOME)$ $x --stop=1 'ü' \"\n\t\\{% endif %}🚌"
MOST = {
    "chat_template": "{{ 日 }}".ljust(LONGEST_TEMPLATE, "本"),
    "stop": ["\x01$" * (LONGEST_STOP // 2 - 4) + str(number).rjust(8) for number in range(MOST_STOPS)],
    "stop_token_ids": list(range(10**8 - MOST_STOP_IDS, 10**8)),
}


def limits() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "crds" / "serving.jitney.dev_modeldeployments.yaml").read_text())
    return dict(document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["args"])


def container(launch: Launch) -> dict[str, Any]:
    body = manifest.resource(launch, "mine", "team")
    body["metadata"] |= {"uid": "u"}
    mdep = ModelDeployment.parse(body)
    permits.check(mdep.spec, Allow())
    return builders.container(mdep, resolve.resolve(mdep, SETTINGS, Catalogue.read()), "IfNotPresent")


@pytest.mark.parametrize(
    "said",
    [
        {"chat_template": "{{ messages[0].content }}", "stop": ["<|im_end|>", "\n", ", "], "stop_token_ids": [2, 0]},
        {"chat_template": STRANGE, "stop": [STRANGE, "$(X)", '["a"]', "[", "--", "\u2028"], "stop_token_ids": []},
        MOST,
    ],
    ids=["usual", "strange", "all that is taken"],
)
def test_a_family_reaches_the_runtime_as_it_is(said: dict[str, Any]):
    family = Family.parse({"model_name": "mine", "model_specs": [SPEC], **said})
    launch = family.applied(Launch("mine", dtype="float32", trust_remote_code=False))
    own = manifest.resource(launch, "mine", "team")["spec"]["args"]
    assert len(own) + len(["--trust-remote-code"]) <= limits()["maxItems"]
    assert max(map(len, own)) <= limits()["items"]["maxLength"]
    assert not any("$$" in word or "$(" in word for word in own), "a pod would change them"
    assert found(parse_settings(container(launch)["args"], {})) == said
    # On one machine they are words of a command.
    assert found(parse_settings(["--model", "a/b", *launch.of_answers()], {})) == said


def found(settings: RuntimeSettings) -> dict[str, Any]:
    return {"chat_template": settings.chat_template, "stop": [*settings.stop], "stop_token_ids": [*settings.stop_token_ids]}
