"""The chart, installed with the images that were just built."""

from __future__ import annotations

from pathlib import Path

from cluster.images import OPERATOR, REPOSITORY, RUNTIME
from cluster.kubectl import Kubectl, wait_for
from cluster.progress import Step
from cluster.target import Cluster

CHART = REPOSITORY / "charts" / "jitney"
VALUES = REPOSITORY / "e2e" / "values.yaml"
RELEASE = "jitney"
NAMESPACE = "jitney-system"
DEPLOYMENT = "jitney-operator"


def install(cluster: Cluster, kubectl: Kubectl, values: Path = VALUES, *flags: str) -> None:
    """Install or upgrade, and wait until the operator is ready."""
    repository, _, tag = cluster.reference(OPERATOR).rpartition(":")
    settings = [f"image.repository={repository}", f"image.tag={tag}", f"config.runtimeImage={cluster.reference(RUNTIME)}"]
    arguments = ["--namespace", NAMESPACE, "--create-namespace", "--values", str(values), *flags]
    with Step("installing the chart"):
        # Helm goes on with no installation that was interrupted. The definition and everybody's models outlive this.
        if kubectl.helm("list", "--pending", "--short", "--namespace", NAMESPACE).split():
            uninstall(kubectl)
        try:
            kubectl.helm("upgrade", "--install", RELEASE, str(CHART), *arguments, *_set(settings), "--wait", "--timeout", "180s")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{kubectl.picture(NAMESPACE)}") from error


def stop(kubectl: Kubectl) -> None:
    """No operator runs until the next install: what changes its rights must not surprise one that still does."""
    kubectl("scale", "deployment", DEPLOYMENT, "-n", NAMESPACE, "--replicas=0")
    wait_for(lambda: not kubectl.list("pods", NAMESPACE), 60, "end of the operator")


def uninstall(kubectl: Kubectl) -> None:
    kubectl.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--ignore-not-found")


def _set(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]
