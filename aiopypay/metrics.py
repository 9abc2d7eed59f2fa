"""What Prometheus reads at /metrics."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from aiopypay.connections import Connections

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Requests by method, route and status, and how long they took. A registry of its own: one per application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "aiopypay_requests", "Requests answered", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "aiopypay_request_seconds", "Time to answer a request", ["method", "route"], registry=self._registry
        )
        # Finding a child by its labels costs as much as all of the rest of an observation.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one answered request."""
        children = self._children.get((method, route, status))
        if children is None:
            children = self._requests.labels(method, route, str(status)), self._seconds.labels(method, route)
            self._children[method, route, status] = children
        requests, histogram = children
        requests.inc()
        histogram.observe(seconds)

    def watch_refusals(self, refusals: Callable[[], tuple[int, int]]) -> None:
        """Tells, each time, how many orders were refused at settling, and of them through changes made elsewhere."""
        self._registry.register(_Refusals(refusals))

    def watch_connections(self, connections: Connections) -> None:
        """Tells, each time, of the connections of a server."""
        self._registry.register(_Connections(connections))

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Refusals(Collector):
    def __init__(self, refusals: Callable[[], tuple[int, int]]) -> None:
        self._refusals = refusals

    def collect(self) -> Iterator[CounterMetricFamily]:
        refused, elsewhere = self._refusals()
        yield CounterMetricFamily(
            "aiopypay_refused_at_settling", "Orders accepted without the database and refused at settling", refused
        )
        yield CounterMetricFamily(
            "aiopypay_refused_after_changes_elsewhere",
            "Of those, how many were on accounts that were changed in SQL without this node knowing",
            elsewhere,
        )


class _Connections(Collector):
    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        yield GaugeMetricFamily("aiopypay_connections", "Connections that are open", len(self._connections))
        ended = CounterMetricFamily(
            "aiopypay_connections_ended", "Connections that the service refused or ended itself", labels=["why"]
        )
        for why, count in self._connections.ended.items():
            ended.add_metric([why], count)
        yield ended
        yield CounterMetricFamily(
            "aiopypay_out_of_files",
            "Times that no connection was accepted, for the system lets this process open no more files",
            self._connections.times_out_of_files,
        )
