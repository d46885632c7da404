"""Words to token ids and back. The tokenizer is handed in; this room imports neither torch nor transformers."""
