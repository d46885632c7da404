"""Token ids in, token ids out: who computes what in the next step, and where its KV memory lies. No torch, no HTTP, no text."""
