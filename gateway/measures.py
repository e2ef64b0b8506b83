"""What operators can measure of the gateway."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Measures:
    """Prometheus metrics in a registry of their own; label values are looked up once."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("hortus_gateway_requests", "Requests answered", ["service", "status"], registry=self.registry)
        self._seconds = Histogram(
            "hortus_gateway_seconds", "Time to the end of the answer", ["service"], buckets=BUCKETS, registry=self.registry
        )
        self._cut = Counter("hortus_gateway_cut", "Requests in flight that a lost right ended", registry=self.registry)
        self._unrecorded = Counter("hortus_gateway_unrecorded", "Refusals that nothing could record", registry=self.registry)
        self._counters: dict[tuple[str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def answered(self, service: str, status: int, seconds: float) -> None:
        """A request is over; ``status`` 0 when it was cut before an answer."""
        counter = self._counters.get((service, status))
        if counter is None:
            counter = self._counters[service, status] = self._requests.labels(service, str(status))
            self._histograms[service] = self._seconds.labels(service)
        counter.inc()
        self._histograms[service].observe(seconds)

    def cut(self, count: int) -> None:
        """Requests in flight were cut."""
        self._cut.inc(count)

    def unrecorded(self) -> None:
        """A refusal could not be recorded."""
        self._unrecorded.inc()

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show a value that is read when asked for."""
        Gauge(name, about, registry=self.registry).set_function(value)
