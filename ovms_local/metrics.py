"""OpenVINO Model Server's metrics for graphs, in Prometheus text format."""

import re
from collections.abc import Iterable

import prometheus_client

_LABELS = ("api", "interface", "method", "name")
_API = "KServe"
# Upper bounds of the histogram's buckets, as in the server's src/model_metric_reporter.cpp.
_BUCKETS_US = tuple(int(10 * 1.8**exponent) for exponent in range(33))

# The server's metrics for graphs, and those for models, which may be requested but are never counted here.
_GRAPH_FAMILIES = frozenset(
    ("ovms_current_graphs", "ovms_requests_accepted", "ovms_requests_rejected", "ovms_responses", "ovms_graph_error",
     "ovms_requests_success", "ovms_requests_fail", "ovms_graph_processing_time_us")
)  # fmt: skip
_MODEL_FAMILIES = frozenset(
    ("ovms_current_requests", "ovms_request_time_us", "ovms_streams", "ovms_inference_time_us",
     "ovms_wait_for_infer_req_time_us", "ovms_infer_req_queue_size", "ovms_infer_req_active")
)  # fmt: skip

_INFER_METHODS = (("gRPC", "ModelInfer"), ("gRPC", "ModelInferStream"), ("REST", "ModelInfer"))
_CALLS = tuple((interface, method) for interface in ("gRPC", "REST") for method in ("ModelReady", "ModelMetadata"))

prometheus_client.disable_created_metrics()


class MetricsError(ValueError):
    """An invalid list of metrics."""


def enabled_families(names: Iterable[str] | None) -> frozenset[str]:
    """Return the metrics to serve: those named, or the default ones if there is no list.

    Raises:
        MetricsError: a name is unknown or listed twice.
    """
    if names is None:
        return _GRAPH_FAMILIES
    families: set[str] = set()
    for name in names:
        if name not in _GRAPH_FAMILIES | _MODEL_FAMILIES:
            raise MetricsError(
                f"unknown metric {name!r}: valid names are {', '.join(sorted(_GRAPH_FAMILIES | _MODEL_FAMILIES))}"
            )
        if name in families:
            raise MetricsError(f"the metric {name!r} is listed twice")
        families.add(name)
    return frozenset(families)


class Metrics:
    """All metrics of one server."""

    def __init__(self, families: frozenset[str]) -> None:
        """Count everything, but serve only these families."""
        self._families = families
        self._registry = prometheus_client.CollectorRegistry()
        self._accepted = self._counter("ovms_requests_accepted", "Requests accepted by a graph")
        self._rejected = self._counter("ovms_requests_rejected", "Requests rejected before reaching their graph")
        self._responses = self._counter("ovms_responses", "Responses; in a stream, one for each output")
        self._errors = self._counter("ovms_graph_error", "Graphs that failed while running")
        self._success = self._counter("ovms_requests_success", "Answered requests for readiness and metadata")
        self._fail = self._counter("ovms_requests_fail", "Requests for readiness and metadata that failed")
        self._current = prometheus_client.Gauge(
            "ovms_current_graphs",
            "Graph instances: running requests and open streams",
            ["name"],
            registry=self._registry_of("ovms_current_graphs"),
        )
        self._processing = prometheus_client.Histogram(
            "ovms_graph_processing_time_us",
            "Lifetime of graph instances that did not fail",
            ["method", "name"],
            registry=self._registry_of("ovms_graph_processing_time_us"),
            buckets=_BUCKETS_US,
        )
        self._of_graph: dict[tuple[str, str, str], GraphMetrics] = {}
        self._of_calls: dict[tuple[str, str, str, bool], prometheus_client.Counter] = {}

    def add_graph(self, name: str) -> None:
        """Start to count for this graph; all its metrics exist with 0 from the start, so that rates are defined."""
        for interface, method in _INFER_METHODS:
            self._of_graph[interface, method, name] = GraphMetrics(self, interface, method, name)
        for interface, method in _CALLS:
            for succeeded, counter in ((True, self._success), (False, self._fail)):
                labels = counter.labels(_API, interface, method, name)
                self._of_calls[interface, method, name, succeeded] = labels

    def of_graph(self, interface: str, method: str, name: str) -> "GraphMetrics":
        """Return the metrics for one interface and method of a graph that has been added."""
        return self._of_graph[interface, method, name]

    def count_call(self, interface: str, method: str, name: str, succeeded: bool) -> None:
        """Count a `ModelReady` or `ModelMetadata` for a graph that has been added."""
        self._of_calls[interface, method, name, succeeded].inc()

    def text(self) -> bytes:
        """Return Prometheus text; counters have the server's names, without the library's suffix."""
        text = prometheus_client.generate_latest(self._registry)
        return re.sub(rb"(?m)^((?:# \w+ )?ovms_\w+)_total\b", rb"\1", text)

    def _registry_of(self, family: str) -> prometheus_client.CollectorRegistry | None:
        return self._registry if family in self._families else None

    def _counter(self, name: str, documentation: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(name, documentation, _LABELS, registry=self._registry_of(name))


class GraphMetrics:
    """The metrics of one graph for one interface and method."""

    def __init__(self, metrics: Metrics, interface: str, method: str, name: str) -> None:
        labels = (_API, interface, method, name)
        self.accepted = metrics._accepted.labels(*labels)
        self.rejected = metrics._rejected.labels(*labels)
        self.responses = metrics._responses.labels(*labels)
        self.errors = metrics._errors.labels(*labels)
        self.current = metrics._current.labels(name)
        self.processing_us = metrics._processing.labels(method, name)
