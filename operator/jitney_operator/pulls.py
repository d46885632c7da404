"""Why an image cannot be pulled, in one sentence that stays the same from attempt to attempt. Pure.

The kubelet alternates between two reasons and wraps the cause in several layers, with addresses and ports of the attempt in them; what is
stable is the last link of the chain.
"""

from __future__ import annotations

import re

BACK_OFF = re.compile(r'^Back-off pulling image "[^"]*"(: )?(Err\w+: )?')
# Times and addresses of one attempt.
OF_AN_ATTEMPT = re.compile(r"^(current time|https?://)")
ADDRESSES = re.compile(r"\d+\.\d+\.\d+\.\d+:\d+(->\d+\.\d+\.\d+\.\d+:\d+)?")
ROOM = re.compile(r"no space left|disk quota", re.IGNORECASE)
PLATFORM = re.compile(r"no match for platform|no matching manifest|exec format", re.IGNORECASE)
CERTIFICATE = re.compile(r"x509|certificate|server gave HTTP response to HTTPS client", re.IGNORECASE)
# A registry that knows nobody answers 401 or 403, Docker Hub also for what it does not have.
REFUSED = re.compile(r"\b40[13]\b|unauthorized|authorization failed|authentication required|access denied|denied:|forbidden", re.IGNORECASE)
MISSING = re.compile(r": not found|manifest unknown|name unknown|NotFound|\b404\b", re.IGNORECASE)
UNREACHABLE = re.compile(
    r"no such host|connection refused|no route to host|network is unreachable|i/o timeout|timed out|deadline exceeded|server misbehaving"
    r"|connection reset|\bEOF\b|Temporary failure",
    re.IGNORECASE,
)
# It was reached, and does not want to now.
BUSY = re.compile(r"\b50[0-9]\b|too ?many ?requests|\b429\b", re.IGNORECASE)


def sentence(image: str, reason: str, message: str) -> str:
    """What a person needs to know and do. Empty where the kubelet says no more than that it waits before it tries again."""
    if reason == "InvalidImageName":
        return f"{image} is no name of an image; correct spec.image."
    if reason == "ErrImageNeverPull":
        return f"The image {image} is not on the node, and pulling it is not allowed there (imagePullPolicy Never)."
    chain = " ".join(BACK_OFF.sub("", message).split())
    if not chain:
        return ""
    last, chain = _last(chain), _without_names(chain, image)
    if ROOM.search(chain):
        return f"The node has no room for the image {image} ({last}); free space in its image store."
    if PLATFORM.search(chain):
        return f"The image {image} was not made for the node's kind of processor ({last})."
    if CERTIFICATE.search(chain):
        return f"The registry of the image {image} cannot be trusted by the node ({last}); give the node its authority's certificate."
    if BUSY.search(chain):
        return (
            f"The registry of the image {image} does not give it now ({last}); the node tries again. A limit of anonymous pulls is lifted "
            "by credentials: name a Secret in spec.imagePullSecrets."
        )
    if REFUSED.search(chain):
        return f"The registry refuses the image {image} ({last}); check its name and the Secret in spec.imagePullSecrets."
    if MISSING.search(chain):
        return f"The image {image} was not found in its registry ({last}); check its name and tag."
    if UNREACHABLE.search(chain):
        return f"The registry of the image {image} cannot be reached from the node ({last}); check its host name and the network."
    return f"The image {image} cannot be pulled ({last}); check its name, registry and spec.imagePullSecrets."


def _without_names(chain: str, image: str) -> str:
    """What an image, its registry or a path is called says nothing: app:404 is a name like any other."""
    return re.sub(r"https?://\S+", "...", re.sub(r'"[^"]*"', "...", chain).replace(image, "..."))


def _last(chain: str) -> str:
    """The cause that the others wrap, without what belongs to one attempt."""
    links = [link for link in chain.split(": ") if not OF_AN_ATTEMPT.match(link)] or [chain]
    return ADDRESSES.sub("...", links[-1]).rstrip(".")[:300]
