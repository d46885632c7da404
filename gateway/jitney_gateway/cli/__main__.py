"""`python -m jitney_gateway.cli` is `jitney`."""

from jitney_gateway.cli.main import app

app(prog_name="jitney")
