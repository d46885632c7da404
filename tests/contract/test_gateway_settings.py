"""The chart, the command line and the front door say the same about its limits."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import yaml

from jitney_gateway.cli import local
from jitney_gateway.kubernetes.settings import Settings
from jitney_gateway.server.guard import Terms
from jitney_gateway.server.intake import ALL_SIZES_SETTING, MEBIBYTE, SECONDS_SETTING, SIZE_SETTING

CHART = Path(__file__).parents[2] / "charts" / "jitney"


def test_every_limit_of_the_chart_is_a_setting():
    limits = yaml.safe_load((CHART / "values.yaml").read_text())["gateway"]["limits"]
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["gateway"]["properties"]["limits"]["properties"]
    assert set(limits) == set(schema)
    for name in limits:
        variable = "JITNEY_" + re.sub(r"(?=[A-Z])", "_", name).upper()
        assert Settings.read({variable: "7"}) != Settings.read({}), variable


def test_what_is_usual_is_the_same_everywhere():
    settings, terms, flags = Settings.read({}), Terms(), inspect.signature(local.local).parameters
    assert settings.body_mebibytes * MEBIBYTE == terms.body_bytes == flags["max_body"].default * MEBIBYTE
    assert settings.client_seconds == terms.client_seconds == flags["client_seconds"].default
    # A machine of one's own has more memory than the chart's pod.
    assert settings.all_bodies_mebibytes * MEBIBYTE < terms.all_bodies_bytes == flags["max_bodies"].default * MEBIBYTE
    assert (local.SIZE_SETTING, local.SECONDS_SETTING, local.ALL_SIZES_SETTING) == (SIZE_SETTING, SECONDS_SETTING, ALL_SIZES_SETTING)
    assert Settings.read({SIZE_SETTING: "3"}).body_mebibytes == Settings.read({SECONDS_SETTING: "3"}).client_seconds == 3


def test_the_pod_has_memory_for_all_bodies():
    """Each may need three times its length; 100 MiB are the front door's own."""
    memory = yaml.safe_load((CHART / "values.yaml").read_text())["gateway"]["resources"]["limits"]["memory"]
    assert 3 * Settings.read({}).all_bodies_mebibytes + 100 <= int(memory.removesuffix("Mi"))


def test_the_file_of_keys_is_where_the_chart_mounts_it():
    template = (CHART / "templates" / "gateway" / "deployment.yaml").read_text()
    (path,) = re.findall(r"name: JITNEY_KEYS_FILE\s+value: (\S+)", template)
    (folder,) = re.findall(r"name: keys, mountPath: ([^,]+), readOnly: true", template)
    assert path == f"{folder}/keys.yaml"
    assert Settings.read({"JITNEY_KEYS_FILE": path}).keys_file == Path(path)
