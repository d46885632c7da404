"""The main job from nothing: a Kubernetes, the images, the chart, a model on a claim, one manifest, 16 chats at once.

Leaves the cluster up. The last thing it shows is the table of chats and the resource, Ready.
"""

from __future__ import annotations

import sys
import time

from product import installation, model_claim, report, resource
from product.client import Chat, Client
from test_model import model_folder

from cluster import target
from cluster.binaries import program
from cluster.images import REPOSITORY
from cluster.kubectl import Kubectl
from cluster.machine import NotReady
from cluster.progress import say
from cluster.target import Cluster

EXAMPLE = REPOSITORY / "examples" / "smollm2.yaml"
NAME = "smollm2"
URL = f"http://{NAME}.default.svc.cluster.local/v1"
READY_SECONDS = 300


def main() -> None:
    started = time.monotonic()
    cluster = target.chosen()
    cluster.up()
    kubectl = Kubectl(cluster.kubeconfig)
    installation.install(cluster, kubectl)
    model_claim.provide(cluster, kubectl, model_folder())
    _apply(kubectl)
    _show_states(kubectl)
    say(f"\n16 chats at once, from a pod in the cluster, to {URL}")
    chats = Client(cluster, kubectl).chat(URL, NAME)
    say(f"the demo took {time.monotonic() - started:.0f} s")
    _show_usage(cluster, kubectl)
    _show(chats, kubectl)
    if failed := [chat for chat in chats if chat.error]:
        raise RuntimeError(f"{len(failed)} of {len(chats)} chats failed: {failed[0].error}")


def _apply(kubectl: Kubectl) -> None:
    """Anew, when an earlier demo left one: its states are what is shown."""
    kubectl("delete", "mdep", NAME, "--ignore-not-found", "--cascade=foreground", "--timeout=180s")
    print(f"$ kubectl apply -f {EXAMPLE.relative_to(REPOSITORY)}")
    print(kubectl("apply", "-f", str(EXAMPLE)).strip(), flush=True)


def _show_states(kubectl: Kubectl) -> None:
    started = time.monotonic()
    for state in resource.states(kubectl, NAME, READY_SECONDS):
        print(f"{time.monotonic() - started:6.1f} s  {state}", flush=True)
        if state.stalled:
            raise RuntimeError(f"{NAME} cannot become Ready: {state}")


def _show_usage(cluster: Cluster, kubectl: Kubectl) -> None:
    folders = ":".join(str(program(name).parent) for name in ("kubectl", "helm"))
    kubeconfig = f"KUBECONFIG={cluster.kubeconfig} " if cluster.kubeconfig else ""
    print("\nThe cluster stays up. To use it:")
    print(f"  export {kubeconfig}PATH=$PATH:{folders}")
    body = f'{{"model": "{NAME}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    request = f"/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    if cluster.kind == "local":
        address = ((kubectl.get("service", NAME) or {}).get("spec") or {}).get("clusterIP")
        print(f"  curl -s http://{address}{request}")
    else:
        print(f"  kubectl port-forward service/{NAME} 8080:80 &")
        print(f"  curl -s --retry 5 --retry-connrefused http://127.0.0.1:8080{request}")
    if cluster.kind == "current":
        print("To remove what the demo made; the definition, and with it everybody's models, stays:")
        print(f"  kubectl delete mdep/{NAME} pvc/{model_claim.CLAIM}; helm uninstall jitney -n {installation.NAMESPACE}")
    else:
        print("  make demo-down      # stops it and removes what it made; what was built stays cached")
    # Before anything on standard error that comes after it.
    sys.stdout.flush()


def _show(chats: list[Chat], kubectl: Kubectl) -> None:
    print(f"\n{report.table(chats)}\n")
    print(f"$ kubectl get mdep -o wide\n{kubectl('get', 'mdep', '-o', 'wide')}", end="", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (NotReady, RuntimeError, TimeoutError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
