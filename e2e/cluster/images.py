"""Operator and runtime images: built by buildah from the project's Containerfiles, handed to containerd blob by blob.

The tag is a hash of everything that goes in, so an image that is there already is never built again. Layers travel uncompressed and once:
an OCI layout keeps them between buildah and containerd, and only blobs containerd lacks are streamed to it, with no archive on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Protocol

from cluster.binaries import PAUSE, cache_folder, program
from cluster.progress import Step

REPOSITORY = Path(__file__).resolve().parents[2]
VERSION = "0.1.0"
LIBRARY = "docker.io/library/"
SUITE = "bookworm"
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
BASE_IMAGE = f"localhost/jitney-base:{SUITE}"
PAUSE_IMAGE = f"{LIBRARY}jitney-pause:{PAUSE.folder.name.rsplit('-', 1)[1]}"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD_CERTIFICATES = "/run/build-certificates.crt"
BUILD_CACHE = "/run/uv-cache"
RUN_ROOT = "/run/jitney-images"


class Store(Protocol):
    """Where pods get their images from."""

    def blobs(self) -> set[str]:
        """Digests of the blobs it holds."""
        ...

    def importing(self) -> AbstractContextManager[IO[bytes]]:
        """A stream that takes an OCI archive."""
        ...


COMPILED = (".pyc", ".so")


@dataclass(frozen=True)
class Image:
    """One of our images: its name and the paths in the repository that it is made of."""

    name: str
    containerfile: str
    sources: tuple[str, ...]
    # The image that it is built on, under the same name; None is the builder's base image.
    on: Image | None = None

    @cached_property
    def tag(self) -> str:
        """Once per process: a file that is edited while an image is built makes a new one in the next run, not half a one in this."""
        return f"{self.on.tag if self.on else VERSION}-{self._digest()}"

    @property
    def reference(self) -> str:
        """The name Kubernetes uses for it."""
        return f"{self.name}:{self.tag}"

    @property
    def full_name(self) -> str:
        """The same name written out, as containerd keeps it."""
        return LIBRARY + self.reference

    def supersedes(self, full_name: str) -> bool:
        """Whether that is an older build of it. What is built on this one is not, nor is what this one is built on."""
        if not full_name.startswith(f"{LIBRARY}{self.name}:"):
            return False
        return not (full_name.startswith(self.full_name) or self.full_name.startswith(full_name))

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for file in self._files():
            digest.update(f"{file.relative_to(REPOSITORY)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:12]

    def _files(self) -> Iterator[Path]:
        for source in (self.containerfile, "pyproject.toml", "uv.lock", *self.sources):
            path = REPOSITORY / source
            # What is compiled here does not go into an image.
            yield from (
                [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file() and file.suffix not in COMPILED)
            )


OPERATOR = Image("jitney-operator", "operator/Containerfile", ("operator/jitney_operator",))
RUNTIME = Image("jitney-runtime", "runtime/Containerfile", ("runtime/build_kernels.py", "runtime/jitney_runtime"))
_CATALOGUE = ("operator/jitney_operator/__init__.py", "operator/jitney_operator/catalogue.yaml")
GATEWAY = Image("jitney-gateway", "gateway/Containerfile", ("gateway/jitney_gateway", *_CATALOGUE))
OURS = (OPERATOR, RUNTIME, GATEWAY)
# The same program in another image, which a rollout changes to; built when it is asked for.
SECOND_FILE = "e2e/cluster/second.Containerfile"
SECOND_RUNTIME = Image(RUNTIME.name, SECOND_FILE, (), on=RUNTIME)


class Builder:
    """buildah with its storage in the cache."""

    def __init__(self, folder: Path | None = None, base_image: str = BASE_IMAGE) -> None:
        self.base_image = base_image
        self.folder = folder or cache_folder() / "images"
        self.layout = Layout(self.folder / "layout")

    def run(self, *arguments: str | Path) -> str:
        """Output of one buildah command; RuntimeError with what it said."""
        done = subprocess.run(self._command(*arguments), env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"buildah {arguments[0]} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout.strip()

    def _command(self, *arguments: str | Path) -> list[str]:
        storage = ["--root", self.folder / "storage", "--runroot", RUN_ROOT, "--storage-driver", "overlay"]
        return ["buildah", *map(str, storage), *map(str, arguments)]

    def _environment(self) -> dict[str, str]:
        return os.environ | {"BUILDAH_ISOLATION": "chroot"}

    def has(self, reference: str) -> bool:
        command = self._command("inspect", "--type", "image", reference)
        return subprocess.run(command, env=self._environment(), capture_output=True, check=False).returncode == 0

    def base(self) -> None:
        """A Debian with Python, for machines that reach no image registry."""
        if self.has(BASE_IMAGE):
            return
        with Step("making the base image with debootstrap"):
            root = self.folder / "debootstrap"
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(root, ignore_errors=True)
            options = ["--variant=minbase", f"--include={BASE_PACKAGES}", SUITE, str(root)]
            done = subprocess.run(["debootstrap", *options], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"debootstrap failed:\n{done.stdout[-3000:]}")
            for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
                shutil.rmtree(root / waste, ignore_errors=True)
            self._commit(root, BASE_IMAGE)
            shutil.rmtree(root)

    def _commit(self, root: Path, reference: str, *config: str) -> None:
        container = self.run("from", "scratch")
        self.run("copy", "--quiet", container, root, "/")
        if config:
            self.run("config", *config, container)
        self.run("commit", "--quiet", "--rm", container, reference)

    def pause(self) -> None:
        """The sandbox image: one static program."""
        if self.has(PAUSE_IMAGE):
            return
        root = self.folder / "pause"
        root.mkdir(parents=True, exist_ok=True)
        shutil.copy2(program("pause"), root / "pause")
        self._commit(root, PAUSE_IMAGE, "--entrypoint", '["/pause"]')
        shutil.rmtree(root)

    def build(self, image: Image) -> None:
        """Build one of ours with its layers cached."""
        if image.on and not self.has(image.on.full_name):
            self.build(image.on)
        self.folder.mkdir(parents=True, exist_ok=True)
        with Step(f"building {image.reference}"), (self.folder / f"{image.name}.log").open("wb") as log:
            command = self._command("bud", *self._build_options(image), "--file", image.containerfile, "--tag", image.full_name, ".")
            done = subprocess.run(command, cwd=REPOSITORY, env=self._environment(), stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            end = (self.folder / f"{image.name}.log").read_text(errors="replace")[-4000:]
            raise RuntimeError(f"building {image.reference} failed:\n{end}")

    def _build_options(self, image: Image) -> list[str]:
        base = image.on.full_name if image.on else self.base_image
        uv_cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
        options = [
            "--layers",
            "--pull-never" if image.on or base == BASE_IMAGE else "--pull",
            "--build-arg",
            f"BASE_IMAGE={base}",
        ]
        options += ["--volume", f"{uv_cache}:{BUILD_CACHE}", "--build-arg", f"UV_CACHE_DIR={BUILD_CACHE}"]
        if CERTIFICATES.is_file():
            options += ["--volume", f"{CERTIFICATES}:{BUILD_CERTIFICATES}:ro"]
            options += [f"--build-arg={name}={BUILD_CERTIFICATES}" for name in ("PIP_CERT", "SSL_CERT_FILE")]
        if index := os.environ.get("TORCH_INDEX_URL"):
            options += ["--build-arg", f"TORCH_INDEX_URL={index}"]
        return options

    def push(self, image: Image, registry: str) -> str:
        """Push to a registry that another cluster reads; the reference there."""
        reference = f"{registry.rstrip('/')}/{image.reference}"
        with Step(f"pushing {reference}"):
            self.run("push", "--quiet", image.full_name, f"docker://{reference}")
        return reference

    def hand_over(self, name: str, store: Store) -> None:
        """Give an image (full name) to `store`, moving only the layers it lacks."""
        with Step(f"handing {name.removeprefix(LIBRARY)} to containerd"):
            present = store.blobs()
            self.layout.forget_all_but(present)
            self._export(name)
            with store.importing() as stream:
                self.layout.archive(stream, present)
            self.layout.hollow()

    def _export(self, name: str) -> None:
        """Write an image into the layout. skopeo, because buildah compresses every layer on this way, which takes minutes."""
        source = f"containers-storage:[overlay@{self.folder / 'storage'}+{RUN_ROOT}]{name}"
        command = ["skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", source, f"oci:{self.layout.folder}:{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.release()
        if done.returncode:
            raise RuntimeError(f"skopeo failed on {name}: {done.stderr.strip()[-2000:]}")

    def release(self) -> None:
        """Unmount what skopeo leaves mounted, unless somebody works in it; who has it mounted could not remove the cache."""
        subprocess.run(["umount", self.folder / "storage" / "overlay"], capture_output=True, check=False)

    def prune(self, image: Image) -> None:
        """Remove older builds of `image`; the layers that the newest shares stay."""
        for name in self.run("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
            if image.supersedes(name):
                self.run("rmi", name)


class Layout:
    """An OCI image layout whose large blobs become hollow once containerd has them.

    buildah skips a blob whose file is there with its right size. A sparse file of that size says "already delivered" and takes no disk.
    """

    LARGE = 1 << 20

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _blobs(self) -> list[Path]:
        return sorted((self.folder / "blobs" / "sha256").glob("*"))

    def forget_all_but(self, present: set[str]) -> None:
        """Remove hollow blobs that `present` (digests) lacks, so that they are written anew."""
        for blob in self._blobs:
            if f"sha256:{blob.name}" not in present and _is_hollow(blob):
                blob.unlink()
        (self.folder / "index.json").unlink(missing_ok=True)

    def hollow(self) -> None:
        for blob in self._blobs:
            size = blob.stat().st_size
            if size > self.LARGE:
                os.truncate(blob, 0)
                os.truncate(blob, size)

    def archive(self, stream: IO[bytes], present: set[str]) -> None:
        """Write the image as a tar that containerd imports, without the blobs it has (`present`)."""
        with tarfile.open(fileobj=stream, mode="w|", bufsize=1 << 20) as tar:
            for path in (self.folder / "oci-layout", self.folder / "index.json"):
                tar.add(path, arcname=path.name)
            for digest in self._digests():
                if digest not in present:
                    blob = self._blob(digest)
                    tar.add(blob, arcname=str(blob.relative_to(self.folder)))

    def _digests(self) -> list[str]:
        """Manifest, configuration and layers of the one image that index.json names."""
        manifest = json.loads((self.folder / "index.json").read_text())["manifests"][0]["digest"]
        content = json.loads(self._blob(manifest).read_text())
        return [manifest, content["config"]["digest"], *(layer["digest"] for layer in content["layers"])]

    def _blob(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _is_hollow(blob: Path) -> bool:
    status = blob.stat()
    return status.st_size > Layout.LARGE and status.st_blocks == 0
