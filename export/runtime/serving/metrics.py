"""Metrics of a server in the text format of Prometheus."""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from .backend import Load

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Metrics:
    """Counts of requests and texts; times; and the ``load``, which is read when metrics are asked for."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self._registry = CollectorRegistry()
        given: dict[str, Any] = {"registry": self._registry, "namespace": "ld4lg"}
        labels = ("route", "status")
        self._requests = Counter("requests", "Answered requests.", labels, **given)
        self._seconds = Histogram(
            "request_seconds", "Time to the end of an answer.", ("route",), buckets=SECONDS, **given
        )
        self._first = Histogram(
            "first_event_seconds", "Time to the first event of a stream.", buckets=SECONDS, **given
        )
        self.texts = Counter("texts", "Finished texts.", **given)
        self.cancelled = Counter("cancelled", "Completions whose client went away.", **given)

        self._registry.register(_LoadCollector(load))

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first_event(self, seconds: float) -> None:
        self._first.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _LoadCollector(Collector):
    """Reads the load of the model when metrics are asked for."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load

    def collect(self) -> Iterable[Metric]:
        load = self._load()
        yield GaugeMetricFamily("ld4lg_running_samples", "Samples that are being denoised.", load.running)
        yield GaugeMetricFamily("ld4lg_waiting_samples", "Samples that wait to be denoised.", load.waiting)
        yield CounterMetricFamily("ld4lg_steps", "Steps of all batches.", load.steps)
