"""The engine's speed beside that of every CPU peer: `python -m bench.engine`. Rows judge, servers answer, load asks, results keep."""
