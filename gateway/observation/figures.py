"""The figures that Prometheus scrapes. docs/metrics.md lists them, and the dashboard draws them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.observation.queues import Queues

PREFIX = "training_orchestrator_"


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures at one moment."""

    prefect_up: bool = False
    queues: Queues = field(default_factory=Queues)
    gpu_seconds: float = 0.0
    usd: float = 0.0
    stream_clients: int = 0
    stream_jobs: int = 0
    stream_dropped: int = 0
    stream_cut_off: int = 0
    points: int = 0


class FiguresCollector(Collector):
    """Gives the figures that were put into it last, under their names."""

    def __init__(self) -> None:
        self.figures = Figures()

    def collect(self) -> Iterator[Metric]:
        """Yield all figures."""
        now = self.figures
        yield _gauge("prefect_up", "Whether Prefect's API answered.", float(now.prefect_up))
        jobs = GaugeMetricFamily(f"{PREFIX}jobs", "Jobs by state.", labels=["state"])
        for state, count in now.queues.jobs.items():
            jobs.add_metric([str(state)], count)
        yield jobs
        waiting = GaugeMetricFamily(f"{PREFIX}queue_jobs", "Jobs that wait.", labels=["pool"])
        for pool, count in now.queues.waiting.items():
            waiting.add_metric([pool], count)
        yield waiting
        text = "For how long the job has waited that has waited longest."
        longest = GaugeMetricFamily(f"{PREFIX}queue_wait_seconds", text, labels=["pool"])
        for pool, seconds in now.queues.longest.items():
            longest.add_metric([pool], seconds)
        yield longest
        yield _counter(
            "gpu_seconds", "GPU-seconds that jobs had, each GPU counted.", now.gpu_seconds
        )
        yield _counter("cost_usd", "What jobs cost on rented machines.", now.usd)
        yield _gauge("stream_clients", "Clients that watch a job.", now.stream_clients)
        yield _gauge("stream_jobs", "Jobs that are watched.", now.stream_jobs)
        text = "Metrics that made room for newer ones, because a client was slow."
        yield _counter("stream_dropped", text, now.stream_dropped)
        text = "Clients that were cut off because they did not read."
        yield _counter("stream_cut_off", text, now.stream_cut_off)
        yield _counter("metric_points", "Values of metrics that were stored.", now.points)


def new_registry(collector: FiguresCollector) -> CollectorRegistry:
    """Return a registry of our figures alone: Prefect keeps its own in that of the process."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}{name}", text, value=value)
