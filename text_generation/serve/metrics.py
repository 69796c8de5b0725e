"""Prometheus metrics of a chat, on a separate port.

Names and meanings are those of vLLM (https://docs.vllm.ai/en/stable/usage/metrics/), with `llm_` instead of `vllm:`, so
that its dashboards can be used. deploy/README.md lists the metrics.
"""

from collections.abc import Callable, Sequence

import prometheus_client

from text_generation.errors import ERROR_KINDS
from text_generation.serve.admission import Admission
from text_generation.serve.observation import CANCELLED, RequestRecord
from text_generation.serve.settings import SettingError

PREFIX = "llm_"
_FINISHED_REASONS = ("stop", "length", "abort")

# Upper bounds of the buckets, in seconds and in tokens: vLLM's, with smaller ones added because small models are fast.
_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_PER_TOKEN_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80
)  # fmt: skip
_REQUEST_S = (
    0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920
)  # fmt: skip
_TOKENS = tuple(mantissa * 10**exponent for exponent in range(5) for mantissa in (1, 2, 5))

prometheus_client.disable_created_metrics()


class Metrics:
    """The metrics and the HTTP server from which Prometheus reads them."""

    def __init__(self, model_name: str, address: str, port: int):
        """Start to listen; SettingError if that fails."""
        self._model_name = model_name
        self._registry = prometheus_client.CollectorRegistry()
        self._make_counters()
        self._make_histograms()
        self._running = self._gauge("num_requests_running", "Requests that are generating")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait for a place")
        self._cache = self._gauge("kv_cache_usage_perc", "Share of KV_CACHE_GB used by running requests; 1 is all")
        try:
            self._server, self._thread = prometheus_client.start_http_server(port, address, self._registry)
        except OSError as error:
            raise SettingError(
                f"LLM_METRICS_PORT is {port}: can't listen on {address}:{port}: {error.strerror or error}"
            ) from error

    def watch(self, admission: Admission, cache_usage: Callable[[], float]) -> None:
        """Read the numbers of running and waiting requests and the cache usage from here when Prometheus scrapes."""
        self._running.set_function(lambda: admission.running)
        self._waiting.set_function(lambda: admission.waiting)
        self._cache.set_function(cache_usage)

    def admitted(self, queue_s: float, prompt_tokens: int) -> None:
        """Record that a request has been admitted."""
        self._queue.observe(queue_s)
        self._prompt_tokens.inc(prompt_tokens)

    def first_token(self, seconds: float, tokens: int) -> None:
        """Record the tokens of a request's first step, with the time since the request arrived."""
        self._first_token.observe(seconds)
        self._generation_tokens.inc(tokens)

    def tokens(self, tokens: int, seconds: float) -> None:
        """Record the tokens of a later step; `seconds` is the time between two tokens of one completion."""
        self._between_tokens.observe(seconds)
        self._generation_tokens.inc(tokens)

    def ended(self, record: RequestRecord, failed: bool) -> None:
        """Record the end of a request."""
        if failed:
            self._errors.labels(self._model_name, record.ended).inc()
            return
        for reason in record.finish_reasons:
            self._finished.labels(self._model_name, reason or "abort").inc()
        if record.ended == CANCELLED:
            return
        self._total.observe(record.total_s)
        self._longest_completion.observe(max(record.completion_tokens))
        for prompt_tokens, completion_tokens in zip(record.prompt_tokens, record.completion_tokens, strict=True):
            self._prompt_length.observe(prompt_tokens)
            self._completion_length.observe(completion_tokens)
        if record.prefill_s is not None and record.decode_s is not None:
            self._prefill.observe(record.prefill_s)
            self._decode.observe(record.decode_s)
            if max(record.completion_tokens) > 1:
                self._per_token.observe(record.decode_s / (max(record.completion_tokens) - 1))

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _make_counters(self) -> None:
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of the prompts of admitted requests").labels(
            self._model_name
        )
        self._generation_tokens = self._counter("generation_tokens", "Generated tokens").labels(self._model_name)
        self._finished = self._counter(
            "request_success", "Completions by reason of their end; abort: the client left", "finished_reason"
        )
        self._errors = self._counter("request_errors", "Requests that were refused or failed, by kind", "kind")
        # Create all with 0, so that rates are defined from the start.
        for reason in _FINISHED_REASONS:
            self._finished.labels(self._model_name, reason)
        for kind in ERROR_KINDS:
            self._errors.labels(self._model_name, kind)

    def _make_histograms(self) -> None:
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token", _FIRST_TOKEN_S
        )
        self._between_tokens = self._histogram(
            "inter_token_latency_seconds", "Time between two tokens of a completion, taken at each step", _PER_TOKEN_S
        )
        self._per_token = self._histogram(
            "time_per_output_token_seconds", "Mean time between a request's tokens", _PER_TOKEN_S
        )
        self._queue = self._histogram("request_queue_time_seconds", "Time in the queue", _REQUEST_S)
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "From a request's admission to its first token", _REQUEST_S
        )
        self._decode = self._histogram(
            "request_decode_time_seconds", "From a request's first token to its last", _REQUEST_S
        )
        self._total = self._histogram("e2e_request_latency_seconds", "From a request's arrival to its end", _REQUEST_S)
        self._prompt_length = self._histogram("request_prompt_tokens", "Tokens of a prompt", _TOKENS)
        self._completion_length = self._histogram("request_generation_tokens", "Tokens of a completion", _TOKENS)
        self._longest_completion = self._histogram(
            "request_max_num_generation_tokens", "Tokens of a request's longest completion", _TOKENS
        )

    def _counter(self, name: str, documentation: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(PREFIX + name, documentation, ["model_name", *labels], registry=self._registry)

    def _gauge(self, name: str, documentation: str) -> prometheus_client.Gauge:
        gauge = prometheus_client.Gauge(PREFIX + name, documentation, ["model_name"], registry=self._registry)
        return gauge.labels(self._model_name)

    def _histogram(self, name: str, documentation: str, bounds: Sequence[float]) -> prometheus_client.Histogram:
        histogram = prometheus_client.Histogram(
            PREFIX + name, documentation, ["model_name"], registry=self._registry, buckets=bounds
        )
        return histogram.labels(self._model_name)
