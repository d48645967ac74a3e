"""Figures for /metrics: counted while requests are served, or when somebody asks."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paddock.core import command, environment, lease, run
from paddock.ports import Tables

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Figures:
    """What the server counts about itself. Each app has its own registry, so that two of them never mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._http = Histogram(
            "paddock_http_seconds",
            "Time from a request to the end of its answer; live streams are left out.",
            ("method", "route", "code"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._children: dict[tuple[str, str, int], Histogram] = {}

    def served(self, method: str, route: str, code: int, seconds: float) -> None:
        """Count one answered request. `route` is the route's template, so that there are few of them."""
        key = (method, route, code)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._http.labels(method, route, str(code))
        child.observe(seconds)

    def page(self, counted: Iterable[Metric]) -> bytes:
        """The exposition: what was counted all along, then `counted`."""
        registry = CollectorRegistry()
        registry.register(_Counted(counted))
        return generate_latest(self._registry) + generate_latest(registry)


class _Counted(Collector):
    """Metrics that were counted just now."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def count(tables: Tables, *, now: datetime, writes: int) -> list[Metric]:
    """Count the rows; ended runs and leases are counted in the store, only open ones are looked at."""
    return [
        _environments(tables),
        *_leases(tables, now),
        *_runs(tables, now),
        _commands(tables),
        CounterMetricFamily("paddock_store_rows_written", "Rows written since the server started.", value=writes),
    ]


def _environments(tables: Tables) -> Metric:
    family = GaugeMetricFamily("paddock_environments", "Environments by pool and state.", labels=("pool", "state"))
    rows = tables.environments.where(state=sorted(environment.LIVE))
    for (pool, state), number in sorted(Counter((row.pool, row.state.value) for row in rows).items()):
        family.add_metric((pool, state), number)
    return family


def _leases(tables: Tables, now: datetime) -> list[Metric]:
    states = GaugeMetricFamily("paddock_leases", "Leases by state.", labels=("state",))
    for state in lease.State:
        states.add_metric((state.value,), tables.leases.count(state=state))
    waiting = GaugeMetricFamily("paddock_queue_length", "Leases that wait, by pool.", labels=("pool",))
    oldest = GaugeMetricFamily(
        "paddock_queue_age_seconds", "Age of the oldest waiting lease, by pool.", labels=("pool",)
    )
    queued = tables.leases.where(state=lease.State.QUEUED)
    asked: dict[str, list[datetime]] = {}
    for row in queued:
        asked.setdefault(row.pool, []).append(row.asked)
    for pool, moments in sorted(asked.items()):
        waiting.add_metric((pool,), len(moments))
        oldest.add_metric((pool,), max(0.0, (now - min(moments)).total_seconds()))
    return [states, waiting, oldest]


def _runs(tables: Tables, now: datetime) -> list[Metric]:
    states = GaugeMetricFamily("paddock_runs", "Runs by state.", labels=("state",))
    for state in run.State:
        states.add_metric((state.value,), tables.runs.count(state=state))
    verdicts = GaugeMetricFamily("paddock_verdicts", "Runs that are done, by verdict.", labels=("verdict",))
    for verdict in run.Verdict:
        verdicts.add_metric((verdict.value,), tables.runs.count(state=run.State.DONE, verdict=verdict))
    oldest = GaugeMetricFamily("paddock_oldest_run_seconds", "Age of the oldest run that is not done.")
    living = [state for state in run.State if state is not run.State.DONE]
    first = tables.runs.where(state=living, limit=1)
    oldest.add_metric((), max(0.0, (now - first[0].created).total_seconds()) if first else 0.0)
    return [states, verdicts, oldest]


def _commands(tables: Tables) -> Metric:
    family = GaugeMetricFamily("paddock_commands", "Commands by state.", labels=("state",))
    for state in command.State:
        family.add_metric((state.value,), tables.commands.count(state=state))
    return family
