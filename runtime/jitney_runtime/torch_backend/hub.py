"""From --model to a folder with the weights: a local folder as it is, a repository through huggingface_hub with progress."""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from jitney_runtime.errors import CacheNotWritable, DiskFull, HubUnreachable, ModelNotFound, NotSupportedYet, StartError, Unauthorized
from jitney_runtime.progress import Progress

logger = logging.getLogger(__name__)

# Weights as safetensors only: pickles run code. What lies in folders below, and Mistral's second form of the weights, nobody here reads.
_WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
_CODE = ["*.py"]
_UNWANTED = ["*/*", "consolidated*.safetensors"]
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# The hub's ids of a request in huggingface_hub's words and in S3's, and addresses of objects: nobody can read them.
_IDS = re.compile(
    r" ?\((?:Request|Amzn Trace|Amz CF) ID: [^)]*\)|<(RequestId|HostId)>[^<]*</\1>| at 0x[0-9a-f]+",
    re.IGNORECASE,
)


def model_folder(model: str, revision: str | None, progress: Progress, trust: bool = False) -> Path:
    """The folder that holds the model, and with `trust` the code that comes with it; StartError says in words why there is none."""
    if model.startswith(("/", "./", "../")) or Path(model).is_dir():
        if revision:
            raise ModelNotFound(f"{model} is a folder, which has no revision {revision!r}: leave the revision out")
        return _checked(Path(model), model)
    repository = model.removeprefix("hf://")
    if not _REPOSITORY.fullmatch(repository):
        raise ModelNotFound(f"{model!r} is neither a folder here nor a repository such as org/name")
    return _checked(_download(repository, revision, progress, _CODE if trust else []), model)


def _checked(folder: Path, model: str) -> Path:
    if not folder.is_dir():
        raise ModelNotFound(f"there is no folder {model}: check the path inside the claim or image")
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{model} holds no config.json, so it is no transformers model")
    if not any(folder.glob("*.safetensors")):
        raise NotSupportedYet(f"{model} holds no *.safetensors weights: convert them with transformers' save_pretrained")
    return folder


def _download(repository: str, revision: str | None, progress: Progress, also: list[str]) -> Path:
    logger.info("downloading %s%s", repository, f" at {revision}" if revision else "")
    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=_WANTED + also, ignore_patterns=_UNWANTED, tqdm_class=_progress_bar(progress)
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
        raise _translate(error, repository, revision) from error


def _progress_bar(progress: Progress) -> type[tqdm[Any]]:
    class Bar(tqdm):  # type: ignore[type-arg]
        """Reports bytes only; the bar that counts files stays silent."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # huggingface_hub names its bars; tqdm itself does not know the word.
            kwargs.pop("name", None)
            super().__init__(*args, **kwargs | {"disable": False, "file": _Silent()})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self.unit == "B" and self.total:
                progress.downloading(int(self.n), int(self.total))
            return shown

    return Bar


class _Silent:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


def _translate(error: Exception, repository: str, revision: str | None) -> StartError:
    """huggingface_hub's errors in the words of the resource. Gated before not found: it is a kind of it."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFull(f"the disk is full while downloading {repository}: give the cache more room")
        if isinstance(cause, OSError) and cause.errno in _NOT_WRITABLE:
            return CacheNotWritable(f"user {os.getuid()} may not write to {cause.filename}, where {repository} was to be downloaded to")
        if isinstance(cause, GatedRepoError):
            return Unauthorized(
                f"{repository} is gated: accept its licence on the hub and give a token that may read it (HF_TOKEN, or hfTokenSecretRef)"
            )
        if isinstance(cause, RevisionNotFoundError):
            return ModelNotFound(f"{repository} has no revision {revision!r}")
        if isinstance(cause, HfHubHTTPError) and cause.response is not None and cause.response.status_code in (401, 403):
            return Unauthorized(
                f"the hub refuses {repository} (HTTP {cause.response.status_code}): it is private, gated or absent; "
                "check HF_TOKEN or hfTokenSecretRef"
            )
        if isinstance(cause, RepositoryNotFoundError):
            return ModelNotFound(f"the hub has no repository {repository}")
    if isinstance(error, HFValidationError):
        return ModelNotFound(f"{repository!r} is no valid repository name: {error}")
    return HubUnreachable(f"the hub cannot be reached to download {repository}: {_reason(error)}")


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    return chain


def _reason(error: BaseException) -> str:
    """The hub's answer, if it gave one, or the network's words."""
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            answer = f"it answers HTTP {cause.response.status_code} {cause.response.reason_phrase}".rstrip()
            said = _first_line(cause.server_message or "")
            return f"{answer}: {said}" if said else answer
    return _first_line(str(error)) or type(error).__name__


def _first_line(text: str) -> str:
    return next((line for line in _IDS.sub("", text).splitlines() if line.strip()), "").strip()
