"""The server of a chaos run: a real one, killed and started again, asked over its API.

Effects: none that outlive it.
"""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from paddock.chaos import clock
from paddock.core.errors import Refused

HOST = "victim"
_SETTINGS = """\
- server: {{listen: '127.0.0.1:{port}', state: '{state}', host-grace: 7d, heartbeat: {heartbeat}s}}
- host: {{name: {host}, skills: [local]}}
"""
_LISTENS_WITHIN = 60.0
_AGAIN = 0.05
_PAGE = 500


class Served:
    """One server on one directory. `port` stays the same over all its lives."""

    def __init__(self, directory: Path, *, heartbeat: int) -> None:
        self.port = _free_port()
        self.clock = directory / "server.clock"
        self._directory = directory
        self._heartbeat = heartbeat
        self._process: subprocess.Popen[bytes] | None = None
        self._wants = False
        self._tending: asyncio.Task[None] | None = None
        self._http: httpx.AsyncClient | None = None
        self._token_file = directory / "server" / "operator.token"

    async def open(self) -> None:
        """Start it, and keep it started until `close`."""
        state = self._directory / "server"
        file = self._directory / "paddock.yaml"
        file.write_text(_SETTINGS.format(port=self.port, state=state, heartbeat=self._heartbeat, host=HOST))
        clock.write(self.clock, 0)
        self._wants = True
        self._tending = asyncio.create_task(self._tend(file))
        async with asyncio.timeout(_LISTENS_WITHIN):
            while not await self._listens():  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(_AGAIN)
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}/api/v1/",
            trust_env=False,
            timeout=20,
        )

    async def close(self) -> None:
        """End it."""
        self._wants = False
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait({self._tending})
        if self._http is not None:
            await self._http.aclose()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, 8)
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def signal(self, number: signal.Signals) -> None:
        """Kill, stop or go on."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def kill(self, *, off_for: float) -> None:
        """Kill it; it is started again after a while."""
        self._wants = False
        self.signal(signal.SIGKILL)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
        await asyncio.sleep(off_for)
        self._wants = True

    async def _tend(self, file: Path) -> None:
        """What is dead is started, as a supervisor would."""
        while True:
            if self._wants and (self._process is None or self._process.poll() is not None):
                self._process = self._start(file)
            await asyncio.sleep(_AGAIN)

    def _start(self, file: Path) -> "subprocess.Popen[bytes]":
        listen = f"127.0.0.1:{self.port}"
        words = ["paddock", "serve", str(file), "--listen", listen, "--log-level", "warning"]
        environment = surroundings(self._directory)
        with (self._directory / "server.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "paddock.chaos.clock", str(self.clock), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    async def _listens(self) -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            return True
        return False

    # What it is asked

    async def ask(self, method: str, path: str, **rest: Any) -> httpx.Response:
        """One answer, asked for again while the server is away. Refused for one of 4xx."""
        if self._http is None:
            raise AssertionError("it was not opened")
        while True:
            try:
                # Each life of a server writes another one.
                headers = {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
                answer = await self._http.request(method, path, headers=headers, **rest)
            except httpx.TransportError:
                await asyncio.sleep(_AGAIN)
                continue
            if answer.status_code >= 500 or answer.status_code == httpx.codes.UNAUTHORIZED:
                await asyncio.sleep(_AGAIN)
                continue
            if answer.is_error:
                raise Refused(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return answer

    async def enrol(self) -> str:
        """A code for the victim."""
        answer = await self.ask("POST", "enrolments", json={"host": HOST, "ttl": 86400})
        code: str = answer.json()["code"]
        return code

    async def agent(self) -> Mapping[str, Any]:
        """The victim's agent as the server knows it; empty before it has enrolled."""
        try:
            answer: Mapping[str, Any] = (await self.ask("GET", f"agents/{HOST}")).json()
        except Refused:
            return {}
        return answer

    async def order(self, method: str, params: Mapping[str, Any], *, id: str) -> Mapping[str, Any]:
        """Give a command, or give it again."""
        body = {"method": method, "params": params, "id": id}
        answer: Mapping[str, Any] = (await self.ask("POST", f"agents/{HOST}/commands", json=body)).json()
        return answer

    async def cancel(self, id: str) -> None:
        """End a command; one that has ended already stays as it is."""
        with suppress(Refused):
            await self.ask("POST", f"agents/{HOST}/commands/{id}/cancel", json={"grace": 0.5})

    async def commands(self, *states: str) -> AsyncIterator[Mapping[str, Any]]:
        """All commands in these states, newest first."""
        below: dict[str, str] = {}
        while True:
            query = {"state": list(states), "limit": _PAGE, **below}
            page = (await self.ask("GET", f"agents/{HOST}/commands", params=query)).json()
            for row in page["items"]:
                yield row
            if not page["next"]:
                return
            below = {"below": page["next"]}

    async def output(self, id: str) -> bytes:
        """All that the server has of what a command printed."""
        found = b""
        while True:
            query = {"offset": len(found), "limit": 16 << 20}
            answer = await self.ask("GET", f"agents/{HOST}/commands/{id}/output", params=query)
            found += answer.content
            if len(found) >= int(answer.headers["Paddock-Length"]) or not answer.content:
                return found


def surroundings(directory: Path) -> dict[str, str]:
    """The environment of what we start: nothing of the user's own server or agent."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")}
    package = Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
    return plain | {"XDG_STATE_HOME": str(directory / "record"), "PYTHONPATH": path}


def _end_with_parent() -> None:
    """In the child, before exec: a run that is killed takes its server along."""
    ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
