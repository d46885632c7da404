"""The only room that imports torch and transformers: it turns a scheduled batch into one sampled token per row."""
