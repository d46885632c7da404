"""The programs of a throwaway Kubernetes, built from Go modules and kept outside the checkout.

Standard library only: `make binaries` calls this before any Python environment exists.
One folder of the cache per content of the module's go.mod, go.sum and Go files, so that a change builds anew and nothing else does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

MODULES = Path(__file__).parent / "go"
KUBERNETES_VERSION = "v1.34.4"


def cache_folder() -> Path:
    """Where builds, images and the test model live: $JITNEY_CACHE, else ~/.cache/jitney."""
    return Path(os.environ.get("JITNEY_CACHE") or Path.home() / ".cache" / "jitney")


@dataclass(frozen=True)
class Module:
    """One go.mod and the programs built from it: name of the program -> Go package."""

    name: str
    programs: dict[str, str]
    ldflags: tuple[str, ...] = field(default=("-s", "-w"))

    @property
    def source(self) -> Path:
        return MODULES / self.name

    @property
    def folder(self) -> Path:
        """The cache folder of exactly this content."""
        digest = hashlib.sha256(repr((sorted(self.programs.items()), self.ldflags)).encode())
        for file in sorted(self.source.iterdir()):
            digest.update(file.name.encode() + file.read_bytes())
        return cache_folder() / "bin" / f"{self.name}-{digest.hexdigest()[:16]}"

    def built(self) -> bool:
        return all((self.folder / program).is_file() for program in self.programs)


def _version_flags(version: str) -> tuple[str, ...]:
    """A server built without these calls itself v0.0.0, and Helm's kubeVersion check refuses it."""
    major, minor, _ = version.removeprefix("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple(f"-X {package}.{key}={value}" for package in packages for key, value in values.items())


def _helm_flags(version: str) -> tuple[str, ...]:
    """Without them `helm template` and `helm lint` believe in Kubernetes 1.20, and charts that ask for a newer one are refused."""
    major, minor, _ = version.removeprefix("v").split(".")
    packages = ("helm.sh/helm/v3/pkg/chartutil", "helm.sh/helm/v3/pkg/lint/rules")
    return tuple(f"-X {package}.k8sVersion{key}={value}" for package in packages for key, value in (("Major", major), ("Minor", minor)))


_COMMANDS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
KUBERNETES = Module(
    "kubernetes",
    {"etcd": "go.etcd.io/etcd/server/v3", **{name: f"k8s.io/kubernetes/cmd/{name}" for name in _COMMANDS}},
    ("-s", "-w", *_version_flags(KUBERNETES_VERSION)),
)
HELM = Module("helm", {"helm": "helm.sh/helm/v3/cmd/helm"}, ("-s", "-w", *_helm_flags(KUBERNETES_VERSION)))
COREDNS = Module("coredns", {"coredns": "."})
PAUSE = Module("pause", {"pause": "."})
CLUSTER = (KUBERNETES, HELM, COREDNS, PAUSE)
# For the tests of a HorizontalPodAutoscaler; no cluster needs it to start.
METRICS = Module("metrics-server", {"metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server"})
# For the tests of images that cannot be pulled; no cluster needs it either.
REGISTRY = Module("registry", {"registry": "."})
# What tools that wait for resources (Flux and others, Argo CD) believe of them; for the tests.
READERS = (Module("kstatus", {"kstatus": "."}), Module("argohealth", {"argohealth": "."}))
ALL = (*CLUSTER, METRICS, REGISTRY, *READERS)


def program(name: str) -> Path:
    """The path of a built program; RuntimeError names the command that builds it."""
    for module in ALL:
        if name in module.programs:
            path = module.folder / name
            if not path.is_file():
                raise RuntimeError(f"{name} is not built yet: run `make binaries`")
            return path
    raise KeyError(name)


def go_command() -> str:
    """The go tool from PATH or its usual place; RuntimeError when there is none."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if not found:
        raise RuntimeError("Go 1.26 or newer is needed to build Kubernetes and was not found: install it from go.dev/dl")
    return found


def build(modules: tuple[Module, ...] = ALL) -> None:
    """Build what is missing, one program after the other, saying how far it is."""
    missing = [(module, name) for module in modules if not module.built() for name in module.programs]
    for position, (module, name) in enumerate(missing, 1):
        _build_one(module, name, f"[{position}/{len(missing)}] {name}")


def _build_one(module: Module, name: str, label: str) -> None:
    print(f"building {label} (Go, first time only)", flush=True)
    started = time.monotonic()
    module.folder.mkdir(parents=True, exist_ok=True)
    target = module.folder / name
    unfinished = target.with_suffix(f".{os.getpid()}")
    command = [go_command(), "build", "-trimpath", "-ldflags", " ".join(module.ldflags), "-o", str(unfinished), module.programs[name]]
    subprocess.run(command, cwd=module.source, env=os.environ | {"CGO_ENABLED": "0"}, check=True)
    unfinished.rename(target)
    print(f"built {label} in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    wanted = sys.argv[1:]
    try:
        build(tuple(module for module in ALL if not wanted or module.name in wanted))
    except RuntimeError as error:
        sys.exit(f"error: {error}")
