"""The keys of every bench with their units and targets, as the issues ask for them."""

from bench.figure import Aim, Better

MAIN = "main"

EVENT_P50 = "event_to_command_p50_ms"
EVENT_P99 = "event_to_command_p99_ms"
PAIRS_1 = "lease_pairs_per_s_1"
PAIRS_32 = "lease_pairs_per_s_32"
PAIRS_50 = "lease_pairs_per_s_50"
GEARD_1 = "geard_ratio_1"
GEARD_50 = "geard_ratio_50"
CLEANED = "cleaned_pairs_per_s"
TAIL_P95 = "log_tail_p95_ms"
LOG_RATE = "log_mb_per_s"
SERVER_RSS = "server_idle_rss_mb"
AGENT_RSS = "agent_idle_rss_mb"
DEMO = "demo_s"


def _aim(
    key: str, unit: str, better: Better, target: float | None, caption: str, *, decimals: int = 0
) -> tuple[str, Aim]:
    return key, Aim(bench=MAIN, key=key, unit=unit, better=better, target=target, caption=caption, decimals=decimals)


AIMS = dict(
    (
        _aim(
            EVENT_P50,
            "ms",
            Better.LOWER,
            50,
            "from Gerrit writing an event to its stream until the run's first command has started on a ready "
            "environment, by the clock of that command",
            decimals=1,
        ),
        _aim(EVENT_P99, "ms", Better.LOWER, 300, "the same, of one event in a hundred", decimals=1),
        _aim(
            PAIRS_32,
            "pairs/s",
            Better.HIGHER,
            1500,
            "acquire and release over HTTP with a token, 32 clients, environments with `reset: none`, every "
            "transition written and synced",
        ),
        _aim(PAIRS_1, "pairs/s", Better.HIGHER, None, "the same with 1 client"),
        _aim(PAIRS_50, "pairs/s", Better.HIGHER, None, "the same with 50 clients"),
        _aim(GEARD_1, "×", Better.HIGHER, 20, "pairs of Paddock for one of geard's, 1 client each", decimals=1),
        _aim(GEARD_50, "×", Better.HIGHER, 1.2, "pairs of Paddock for one of geard's, 50 clients each", decimals=1),
        _aim(
            CLEANED,
            "pairs/s",
            Better.HIGHER,
            100,
            "acquire and release of one-machine `local` environments, each cleaned by its host's agent in between, "
            "32 clients",
        ),
        _aim(
            TAIL_P95,
            "ms",
            Better.LOWER,
            200,
            "from a line written on the machine until each of 20 followers has it",
            decimals=1,
        ),
        _aim(LOG_RATE, "MB/s", Better.HIGHER, 30, "output of four machines through one server, synced", decimals=1),
        _aim(SERVER_RSS, "MB", Better.LOWER, 120, "resident memory of a server with one host and two machines, idle"),
        _aim(AGENT_RSS, "MB", Better.LOWER, 35, "resident memory of a machine's agent, idle", decimals=1),
        _aim(DEMO, "s", Better.LOWER, 15, "`./dev demo --once`, installed before", decimals=1),
    )
)
"""Key → aim, in the order of the table."""
