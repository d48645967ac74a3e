"""The peer in lending: geard and gear from PyPI, whose lock is a running job, as TripleO's test environments had it.

Run as `python -m bench.gearman broker|workers|clients ...`: broker, workers and clients each in a process of their own.
A lock is a `lockenv` job that a worker has grabbed; it is released by completing it. One worker is one environment.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import gear

HOST = "127.0.0.1"
FUNCTION = b"lockenv"
NAME = "geard + gear 0.16, in memory"


def pairs_per_second(clients: int, *, seconds: float, runs: int) -> list[float]:
    """Lock and release with as many environments as clients; pairs a second, in each run."""
    with _started("broker") as broker:
        port = _line(broker)
        with _started("workers", port, str(clients)) as workers:
            _line(workers)
            with _started("clients", port, str(clients), str(seconds), str(runs)) as borrowers:
                rates: list[float] = json.loads(_line(borrowers))
                return rates


@contextlib.contextmanager
def _started(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([sys.executable, "-m", "bench.gearman", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args!r} ended before it said anything")
    return line


def broker() -> None:
    """geard as it is installed, without its debug log, on a free port."""
    print(gear.Server(0, host=HOST).port, flush=True)
    threading.Event().wait()


def workers(port: int, count: int) -> None:
    """Environments: each takes a job and completes it, which is the release that its client waits for."""
    for number in range(count):
        worker = gear.Worker(f"environment-{number}")
        worker.addServer(HOST, port)
        worker.waitForServer()
        worker.registerFunction(FUNCTION)
        threading.Thread(target=_lend, args=(worker,), daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


def _lend(worker: "gear.Worker") -> None:
    while True:
        worker.getJob().sendWorkComplete(b"")


class _Client(gear.Client):  # type: ignore[misc]  # gear has no types
    """A client that can be waited for: `ended` is set when its job is complete."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    def handleWorkComplete(self, packet: "gear.Packet") -> "gear.Job":  # noqa: N802  (gear's name)
        job = super().handleWorkComplete(packet)
        self.ended.set()
        return job


def clients(port: int, count: int, seconds: float, runs: int) -> None:
    """Lock and release without a pause; pairs a second of all clients together, in each run."""
    pairs = [0] * count
    for number in range(count):
        client = _Client()
        client.addServer(HOST, port)
        client.waitForServer()
        threading.Thread(target=_borrow, args=(client, pairs, number), daemon=True).start()
    time.sleep(min(1.0, seconds))
    rates = []
    for _ in range(runs):
        before, began = sum(pairs), time.perf_counter()
        time.sleep(seconds)
        rates.append((sum(pairs) - before) / (time.perf_counter() - began))
    print(json.dumps(rates), flush=True)


def _borrow(client: _Client, pairs: list[int], number: int) -> None:
    while True:
        client.ended.clear()
        client.submitJob(gear.Job(FUNCTION, b"{}", uuid.uuid4().hex.encode()))
        client.ended.wait()
        pairs[number] += 1


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "broker":
        broker()
    elif role == "workers":
        workers(int(rest[0]), int(rest[1]))
    else:
        clients(int(rest[0]), int(rest[1]), float(rest[2]), int(rest[3]))
