"""Models on this machine: one runtime process each, kept alive, remembered over a restart."""
