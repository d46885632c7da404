"""A launch at the front door, the operator's verdict on it, and what the front door makes of that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jitney_gateway.fit import Fit, Verdict
from jitney_gateway.kubernetes import manifest
from jitney_gateway.kubernetes import verdict as asked
from jitney_gateway.kubernetes.settings import Settings as GatewaySettings
from jitney_gateway.kubernetes.settings import SettingsError
from jitney_gateway.launch import Launch
from jitney_operator import health, verdict
from jitney_operator.settings import Allow, Profile, Settings

CHART = Path(__file__).parents[2] / "charts" / "jitney" / "templates" / "gateway"
GI = 1024**3
SETTINGS = Settings(
    profiles={"cpu": Profile("cpu", "cpu", 4 * GI), "gpu": Profile("gpu", "cuda", 24 * GI, gpus=1)}, allow=Allow(env=("HF_*", "JITNEY_*"))
)


def judged(launch: Launch) -> Fit:
    body = manifest.resource(launch, launch.wanted_uid(), "team")
    return asked.fit(verdict.of(asked.question(body), SETTINGS))


def test_what_fits_is_told_with_its_figures():
    found = judged(Launch("smollm2-instruct", size="0.135", max_model_len=2048, device="cpu"))
    assert found.verdict is Verdict.FITS
    figures = (
        r"A replica needs [\d.]+Gi of the 4\.00Gi of the profile cpu \(weights [\d.]+Gi, keys and values [\d.]+Gi, overhead [\d.]+Gi\)\."
    )
    assert re.match(figures, found.message)


def test_what_was_chosen_for_the_person_is_told():
    found = judged(Launch("qwen2.5-instruct", size="7"))
    assert found.verdict is Verdict.FITS
    assert "gpu (24.00Gi) holds the model and cpu (4.00Gi) would not." in found.message


@pytest.mark.parametrize(("size", "profile"), [("1.5", "cpu"), ("14", "gpu")])
def test_a_quantized_model_is_judged_by_whichever_device_holds_it(size: str, profile: str):
    found = judged(Launch("qwen2.5-instruct", size=size, quantization="int8"))
    assert (found.verdict, f"of the profile {profile} (" in found.message) == (Verdict.FITS, True)
    assert judged(Launch("smollm2-instruct", size="0.135", device="cuda", quantization="int4")).verdict is Verdict.FITS


def test_what_does_not_fit_is_told_what_would():
    found = judged(Launch("qwen2.5-instruct", size="7", device="cpu"))
    assert found.verdict is Verdict.DOES_NOT_FIT
    assert "What would fit: " in found.message or "Choose a smaller size" in found.message


def test_an_unknown_shape_is_not_known_to_fit():
    found = judged(Launch("org/unheard-of"))
    assert found.verdict is Verdict.UNKNOWN
    assert found.message.endswith("whether it fits was not checked. It would get the profile cpu.")


def test_what_the_administrator_forbids_is_refused():
    found = judged(Launch("smollm2-instruct", size="0.135", envs={"SECRET": "x"}))
    assert found.verdict is Verdict.REFUSED
    assert "does not allow the variable SECRET" in found.message


def test_values_of_variables_are_not_sent():
    """But of the two that say how wide weights are."""
    envs = {"HF_TOKEN": "hf_secret", "JITNEY_API_KEY": "sk", "JITNEY_DTYPE": "float32", "JITNEY_KERNEL": "plain"}
    body = manifest.resource(Launch("smollm2-instruct", size="0.135", envs=envs), "chat", "team")
    counted = [{"name": "JITNEY_DTYPE", "value": "float32"}, {"name": "JITNEY_KERNEL", "value": "plain"}]
    assert asked.question(body)["spec"]["env"] == [{"name": "HF_TOKEN"}, {"name": "JITNEY_API_KEY"}, *counted]
    assert body["spec"]["env"] == [{"name": name, "value": value} for name, value in envs.items()]


@pytest.mark.parametrize(
    ("envs", "weights"), [({}, "0.30Gi"), ({"JITNEY_DTYPE": "float32"}, "0.61Gi"), ({"JITNEY_KERNEL": "plain"}, "0.61Gi")]
)
def test_the_dtype_in_a_variable_is_judged(envs: dict[str, str], weights: str):
    found = judged(Launch("smollm2-instruct", size="0.135", max_model_len=2048, device="cpu", envs=envs))
    assert (found.verdict, f"(weights {weights}, " in found.message) == (Verdict.FITS, True)


def test_the_route_is_the_same_on_both_sides():
    source = Path(health.__file__).read_text()
    assert f'add_post("{asked.PATH}"' in source


def test_the_chart_leads_to_the_operators_port():
    (url,) = re.findall(r"name: JITNEY_OPERATOR_URL\s+value: (.+)", (CHART / "deployment.yaml").read_text())
    service = (CHART / "operator.yaml").read_text()
    (name,) = re.findall(r"^  name: (.+)$", service, re.MULTILINE)
    (port,) = re.findall(r"port: (\d+), targetPort: http,", service)
    assert url == f"http://{name}.{{{{ .Release.Namespace }}}}.svc:{port}"
    assert int(port) == Settings().http_port


def test_an_address_that_cannot_be_asked_is_refused_at_the_start():
    assert GatewaySettings.read({"JITNEY_OPERATOR_URL": "http://jitney-operator.jitney-system.svc:8080"}).operator_url
    for wrong in ("jitney-operator:8080", "http://x/v1/verdict", "http://"):
        with pytest.raises(SettingsError, match="JITNEY_OPERATOR_URL"):
            GatewaySettings.read({"JITNEY_OPERATOR_URL": wrong})
