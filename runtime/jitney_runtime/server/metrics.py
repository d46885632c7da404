"""Prometheus names, all in one place, all labelled model_name.

Observed on the event loop.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jitney_runtime.engine.link import News

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_LABELS = ("model_name",)


class Metrics:
    """One registry per server, so that two servers in one process (tests) do not meet."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model_name
        self._preemptions_seen = self._shared_seen = 0
        self.running = self._gauge("jitney_requests_running", "requests in the batch")
        self.waiting = self._gauge("jitney_requests_waiting", "requests waiting for a row or for memory")
        self.kv_usage = self._gauge("jitney_kv_cache_usage_ratio", "share of the KV blocks in use, 0 to 1")
        self.batch_size = self._histogram("jitney_batch_size", "rows in one step", _ROWS)
        self.step_seconds = self._histogram("jitney_step_seconds", "time of one step of the model")
        self.first_token = self._histogram("jitney_time_to_first_token_seconds", "from request to first token")
        self.inter_token = self._histogram("jitney_inter_token_latency_seconds", "between two tokens of one answer")
        self.duration = self._histogram("jitney_request_duration_seconds", "from request to last token")
        self.queue_seconds = self._histogram("jitney_queue_seconds", "from request to the first step that computes it")
        self.prompt_tokens = self._counter("jitney_prompt_tokens", "prompt tokens of accepted requests")
        self.generation_tokens = self._counter("jitney_generation_tokens", "tokens generated")
        self.preemptions = self._counter("jitney_preemptions", "sequences that gave their blocks back to be computed again")
        self.prefix_hits = self._counter("jitney_prefix_cache_hit_tokens", "prompt tokens that were not computed again")
        self.load_seconds = self._gauge("jitney_model_load_seconds", "from start to ready")
        self._requests = Counter("jitney_requests", "requests ended", (*_LABELS, "finish_reason"), registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, _LABELS, registry=self.registry).labels(self._model)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, _LABELS, registry=self.registry).labels(self._model)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, text, _LABELS, registry=self.registry, buckets=buckets).labels(self._model)

    def step(self, news: News) -> None:
        """After every step."""
        stats = news.stats
        self.running.set(stats.running)
        self.waiting.set(stats.waiting)
        self.kv_usage.set(stats.kv_cache_usage)
        if news.rows:
            self.batch_size.observe(news.rows)
            self.step_seconds.observe(news.seconds)
            self.generation_tokens.inc(sum(output.token is not None for output in news.outputs))
        for seconds in news.queued:
            self.queue_seconds.observe(seconds)
        self.preemptions.inc(stats.preemptions - self._preemptions_seen)
        self._preemptions_seen = stats.preemptions
        self.prefix_hits.inc(stats.shared_tokens - self._shared_seen)
        self._shared_seen = stats.shared_tokens

    def ended(self, finish_reason: str) -> None:
        self._requests.labels(self._model, finish_reason).inc()

    def render(self) -> bytes:
        return generate_latest(self.registry)
