"""HTTP: OpenAI's chat API, health and metrics. It validates, translates errors once, and never computes."""
