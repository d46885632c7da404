"""A throwaway Kubernetes on this machine: real etcd, API server, controllers, scheduler, kubelet and containerd.

This room knows nothing of Jitney's own packages: it builds programs and images, starts processes, and stops exactly those.
"""
