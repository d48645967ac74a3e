"""One agent from start to stop: its parts, and the words that begin a session.

Effects: journaled by the ledger; enrolment is once, its answer made durable before anything else is said.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from paddock.agent import dialing, identity, settings, skills
from paddock.agent.channel import Carrying
from paddock.agent.conversation import Conversation
from paddock.agent.dialing import Hopeless, Server, Unwelcome
from paddock.agent.duty import keep
from paddock.agent.entry import Moment
from paddock.agent.floor import Floor
from paddock.agent.identity import Identity
from paddock.agent.ledger import Ledger, Unwritable
from paddock.agent.logs import Logs
from paddock.agent.settings import Settings, WrongUse
from paddock.agent.skills.skill import Place
from paddock.agent.skills.system import SOFTWARE, facts
from paddock.agent.worker import Worker
from paddock.core.errors import Broken, PaddockError, Refused
from paddock.hands import faults, links
from paddock.hands.keeper import boot_id
from paddock.hands.launcher import Launcher
from paddock.hands.links import Link
from paddock.hands.trees import Cgroup
from paddock.wire.hello import Enrol, Hello, Status
from paddock.wire.messages import Code

_log = logging.getLogger(__name__)

_PRUNE_EVERY = 3600.0
_ADD = "paddock host add NAME makes a code, and prints the command that uses it"
_STOP_LIMIT = timedelta(seconds=2)
_LEAVE_LIMIT = 4.5  # seconds from the signal, whatever the server or the disk does


class Agent:
    """Speaks for one machine. `ready` is set once it serves or dials."""

    def __init__(self, chosen: Settings) -> None:
        self._settings = chosen
        self._boot_id = boot_id()
        self._worker: Worker | None = None
        self._conversation: Conversation | None = None
        self._stop = asyncio.Event()
        self._accepted: Identity | None = None  # with the token that the server took last
        self._tries_old_token = False
        self._hopeless: Hopeless | None = None
        self._kept: list[asyncio.Task[None]] = []
        self._logs = Logs(level=logging.getLevelName(chosen.log_level.upper()))
        self.ready = asyncio.Event()

    def stop(self) -> None:
        """Finish what this process is at, then leave; what keepers hold goes on."""
        self._stop.set()

    async def run(self) -> None:
        """Live until `stop`.

        Raises WrongUse for settings that cannot be meant; Refused for a state directory that cannot be used or that
        another agent lives on; Hopeless if the server refuses to enrol it.
        """
        chosen = self._settings
        self._check_skills()
        server = self._server() if chosen.line is None else None
        with contextlib.ExitStack() as held:
            with settings.opening(chosen):
                if server is not None and not chosen.code and identity.load(chosen.state) is None:
                    raise WrongUse(f"{chosen.state}: no identity yet, and no --code", hint=_ADD)
                settings.prepare(chosen)
                held.enter_context(settings.locked(chosen))
                if chosen.cgroup is not None:
                    with contextlib.suppress(OSError):
                        Cgroup(path=chosen.cgroup).add(0)
                identity.sign_in(chosen.state)
                ledger = await asyncio.to_thread(Ledger.open, chosen.ledger)
            logger = logging.getLogger("paddock")
            logger.addHandler(self._logs)
            try:
                # A machine without isolation has a group already: its tasks' lie below it.
                async with Launcher(grouping=not chosen.machine) as launcher:
                    await self._live(ledger, launcher, server)
            except* PaddockError as broken:
                # The operator is told why, not where: the first duty that broke ended the others.
                raise _first(broken) from broken
            finally:
                logger.removeHandler(self._logs)
                await ledger.close()
        if self._hopeless is not None:
            raise self._hopeless

    def _check_skills(self) -> None:
        try:
            skills.known(self._settings.skills)
        except Refused as exc:
            raise WrongUse(f"--skills {exc.message}", hint=exc.hint) from exc

    async def _live(self, ledger: Ledger, launcher: Launcher, server: Server | None) -> None:
        if ledger.set_aside is not None:
            _log.error("the ledger was corrupt, a new one begins", extra={"kept_as": str(ledger.set_aside)})
        async with asyncio.TaskGroup() as group:
            place = self._place(ledger, server, group)
            async with skills.opened(place, self._settings.skills) as known:
                worker = Worker(
                    settings=self._settings,
                    ledger=ledger,
                    launcher=launcher,
                    place=place,
                    skills=known,
                    group=group,
                    tell=self._tell,
                    moment=self._moment,
                )
                self._worker = worker
                self._logs.attach(asyncio.get_running_loop(), worker.news)
                await worker.recover()
                speaking = group.create_task(self._speak(worker, ledger, place, server))
                pruning = group.create_task(self._prune(ledger))
                # Waits for: stop; a duty that breaks ends the group, and this with it.
                await self._stop.wait()
                await worker.stop(limit=_STOP_LIMIT)
                speaking.cancel()
                pruning.cancel()
                for duty in self._kept:
                    duty.cancel()
                worker.leave()

    def _place(self, ledger: Ledger, server: Server | None, group: asyncio.TaskGroup) -> Place:
        chosen = self._settings
        is_machine = bool(chosen.machine)
        return Place(
            work=chosen.work,
            temporary=chosen.temporary,
            tasks=chosen.tasks,
            state=chosen.state,
            keep=lambda name, duty: self._kept.append(group.create_task(keep(name, duty))),
            running=lambda: self._worker.count if self._worker else 0,
            carrying=self._carrying(ledger, server),
            environment=chosen.environment,
            machine=chosen.machine,
            address=chosen.address,
            floor=Floor(chosen.state) if is_machine else None,
            cgroup=chosen.cgroup,
        )

    def _carrying(self, ledger: Ledger, server: Server | None) -> Carrying | None:
        if server is None:
            return None
        return Carrying(
            server=server,
            identity=lambda: self._accepted or identity.load(self._settings.state),
            ledger=ledger,
            hidden=self._settings.hidden,
            walled=self._settings.bubblewrap,
        )

    # Speaking

    async def _speak(self, worker: Worker, ledger: Ledger, place: Place, server: Server | None) -> None:
        if self._settings.line is not None:
            await self._serve(self._settings.line, worker, ledger, place)
        elif server is not None:
            self.ready.set()
            try:
                await dialing.keep(server, lambda link: self._converse(link, worker, ledger, place), subject="server")
            except Hopeless as exc:
                self._hopeless = exc
                self.stop()

    def _server(self) -> Server:
        chosen = self._settings
        return dialing.server(
            chosen.server,
            authorities=chosen.authorities,
            certificate=chosen.certificate,
            fingerprint=chosen.fingerprint,
            proxy=chosen.proxy,
            insecure=chosen.insecure,
        )

    async def _serve(self, path: Path, worker: Worker, ledger: Ledger, place: Place) -> None:
        """The newest link is the live one: whoever dials again has lost the one before."""
        live: asyncio.Task[None] | None = None

        async def on_link(link: Link) -> None:
            nonlocal live
            before, live = live, asyncio.current_task()
            if before is not None and not before.done():
                before.cancel()
                await asyncio.wait({before})
            try:
                reason = await self._converse(link, worker, ledger, place)
                _log.info("link is over", extra={"subject": "line", "why": reason})
            except PaddockError as exc:
                _log.warning("not welcome", extra={"why": exc.message})

        async with links.serve_lines(path, on_link):
            self.ready.set()
            await asyncio.Event().wait()

    async def _converse(self, link: Link, worker: Worker, ledger: Ledger, place: Place) -> str:
        conversation = Conversation(link=link, worker=worker, logs=self._logs)
        self._conversation = conversation
        try:
            return await conversation.run(lambda one: self._open(one, worker, ledger, place))
        finally:
            if self._conversation is conversation:
                self._conversation = None

    async def _open(self, conversation: Conversation, worker: Worker, ledger: Ledger, place: Place) -> None:
        """The first words: enrolment if there is no identity yet, then hello."""
        known = None
        if self._settings.line is None:
            known = identity.load(self._settings.state) or await self._enrol(conversation, place)
        shown = known
        if known is not None and known.new_token and not self._tries_old_token:
            shown = Identity(agent=known.agent, token=known.new_token)
        hello = Hello(
            agent=shown.agent if shown else None,
            token=shown.token if shown else None,
            software=SOFTWARE,
            boot_id=self._boot_id,
            ledger=ledger.id,
            skills=self._settings.skills,
            methods=worker.methods(),
            facts=facts(place),
            fences=ledger.fences,
            epoch=ledger.epoch,
            seq=ledger.seq,
            tasks=worker.tasks(),
        )
        try:
            await conversation.hello(hello)
        except Unwelcome as exc:
            if exc.code is Code.REFUSED:
                # It comes back by itself when its server's store is restored, so it goes on asking; a person is told.
                exc.hint = (
                    "where it is shut out: paddock host resume NAME; where it is not known: paddock host add NAME, "
                    f"remove {self._settings.state / identity.FILE}, start it with the new --code"
                )
            # Which of two tokens the server knows is sure only once it has taken one: the other one is tried next.
            self._tries_old_token = not self._tries_old_token
            raise
        _log.info("session began", extra={"agent": known.agent if known else place.machine})
        if shown is not None and known is not None:
            self._accepted = Identity(agent=shown.agent, token=shown.token)
            await self._settle_token(conversation, known, self._accepted)

    async def _enrol(self, conversation: Conversation, place: Place) -> Identity:
        if not self._settings.code:
            raise Hopeless(f"{self._settings.state}: its identity is gone", hint=_ADD)
        enrol = Enrol(code=self._settings.code, facts=facts(place))
        faults.at("agent.enrolling")
        try:
            answer = await conversation.open("enrol", enrol.params())
        except Unwelcome as exc:
            if exc.code not in (Code.REFUSED, Code.BAD_PARAMS):
                raise
            # A code that was not taken once is never taken: asking again would only look like guessing.
            raise Hopeless(exc.message, hint=_ADD) from exc
        name, token = answer.get("agent"), answer.get("token")
        if not isinstance(name, str) or not isinstance(token, str):
            raise Broken("enrol: the answer names no agent and token")
        faults.at("agent.enrolled")
        known = Identity(agent=name, token=token)
        await asyncio.to_thread(identity.save, self._settings.state, known)
        return known

    async def _settle_token(self, conversation: Conversation, known: Identity, accepted: Identity) -> None:
        """The token that has said hello is the only one from now on; one that is old is changed."""
        state = self._settings.state
        self._tries_old_token = False
        if known.new_token:
            await asyncio.to_thread(identity.save, state, accepted)
        if identity.age(state, datetime.now(UTC)) < self._settings.rotation:
            return
        changing = replace(accepted, new_token=secrets.token_urlsafe(32))
        # Ours first: whatever happens to the answer, both are tried.
        await asyncio.to_thread(identity.save, state, changing)
        await conversation.ask("token", {"new": changing.new_token})
        _log.info("a new token was told", extra={"agent": accepted.agent})

    def _tell(self, status: Status) -> None:
        if self._conversation is not None:
            self._conversation.tell(status)

    # Time

    def _moment(self) -> Moment:
        return Moment(
            at=datetime.now(UTC),
            uptime=timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME)),
            boot_id=self._boot_id,
        )

    async def _prune(self, ledger: Ledger) -> None:
        while True:
            with contextlib.suppress(Unwritable):
                faults.at("agent.pruning")
                pruned = await ledger.prune(before=datetime.now(UTC) - self._settings.retention)
                faults.at("agent.pruned")
                if pruned:
                    _log.info("pruned", extra={"entries": pruned})
            await asyncio.sleep(_PRUNE_EVERY)


async def live(chosen: Settings) -> None:
    """Run an agent until SIGTERM or SIGINT; then it is gone within five seconds."""
    agent = Agent(chosen)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        # Whoever does not read, or a disk that hangs, would keep us; all that matters is in ledger and records.
        last = threading.Timer(_LEAVE_LIMIT, os._exit, (0,))
        last.daemon = True
        last.start()
        agent.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await agent.run()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
