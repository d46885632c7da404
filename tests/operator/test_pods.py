"""What every pod has, whoever asks for it: docs/security.md says so, and no admission checks it."""

from __future__ import annotations

from typing import Any

import pytest

from support.plans import GI, SETTINGS, SMALL, make, resource


def pod(profile: str) -> dict[str, Any]:
    found: dict[str, Any] = make(resource(**SMALL, resourceProfile=profile)).changes[-1]["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("profile", SETTINGS.profiles)
def test_it_is_restricted_and_knows_nothing_of_the_cluster(profile: str):
    found = pod(profile)
    assert found["automountServiceAccountToken"] is False
    assert found["enableServiceLinks"] is False
    assert found["shareProcessNamespace"] is True
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = found["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert container["readinessProbe"]["periodSeconds"] == 1


def test_on_a_cpu_its_root_file_system_is_read_only():
    (container,) = pod("cpu")["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("profile", SETTINGS.profiles)
def test_its_drain_fits_into_its_grace(profile: str):
    found = pod(profile)
    assert found["terminationGracePeriodSeconds"] > 120 + 5


@pytest.mark.parametrize("kind", ["Service", "Deployment"])
def test_its_owner_goes_last_where_somebody_waits_for_the_children(kind: str):
    child = next(child for child in make(resource(**SMALL)).changes if child["kind"] == kind)
    (owner,) = child["metadata"]["ownerReferences"]
    assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, True)


def test_memory_limits_are_the_profiles():
    (container,) = pod("cpu")["containers"]
    assert container["resources"]["limits"]["memory"] == "4Gi"
    assert SETTINGS.profiles["cpu"].memory == 4 * GI
