"""`python -m cluster up|down|images|kubeconfig`: the throwaway cluster from the command line."""

from __future__ import annotations

import argparse
import sys

from cluster.images import OURS
from cluster.local import LocalCluster
from cluster.progress import say


def up() -> None:
    """Start Kubernetes, or use the one that runs."""
    cluster = LocalCluster()
    cluster.start()
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def down() -> None:
    """Stop it and remove what it left; images stay in the cache."""
    say("stopped" if LocalCluster().down() else "no throwaway cluster is recorded on this machine")


def images() -> None:
    """Build what changed and hand it to the cluster, which is started if need be."""
    LocalCluster().up()
    for image in OURS:
        print(image.reference)


def kubeconfig() -> None:
    """Print the kubeconfig's path."""
    path = LocalCluster().kubeconfig
    if not path.is_file():
        raise RuntimeError("no throwaway cluster is up: run `make cluster-up`")
    print(path)


COMMANDS = {"up": up, "down": down, "images": images, "kubeconfig": kubeconfig}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    try:
        COMMANDS[parser.parse_args().command]()
    except RuntimeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
