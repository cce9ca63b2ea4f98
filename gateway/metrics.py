"""What a running gateway counts, for Prometheus: a registry of its own, bounded label sets, nothing global.

What belongs to every request is counted in plain numbers and made into metrics when they are asked for: a counter of
prometheus-client takes a lock and as long as all the counting here. Nothing that a client sends becomes a label.
"""

import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

import prometheus_client as prometheus
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import __version__

_PREFIX: Final = "matrix_login_gateway"
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))
# A read of the database takes 0.1 ms, and the homeserver may take 30 s.
_SECONDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
)
# The label of an entry of the configuration that takes the tokens of any issuer, and of a login that meets no entry.
ANY_ISSUER: Final = "any"
_NO_ISSUER: Final = "none"


class Traffic:
    """How many requests were answered, by (method, status, whether the answer was the homeserver's), and their bytes.

    Status 0: the client left before the answer. Bytes are those of bodies, counted when a request ends.
    """

    __slots__ = ("answers", "received", "sent")

    def __init__(self) -> None:
        self.answers: defaultdict[tuple[str, int, bool], int] = defaultdict(int)
        self.received = 0
        self.sent = 0


@dataclass(frozen=True, slots=True)
class Live:
    """What is so at the moment; ages in seconds, by the name of the issuer."""

    open_requests: int = 0
    client_connections: int = 0
    upstream_busy: int = 0
    upstream_idle: int = 0
    key_set_ages: Mapping[str, float] = field(default_factory=dict)
    tasks: int = 0


class Metrics:
    """The metrics of one gateway; `live` tells what is so when they are asked for."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.live: Callable[[], Live] = Live
        self._registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self._registry)
        self._registry.register(_Current(self))
        self._logins = prometheus.Counter(
            f"{_PREFIX}_logins",
            "Logins with a token, by issuer of the configuration and by what came of them.",
            ("issuer", "outcome"),
            registry=self._registry,
        )
        self._login_seconds = prometheus.Histogram(
            f"{_PREFIX}_login_seconds",
            "What the steps of a login took.",
            ("step",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._database_seconds = prometheus.Histogram(
            f"{_PREFIX}_database_seconds",
            "What the uses of the database took.",
            ("operation",),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def count_login(self, issuer: str, outcome: str) -> None:
        """Count a login; `issuer` is the name of an entry of the configuration, "" where none was chosen."""
        self._logins.labels(issuer or _NO_ISSUER, outcome).inc()

    def login_step(self, step: str) -> AbstractContextManager[object]:
        """Note what the context takes, as a step of a login."""
        return self._login_seconds.labels(step).time()

    def database_use(self, operation: str) -> AbstractContextManager[object]:
        """Note what the context takes, as a use of the database."""
        return self._database_seconds.labels(operation).time()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that an `Accept` field asks for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


class _Current(Collector):
    """Makes metrics of the plain numbers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from _of_traffic(self._metrics.traffic)
        live = self._metrics.live()
        yield GaugeMetricFamily(f"{_PREFIX}_open_requests", "Requests at work.", live.open_requests)
        yield GaugeMetricFamily(f"{_PREFIX}_client_connections", "Connections of clients.", live.client_connections)
        upstream = GaugeMetricFamily(
            f"{_PREFIX}_upstream_connections", "Connections to the homeserver.", labels=("state",)
        )
        upstream.add_metric(("busy",), live.upstream_busy)
        upstream.add_metric(("idle",), live.upstream_idle)
        yield upstream
        ages = GaugeMetricFamily(
            f"{_PREFIX}_key_set_age_seconds", "Time since an issuer's key set was fetched.", labels=("issuer",)
        )
        for issuer, age in live.key_set_ages.items():
            ages.add_metric((issuer,), age)
        yield ages
        yield GaugeMetricFamily(f"{_PREFIX}_tasks", "Tasks of the event loop.", live.tasks)
        build = GaugeMetricFamily(
            f"{_PREFIX}_build_info", "Always 1; the labels say which program runs.", labels=("version", "python")
        )
        build.add_metric((__version__, platform.python_version()), 1)
        yield build


def _of_traffic(traffic: Traffic) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        f"{_PREFIX}_requests",
        "Requests, by whose answer the client got: relayed (the homeserver's), own (the gateway's), none (it left).",
        labels=("method", "status", "answer"),
    )
    sums: Counter[tuple[str, str, str]] = Counter()
    for (method, status, relayed), count in dict(traffic.answers).items():
        answer = "relayed" if relayed else "own" if status else "none"
        sums[method, f"{status // 100}xx" if status else "none", answer] += count
    for labels, count in sums.items():
        requests.add_metric(labels, count)
    yield requests
    yield CounterMetricFamily(f"{_PREFIX}_received_bytes", "Bytes of request bodies.", traffic.received)
    yield CounterMetricFamily(f"{_PREFIX}_sent_bytes", "Bytes of the bodies of answers.", traffic.sent)
