"""What the administrator lets others choose: images, variables, folders of the node, code of the model. Pure; refuses with Rejected."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from jitney_operator.api import Spec
from jitney_operator.errors import Rejected
from jitney_operator.settings import Allow

# What begins so tells Python, the linker, a shell or a library in the image where to find code: a library or module to load, a program to
# start, a compiler and what it reads, a cache of what was compiled, or that pickles may be read.
CODE_BRINGERS = (
    "PYTHON", "LD_", "BASH_", "GCONV_PATH", "OPENSSL_", "INTEL_", "MIC_LD_", "OMP_TOOL", "KMP_TOOL", "ACC_PROFLIB", "NVTX_", "NCCL_",
    "NVSHMEM_", "CUDNN_", "CUDACXX", "CUDA_INJECTION", "CUDA_CACHE", "CUDA_HOME", "CUDA_INC", "CUDA_PATH", "TRITON_", "TORCH",
    "PYTORCH_KERNEL_CACHE", "PYTORCH_NVCC", "HF_MODULES_CACHE", "XDG_",
)  # fmt: skip
# The same, and the beginning of many others: programs, compilers, and the folder that caches of compiled code lie in by default.
CODE_BRINGING_NAMES = {"PATH", "HOME", "CC", "CXX"}


def check(spec: Spec, allow: Allow) -> None:
    """Rejected with NotAllowed for the first thing that is not."""
    _image(spec, allow)
    _env(spec, allow)
    _host_path(spec, allow)
    _remote_code(spec, allow)


def _image(spec: Spec, allow: Allow) -> None:
    """The runtime's own, and one that holds a model."""
    model = spec.model.removeprefix("oci://") if spec.model.startswith("oci://") else None
    for field, image in (("spec.image", spec.image), ("spec.model", model)):
        if image and not _matches(image, allow.images):
            raise _refusal(field, f"the image {image}", allow.images)


def _env(spec: Spec, allow: Allow) -> None:
    for entry in spec.env:
        if not _matches(entry["name"], allow.env):
            raise _refusal("spec.env", f"the variable {entry['name']}", allow.env)


def _host_path(spec: Spec, allow: Allow) -> None:
    if not spec.cache or spec.cache["type"] != "HostPath":
        return
    path = PurePosixPath(spec.cache.get("path", "/"))
    if ".." in path.parts or not any(path.is_relative_to(folder) for folder in allow.host_paths):
        raise _refusal("spec.cache.path", f"the node's folder {path}", allow.host_paths)


def _remote_code(spec: Spec, allow: Allow) -> None:
    """The runtime takes no abbreviated flags, and variables in any case. A variable in an argument would become any flag in the pod, and
    some variables bring code into every Python."""
    if allow.trust_remote_code:
        return
    asked = any(argument.partition("=")[0] == "--trust-remote-code" for argument in spec.args)
    if asked or any(entry["name"].upper() == "JITNEY_TRUST_REMOTE_CODE" for entry in spec.env):
        raise Rejected(
            "NotAllowed",
            "The administrator does not allow code from a model's repository to run; take trust-remote-code out of args and env.",
        )
    for argument in spec.args:
        if "$(" in argument:
            raise Rejected(
                "NotAllowed",
                f"The administrator does not allow foreign code, and a variable in an argument could ask for it: write {argument} out.",
            )
    for entry in spec.env:
        if entry["name"] in CODE_BRINGING_NAMES or entry["name"].startswith(CODE_BRINGERS):
            raise Rejected("NotAllowed", f"The administrator does not allow foreign code, which {entry['name']} could bring in.")


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _refusal(field: str, what: str, allowed: tuple[str, ...]) -> Rejected:
    return Rejected("NotAllowed", f"{field}: the administrator does not allow {what}; allowed are {', '.join(allowed) or 'none'}.")
