"""The command `jitney`: serve on this machine, launch, list, chat, terminate. Speaks HTTP to a front door, wherever that is."""
