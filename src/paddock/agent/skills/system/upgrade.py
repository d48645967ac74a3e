"""Replaces the agent's own program: fetched, checked, tried, switched, then reported.

Effects: journaled by `agent.upgrading`. Until the switch is noted nothing has changed but a file in the versions'
directory, and a crash begins it again; from then on the journal tells which program should be there, and whether the
server has welcomed it.
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from paddock import __version__
from paddock.agent import durable
from paddock.agent.dialing import Server
from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Work, in_thread
from paddock.agent.upgrade import program, upgrading
from paddock.agent.upgrade.program import Program
from paddock.agent.upgrade.upgrading import BACK, SETTLED, SWITCHING, Journal
from paddock.core.errors import Broken, Refused
from paddock.hands import faults
from paddock.wire.framing import JSON
from paddock.wire.hello import Hello
from paddock.wire.messages import Code

if TYPE_CHECKING:
    from ssl import SSLContext

_log = logging.getLogger(__name__)

MOST = 256 << 20
"""Bytes of a program."""
_FETCH_LIMIT = timedelta(minutes=10)
_VERSION_LIMIT = 30.0
_START_LIMIT = 5.0
"""Seconds that a trial may take beyond its own limit."""
_LEAVE_LIMIT = 8.0
"""Seconds until the switch is made without the old program's last words."""
_BUSY = "agent: is being upgraded"


def deeds(place: Place) -> Mapping[str, Deed]:
    """agent.upgrade."""
    upgrade = Upgrade(place)
    return {"agent.upgrade": Work(act=upgrade.act, resume=upgrade.resume, told=upgrade.told)}


class Upgrade:
    """The steps of one upgrade, in the old program and in the new one."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._life = place.life

    async def act(self, call: Call) -> Outcome:
        """Up to the switch; after that this process is another program."""
        this = self._checked()
        wanted, within = call.text("sha256"), call.seconds("within", 60).total_seconds()
        before = await in_thread(lambda: program.digest(this.path))
        if before == wanted:
            return _done(wanted, before=__version__, changed=False)
        if self._life.busy:
            raise Refused(self._life.busy)
        stored = await self._fetch(call, this)
        version = await in_thread(lambda: version_of(this, stored))
        call.progress(50, None)
        _log.info("a new program is tried", extra={"version": version, "sha256": wanted})
        await self._try(this, stored, within)
        call.progress(80, None)
        self._life.busy = _BUSY
        try:
            await self._be_alone(within)
            await in_thread(this.keep)
            journal = Journal(
                task=call.task, step=SWITCHING, before=before, wanted=wanted, version=__version__, within=within
            )
            await in_thread(lambda: upgrading.switch(self._place.state, this, journal))
        except BaseException:
            self._life.busy = ""
            raise
        return await self._become(this)

    async def resume(self, call: Call) -> Outcome:
        """At birth: in the old program before the switch or after it failed, in the new one after it."""
        state = self._place.state
        journal, this = upgrading.load(state), program.running()
        if journal is None or journal.task != call.task or this is None:
            return await self.act(call)
        running = await in_thread(lambda: program.digest(this.path))
        match journal.step:
            case upgrading.SWITCHING if running == journal.before:
                # Noted, and not put there yet.
                await in_thread(lambda: upgrading.switch(state, this, journal))
                return await self._become(this)
            case upgrading.SWITCHING if running == journal.wanted:
                # Either it is welcome, which settles it, or this process becomes the old program.
                await self._life.welcomed.wait()
                return await self._report(this, journal)
            case upgrading.SETTLED if running == journal.wanted:
                return await self._report(this, journal)
            case upgrading.BACK if running == journal.before:
                return Outcome(code=Code.FAILED, msg=f"{journal.wanted[:12]}: {journal.why}; the old program is back")
        return Outcome(code=Code.FAILED, msg=f"{this.path}: was replaced by somebody else meanwhile")

    async def told(self, task: str) -> None:
        """The server knows how it ended."""
        journal = upgrading.load(self._place.state)
        if journal is not None and journal.task == task and journal.step in (SETTLED, BACK):
            await in_thread(lambda: upgrading.forget(self._place.state))

    def _checked(self) -> Program:
        this = program.running()
        if self._place.machine:
            raise Refused(f"{self._place.machine}: runs its host's program", hint="upgrade the host's agent")
        if this is None:
            raise Refused("agent.upgrade: this agent is a Python package", hint="pip install --upgrade paddock")
        if not this.is_ours:
            raise Refused(
                f"{this.path}: the agent's user may not replace it",
                hint="run the new program's `configure` as root",
            )
        return this

    async def _fetch(self, call: Call, this: Program) -> Path:
        from paddock.agent import fetching

        wanted = call.text("sha256")
        stored = this.stored(wanted)
        faults.at("upgrade.fetching")
        if await in_thread(lambda: program.digest(stored)) != wanted:
            url = call.text("url")
            server = self._place.carrying.server if self._place.carrying is not None else None
            what = fetching.Wanted(url=url, sha256=wanted, most=MOST, trust=trust_for(url, server))
            await fetching.fetch(what, stored, limit=call.limit or _FETCH_LIMIT)
        await in_thread(lambda: _make_program(stored))
        faults.at("upgrade.fetched")
        return stored

    async def _try(self, this: Program, stored: Path, within: float) -> None:
        hello = await self._hello(within)
        asked = {"within": within, "hello": hello.params() if hello is not None else None}
        environment = {**self._life.environment, program.TRIAL: "1"}
        environment.pop("NOTIFY_SOCKET", None)  # systemd shall not hear of it
        words = (*this.words(stored), *sys.argv[1:])
        faults.at("upgrade.trying")
        said = await in_thread(lambda: _run(words, json.dumps(asked), environment, limit=within + _START_LIMIT))
        faults.at("upgrade.tried")
        try:
            found = json.loads(said.splitlines()[-1])
        except (ValueError, IndexError):
            raise Broken("the new program: says nothing about its trial") from None
        if hello is not None and not found.get("is_welcome"):
            raise Broken("the new program: was not welcome at the server")

    async def _hello(self, within: float) -> Hello | None:
        """What the new program is to say; None where only one program at a time can speak."""
        if self._place.carrying is None:
            return None
        try:
            async with asyncio.timeout(within):
                await self._life.welcomed.wait()
        except TimeoutError:
            raise Broken(f"agent: the server does not welcome the old program within {within:g} s") from None
        return self._life.hello()

    async def _be_alone(self, within: float) -> None:
        """What runs inside of this process would be lost with it; what keepers hold goes on."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while self._life.works() > 1:
            if loop.time() > deadline:
                others = self._life.works() - 1
                raise Broken(f"agent: {others} commands that cannot be interrupted still run after {within:g} s")
            await asyncio.sleep(0.05)

    async def _become(self, this: Program) -> Outcome:
        words = (*this.words(), *sys.argv[1:])
        _log.warning("the agent becomes its new program", extra={"path": str(this.path)})
        last = threading.Timer(_LEAVE_LIMIT, self._life.succeed)
        last.daemon = True
        last.start()
        self._life.become(words)
        await asyncio.Event().wait()
        raise AssertionError("somebody else runs here")

    async def _report(self, this: Program, journal: Journal) -> Outcome:
        await in_thread(lambda: this.forget(but=(journal.wanted, journal.before)))
        return _done(journal.wanted, before=journal.version, changed=True)


