"""The metrics of OpenVINO Model Server's graphs, as Prometheus text."""

import re

import prometheus_client

_LABELS = ("api", "interface", "method", "name")
_API = "KServe"
_BUCKETS_US = (100, 300, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8)

prometheus_client.disable_created_metrics()


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        self._accepted = self._counter("ovms_requests_accepted", "Requests that a graph took")
        self._rejected = self._counter(
            "ovms_requests_rejected", "Requests that are malformed or do not fit their graph"
        )
        self._responses = self._counter("ovms_responses", "Responses; in a stream, one for each output")
        self._errors = self._counter("ovms_graph_error", "Graphs that failed while they ran")
        self._current = prometheus_client.Gauge(
            "ovms_current_graphs",
            "Instances of graphs: running requests and open streams",
            ["name"],
            registry=self._registry,
        )
        self._processing = self._histogram("ovms_graph_processing_time_us", "Life of a graph's instance")
        self._latency = self._histogram(
            "ovms_graph_request_latency_us", "From a request to its response; in a stream, to the first one after it"
        )

    def of_graph(self, interface: str, method: str, name: str) -> "GraphMetrics":
        """The metrics of one way to reach one graph."""
        return GraphMetrics(self, interface, method, name)

    def text(self) -> bytes:
        """In Prometheus' text format; counters have the server's names, without the library's suffix."""
        text = prometheus_client.generate_latest(self._registry)
        return re.sub(rb"(?m)^((?:# \w+ )?ovms_\w+)_total\b", rb"\1", text)

    def _counter(self, name: str, documentation: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(name, documentation, _LABELS, registry=self._registry)

    def _histogram(self, name: str, documentation: str) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            name, documentation, ["method", "name"], registry=self._registry, buckets=_BUCKETS_US
        )


class GraphMetrics:
    """The metrics of one graph and one method of one interface."""

    def __init__(self, metrics: Metrics, interface: str, method: str, name: str) -> None:
        labels = (_API, interface, method, name)
        self.accepted = metrics._accepted.labels(*labels)
        self.rejected = metrics._rejected.labels(*labels)
        self.responses = metrics._responses.labels(*labels)
        self.errors = metrics._errors.labels(*labels)
        self.current = metrics._current.labels(name)
        self.processing_us = metrics._processing.labels(method, name)
        self.latency_us = metrics._latency.labels(method, name)
