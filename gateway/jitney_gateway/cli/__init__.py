"""The command `jitney`: serve on this machine, launch, list, describe, chat, terminate, logs, registrations, register,
unregister, bench, doctor, keys. Speaks HTTP to a
front door, wherever that is; only `cluster` knows Kubernetes."""
