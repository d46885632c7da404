"""`python -m cluster up|down|images|kubeconfig`: the cluster that JITNEY_CLUSTER names, from the command line."""

from __future__ import annotations

import argparse
import sys

from cluster import target
from cluster.images import OURS
from cluster.progress import say


def up() -> None:
    """Start it, or use the one that runs; our images are built and in it."""
    cluster = target.chosen()
    cluster.up()
    if cluster.kubeconfig:
        print(f"export KUBECONFIG={cluster.kubeconfig}")


def down() -> None:
    """Stop it and remove what it left, or say what could not be removed; images stay in the cache."""
    say("stopped" if target.chosen().down() else "there is no cluster to stop")


def images() -> None:
    """Build what changed and hand it to the cluster, which is started if need be; prints the references."""
    cluster = target.chosen()
    cluster.up()
    for image in OURS:
        print(cluster.reference(image))


def kubeconfig() -> None:
    """Print only the kubeconfig's path."""
    path = target.chosen().kubeconfig
    if not path or not path.is_file():
        raise RuntimeError("no throwaway cluster is up: run `make cluster-up`")
    print(path)


COMMANDS = {"up": up, "down": down, "images": images, "kubeconfig": kubeconfig}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    try:
        COMMANDS[parser.parse_args().command]()
    # The local cluster's folders are root's.
    except (RuntimeError, PermissionError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
