"""Jitney on a cluster, as a person uses it: the chart, a claim with a model, resources, chats from a pod. For the demo and the tests."""
