"""Followers in a process of their own: server-sent events of one log, and how old each line is when it arrives.

Run as `python -m bench.following PLAN`; says `ready` when all have been answered, then a JSON object. A line of the log
begins with the nanoseconds (wall clock) at which it was written.
"""

import asyncio
import base64
import json
import sys
import time
from dataclasses import asdict, dataclass

import uvloop


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who follows what."""

    port: int
    path: str
    followers: int


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Age of each line at each follower, in milliseconds."""

    ages: tuple[float, ...]


async def _follow(plan: Plan, began: asyncio.Event) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", plan.port, limit=1 << 20)
    writer.write(f"GET {plan.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(head.decode(errors="replace"))
    began.set()
    ages: list[float] = []
    rest = event = b""
    while line := await reader.readline():
        if line.startswith(b"event: "):
            event = line[7:].strip()
        elif line.startswith(b"data: ") and event == b"output":
            arrived = time.time_ns()
            *lines, rest = (rest + base64.b64decode(json.loads(line[6:])["data"])).split(b"\n")
            ages += [(arrived - int(each.split()[0])) / 1e6 for each in lines]
        elif line.startswith(b"data: ") and event == b"end":
            break
    writer.close()
    return ages


async def follow(plan: Plan) -> Followed:
    """Follow to the end of the log."""
    began = [asyncio.Event() for _ in range(plan.followers)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_follow(plan, each)) for each in began]
        for each in began:
            await each.wait()
        print("ready", flush=True)
    return Followed(ages=tuple(age for task in tasks for age in task.result()))


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(follow(Plan(**json.loads(sys.argv[1])))))), flush=True)
