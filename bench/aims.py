"""The keys of every bench with their units and targets, as the issues ask for them."""

from collections.abc import Mapping

from bench.figure import Aim, Better

MAIN = "main"
AGENT = "agent"
MACHINES = "machines"

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

NOOP_P50 = "noop_p50_ms"
NOOP_P99 = "noop_p99_ms"
BURST = "burst_commands_per_s"
BURST_RATIO = "burst_3000_ratio"
SCRIPTS = "scripts_per_s"
OUTPUT = "output_mb_per_s"
START = "start_to_hello_ms"
IDLE_RSS = "agent_idle_rss_mb"
IDLE_CPU = "agent_idle_cpu_percent"

CLONE = "clone_p95_ms"
CLONE_1 = "clone_1gib_p95_ms"
CLONE_BTRFS = "clone_btrfs_p95_ms"
CLONE_XFS = "clone_xfs_p95_ms"
FORK_P50 = "fork_hello_p50_ms"
FORK_P95 = "fork_hello_p95_ms"
FORK_COLD = "fork_vs_cold_ratio"
FORK_MEMORY = "fork_own_memory_share"
VIRSH = "virsh_restore_ms"
TURNAROUND = "turnaround_two_machines_s"
SWITCH_RATE = "switch_mb_per_s"
SWITCH_DELAY = "switch_round_trip_us"
SWITCH_RSS = "switch_rss_mb"


def _aims(bench: str, *rows: tuple[str, str, Better, float | None, str, int]) -> dict[str, Aim]:
    return {
        key: Aim(bench=bench, key=key, unit=unit, better=better, target=target, caption=caption, decimals=decimals)
        for key, unit, better, target, caption, decimals in rows
    }


AIMS: Mapping[str, Mapping[str, Aim]] = {
    MAIN: _aims(
        MAIN,
        (
            EVENT_P50,
            "ms",
            Better.LOWER,
            50,
            "from Gerrit writing an event to its stream until the run's first command has started on a ready "
            "environment, by the clock of that command",
            1,
        ),
        (EVENT_P99, "ms", Better.LOWER, 300, "the same, of one event in a hundred", 1),
        (
            PAIRS_32,
            "pairs/s",
            Better.HIGHER,
            1500,
            "acquire and release over HTTP with a token, 32 clients, environments with `reset: none`, every "
            "transition written and synced",
            0,
        ),
        (PAIRS_1, "pairs/s", Better.HIGHER, None, "the same with 1 client", 0),
        (PAIRS_50, "pairs/s", Better.HIGHER, None, "the same with 50 clients", 0),
        (GEARD_1, "×", Better.HIGHER, 20, "pairs of Paddock for one of geard's, 1 client each", 1),
        (GEARD_50, "×", Better.HIGHER, 1.2, "pairs of Paddock for one of geard's, 50 clients each", 1),
        (
            CLEANED,
            "pairs/s",
            Better.HIGHER,
            100,
            "acquire and release of one-machine `local` environments, each cleaned by its host's agent in between, "
            "32 clients",
            0,
        ),
        (TAIL_P95, "ms", Better.LOWER, 200, "from a line written on the machine until each of 20 followers has it", 1),
        (LOG_RATE, "MB/s", Better.HIGHER, 30, "output of four machines through one server, synced", 1),
        (SERVER_RSS, "MB", Better.LOWER, 120, "resident memory of a server with one host and two machines, idle", 0),
        (AGENT_RSS, "MB", Better.LOWER, 35, "resident memory of a machine's agent, idle", 1),
        (DEMO, "s", Better.LOWER, 15, "`./dev demo --once`, installed before", 1),
    ),
    AGENT: _aims(
        AGENT,
        (
            NOOP_P50,
            "ms",
            Better.LOWER,
            1.5,
            "a command that does nothing, journalled and synced, one after the other",
            2,
        ),
        (NOOP_P99, "ms", Better.LOWER, 10, "the same, of one command in a hundred", 2),
        (BURST, "commands/s", Better.HIGHER, 2000, "the same commands, 100 of them unanswered at any time", 0),
        (BURST_RATIO, "×", Better.HIGHER, 1, "commands a second with 3,000 unanswered for one with 100", 2),
        (
            SCRIPTS,
            "scripts/s",
            Better.HIGHER,
            150,
            "`true` as a script with a keeper of its own, 16 at a time; ssh runs "
            "it over one connection that stays open, 8 at a time (dcm-agent ran 4 a second)",
            0,
        ),
        (OUTPUT, "MB/s", Better.HIGHER, 50, "output of one script through its agent, to disk at the server", 1),
        (START, "ms", Better.LOWER, 250, "from the start of an agent's process until its hello is answered", 0),
        (
            IDLE_RSS,
            "MB",
            Better.LOWER,
            35,
            "resident memory of a host's agent with Paddock's own skills, idle",
            1,
        ),
        (IDLE_CPU, "%", Better.LOWER, 0.5, "of one core, used by it meanwhile", 2),
    ),
    MACHINES: _aims(
        MACHINES,
        (
            FORK_P50,
            "ms",
            Better.LOWER,
            250,
            "a machine of 384 MiB forked from a warm one, until the server has answered the hello of the agent inside, "
            "who is somebody else by then",
            0,
        ),
        (FORK_P95, "ms", Better.LOWER, 400, "the same, of one fork in twenty", 0),
        (
            VIRSH,
            "ms",
            Better.LOWER,
            None,
            "beside it: the same guest, saved by libvirt: from `virsh restore` until that returns; it is the one that "
            "was saved, and has said nothing yet",
            0,
        ),
        (FORK_COLD, "×", Better.HIGHER, 50, "how much longer a cold boot of the same image takes, until the same", 0),
        (
            FORK_MEMORY,
            "%",
            Better.LOWER,
            15,
            "of the memory of 60 machines of 384 MiB that were forked at once: what they have written to, together",
            1,
        ),
        (TURNAROUND, "s", Better.LOWER, 1, "from the release of a two-machine environment until it is ready again", 2),
        (
            CLONE,
            "ms",
            Better.LOWER,
            15,
            "one in twenty clones of a sparse disk of 20 GiB with 256 MiB in it takes longer; qcow2 overlay, any file "
            "system",
            2,
        ),
        (CLONE_1, "ms", Better.LOWER, 15, "the same for a disk of 1 GiB", 2),
        (CLONE_BTRFS, "ms", Better.LOWER, 15, "the disk of 20 GiB on btrfs, by a snapshot of its subvolume", 2),
        (CLONE_XFS, "ms", Better.LOWER, 15, "the disk of 20 GiB on XFS, by reflink", 2),
        (
            SWITCH_RATE,
            "MB/s",
            Better.HIGHER,
            None,
            "frames of 1,500 bytes from one card to another through the switch of a private network without root",
            0,
        ),
        (SWITCH_DELAY, "µs", Better.LOWER, None, "one frame there and one back through that switch, p50", 0),
        (SWITCH_RSS, "MB", Better.LOWER, None, "resident memory of that switch", 1),
    ),
}
"""Bench → key → aim, in the order of the tables."""
