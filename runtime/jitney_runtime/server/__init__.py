"""HTTP: OpenAI's chats and completions, health and metrics. It validates, translates errors once, and never computes."""
