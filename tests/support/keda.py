"""What KEDA makes on a cluster."""

from __future__ import annotations

from typing import Any


def of_keda(namespace: str, target: str) -> dict[str, Any]:
    """As KEDA 2.20 makes it for the ScaledObject `chat` (controllers/keda/hpa.go, newHPAForScaledObject)."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {
            "name": "keda-hpa-chat",
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/managed-by": "keda-operator",
                "app.kubernetes.io/name": "keda-hpa-chat",
                "app.kubernetes.io/part-of": "chat",
                "app.kubernetes.io/version": "2.20.2",
                "scaledobject.keda.sh/name": "chat",
            },
            "ownerReferences": [
                {
                    "apiVersion": "keda.sh/v1alpha1",
                    "kind": "ScaledObject",
                    "name": "chat",
                    "uid": "1d0e4b5a-6f6c-4b39-9d3f-0d2f8f0f1f5e",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "scaleTargetRef": {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "name": target},
            "minReplicas": 1,
            "maxReplicas": 5,
            "metrics": [
                {
                    "type": "External",
                    "external": {
                        "metric": {"name": "s0-prometheus", "selector": {"matchLabels": {"scaledobject.keda.sh/name": "chat"}}},
                        "target": {"type": "AverageValue", "averageValue": "8"},
                    },
                }
            ],
        },
    }