def _done(sha256: str, *, before: str, changed: bool) -> Outcome:
    result: dict[str, JSON] = {"version": __version__, "sha256": sha256, "before": before, "changed": changed}
    return Outcome(result=result)


def trust_for(url: str, server: Server | None) -> "SSLContext | None":
    """Our own server is trusted as it is with our token, everybody else as the system does (None)."""
    if server is None:
        return None
    own = {urlsplit(one).netloc for one in server.urls}
    return server.ssl if urlsplit(url).netloc in own else None


def version_of(this: Program, stored: Path) -> str:
    """What a program says of its version. Broken for one that does not start."""
    environment = {name: value for name, value in os.environ.items() if name != program.TRIAL}
    return _run((*this.words(stored), "--version"), "", environment, limit=_VERSION_LIMIT).strip()[-100:]


def _run(words: tuple[str, ...], stdin: str, environment: Mapping[str, str], *, limit: float) -> str:
    try:
        done = subprocess.run(
            words, input=stdin.encode(), capture_output=True, timeout=limit, check=False, env=dict(environment)
        )
    except subprocess.TimeoutExpired:
        raise Broken(f"the new program: has not ended within {limit:g} s") from None
    except OSError as exc:
        raise Broken(f"the new program: {exc.strerror}") from exc
    if done.returncode != 0:
        why = done.stderr.decode("utf-8", "replace").strip()[-500:]
        raise Broken(f"the new program: ended with {done.returncode}: {why}")
    return done.stdout.decode("utf-8", "replace")


def _make_program(stored: Path) -> None:
    """Durable, and allowed to run."""
    handle = os.open(stored, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(handle, 0o755)
        os.fsync(handle)
    finally:
        os.close(handle)
    durable.sync(stored.parent)
