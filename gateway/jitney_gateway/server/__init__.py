"""HTTP: Xinference's launch routes and OpenAI's chat routes over one backend."""
