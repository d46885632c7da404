"""HTTP: Xinference's launch routes and OpenAI's chats and completions over one backend."""
