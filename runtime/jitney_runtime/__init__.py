"""The runtime of a model pod: a continuous-batching chat server on transformers.

Rooms: `engine` decides (token ids in, token ids out), `torch_backend` computes, with `kernels` in C on a CPU, `text` turns words into
ids and back, `server` speaks HTTP. Nothing here knows Kubernetes.
"""

__version__ = "0.1.0"
