"""The operator: watches ModelDeployments, decides, applies, reports. It holds no torch, and only `cluster` speaks to Kubernetes."""
