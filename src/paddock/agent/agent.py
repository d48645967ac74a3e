"""One agent from start to stop: its parts, and the words that begin a session.

Effects: journaled by the ledger; enrolment is once, its answer made durable before anything else is said.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from paddock.agent import attending, dialing, enrolment, identity, origin, retiring, settings, shutout, skills
from paddock.agent.alerts import Alerts
from paddock.agent.channel import Carrying
from paddock.agent.cloud.surroundings import Surroundings
from paddock.agent.conversation import Conversation, Park
from paddock.agent.dialing import Hopeless, Server
from paddock.agent.duty import keep
from paddock.agent.entry import Moment
from paddock.agent.floor import Floor
from paddock.agent.greeting import ADD, Greeting
from paddock.agent.ledger import Ledger, Unwritable
from paddock.agent.life import Life
from paddock.agent.logs import Logs
from paddock.agent.notifying import Notifier
from paddock.agent.settings import Settings, WrongUse
from paddock.agent.skills.skill import Place
from paddock.agent.standing import Register
from paddock.agent.upgrade import program, upgrading
from paddock.agent.worker import Worker
from paddock.core.errors import PaddockError, Refused
from paddock.hands import faults
from paddock.hands.launcher import Launcher
from paddock.hands.links import Link
from paddock.hands.trees import Cgroup
from paddock.wire.backoff import Backoff
from paddock.wire.hello import Status
from paddock.wire.messages import Code, Command, Failure

if TYPE_CHECKING:
    from paddock.agent.parking.berth import Berth

_log = logging.getLogger(__name__)

_PRUNE_EVERY = 3600.0
_STOP_LIMIT = timedelta(seconds=2)
_YOUNG = 20_000  # objects; more make no difference to the rate
_HELLO_FIRST = 1.0  # seconds that all else of a woken machine waits for its hello to be answered
_LEAVE_LIMIT = 4.5  # seconds from the signal, whatever the server or the disk does


class Agent:
    """Speaks for one machine. `ready` is set once it serves or dials."""

    def __init__(self, chosen: Settings) -> None:
        self._settings = chosen
        self._worker: Worker | None = None
        self._conversation: Conversation | None = None
        self.life = Life()
        """Before anything else: it keeps the environment as it was."""
        self._berth = _berth(chosen, self.life)
        self._duties: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        """What skills do beside the commands, while the machine is parked."""
        self._stop = self.life.ended
        self._alerts = Alerts(chosen.state / "alerts")
        self._greeting: Greeting | None = None
        self._hopeless: Hopeless | None = None
        self._kept: list[asyncio.Task[None]] = []
        self._logs = Logs(level=logging.getLevelName(chosen.log_level.upper()), directory=chosen.state / "log")
        self._notifier = Notifier(os.environ)
        self._register = Register(chosen.state, self._notifier)
        self._surroundings = Surroundings(chosen, boot_id=self.life.boot_id())
        self._used_code = ""
        """Digest of the code that was used before this process began."""
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
        self._check()
        server = self.server()
        with contextlib.ExitStack() as held:
            with settings.opening(chosen):
                self._finish_retiring()
                if server is not None and not chosen.code and not chosen.machine:
                    await self._find_code()
                settings.prepare(chosen)
                held.enter_context(settings.locked(chosen))
                if chosen.cgroup is not None:
                    with contextlib.suppress(OSError):
                        Cgroup(path=chosen.cgroup).add(0)
                identity.sign_in(chosen.state)
                upgrading.enter(chosen.state, self.life, tuple(sys.argv[1:]))
                if not await self._is_admitted():
                    return
                settings.prepare(chosen)
                self._surroundings.recall()
                ledger = await self._open_ledger()
            why: BaseException | None = None
            self._alerts.load()
            logger = logging.getLogger("paddock")
            logger.addHandler(self._logs)
            try:
                # A machine without isolation has a group already: its tasks' lie below it.
                has_own_kernel = not (chosen.machine and chosen.line.startswith("unix:"))
                async with Launcher(grouping=has_own_kernel) as launcher:
                    await self._live(ledger, launcher, server)
            except* PaddockError as broken:
                # The operator is told why, not where: the first duty that broke ended the others.
                why = _first(broken)
            finally:
                logger.removeHandler(self._logs)
                self._logs.close()
                await ledger.close()
                if retiring.is_begun(chosen.state):
                    retiring.finish(chosen)
                if self._berth is not None:
                    await self._berth.end()
            if why is not None:
                # Not above: until Python 3.11.4 what is raised inside of `except*` comes out in a group again.
                raise why
        if self._hopeless is not None:
            # A code that was refused is refused for ever: nobody comes back with it.
            enrolment.forget(chosen.state)
            raise self._hopeless

    def _finish_retiring(self) -> None:
        """What was to go with the last process goes before anything reads it."""
        chosen = self._settings
        if retiring.is_begun(chosen.state):
            with settings.locked(chosen):
                retiring.finish(chosen)

    async def _open_ledger(self) -> Ledger:
        if self._berth is not None:
            return await self._berth.open()
        return await asyncio.to_thread(Ledger.open, self._settings.ledger)

    def _check(self) -> None:
        if self._berth is not None:
            self._berth.check()
        try:
            skills.known(self._settings.skills)
        except Refused as exc:
            raise WrongUse(f"--skills {exc.message}", hint=exc.hint) from exc
        if self._settings.metadata_url:
            from paddock.agent.cloud import fetching

            try:
                fetching.place(self._settings.metadata_url)
            except Refused as exc:
                raise WrongUse(exc.message, hint=exc.hint) from exc

    async def _live(self, ledger: Ledger, launcher: Launcher, server: Server | None) -> None:
        if ledger.set_aside is not None:
            kept = str(ledger.set_aside)
            _log.error("the ledger was corrupt, a new one begins", extra={"why": ledger.why, "kept_as": kept})
            msg = f"the ledger was corrupt and is kept as {kept}; what was under way is interrupted: {ledger.why}"
            await self._alerts.begin(f"ledger {ledger.set_aside.name}", msg, level="error")
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
                self._greeting = Greeting(
                    self._settings,
                    boot_id=self.life.boot_id,
                    ledger=ledger,
                    code=self._code,
                    surroundings=self._surroundings,
                    enrolled=lambda: enrolment.forget(self._settings.state),
                    began=self._begin_session,
                )
                greeting = self._greeting
                self.life.works = lambda: worker.works
                self.life.hello = lambda: greeting.hello(worker, place)
                self._logs.attach(asyncio.get_running_loop(), worker.news)
                await worker.recover()
                if self._berth is not None and self._berth.record is None:
                    await self._berth.rehearse(launcher, lambda: greeting.say_nothing(worker, place))
                speaking = group.create_task(self._speak(worker, self._greeting, place, server))
                living = group.create_task(self._live_on(ledger))
                if self._berth is not None:
                    await self._become_somebody(self._berth, ledger, group)
                pruning = group.create_task(self._prune(ledger))
                guarding = group.create_task(ledger.guard())
                looking = group.create_task(self._look_around())
                # Waits for: stop; a duty that breaks ends the group, and this with it.
                await self._stop.wait()
                if not self.life.successor:
                    self._notifier.stopping()
                if self._berth is not None and self._berth.is_left:
                    await worker.end_all("its machine is parked")
                # Who is succeeded has waited for all others, and is itself what would be waited for.
                await worker.stop(limit=timedelta() if self.life.successor else _STOP_LIMIT)
                speaking.cancel()
                pruning.cancel()
                guarding.cancel()
                looking.cancel()
                living.cancel()
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
            keep=lambda name, duty: self._keep(group, name, duty),
            running=lambda: self._worker.count if self._worker else 0,
            cloud=lambda: self._surroundings.known,
            alerts=self._alerts,
            life=self.life,
            carrying=self._carrying(ledger, server),
            environment=chosen.environment,
            machine=chosen.machine,
            address=chosen.address,
            floor=Floor(chosen.state) if is_machine else None,
            cgroup=chosen.cgroup,
            hypervisor=chosen.hypervisor,
        )

    def _keep(self, group: asyncio.TaskGroup, name: str, duty: Callable[[], Awaitable[None]]) -> None:
        if self._berth is not None and not self._berth.woken.is_set():
            self._duties.append((name, duty))
        else:
            self._kept.append(group.create_task(keep(name, duty)))

    async def _become_somebody(self, parked: "Berth", ledger: Ledger, group: asyncio.TaskGroup) -> None:
        """Return once it was woken, or is to end; what is done beside begins then, after its hello."""
        was_parked = parked.record is None
        # Waits for: a wake, the end.
        await _first_of(parked.woken, self._stop)
        if parked.record is None:
            return
        if was_parked:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HELLO_FIRST):
                    await _first_of(self.life.welcomed, self._stop)
            parked.kernel.let_go()
        for name, duty in self._duties:
            self._keep(group, name, duty)
        self._duties.clear()
        self._kept.append(group.create_task(parked.settle(ledger, self._alerts)))

    def _carrying(self, ledger: Ledger, server: Server | None) -> Carrying | None:
        if server is None or self._settings.line:
            return None
        return Carrying(
            server=server,
            identity=lambda: (self._greeting and self._greeting.accepted) or identity.load(self._settings.state),
            ledger=ledger,
            hidden=self._settings.hidden,
            walled=self._settings.bubblewrap,
        )

    # Who we are

    async def _find_code(self) -> None:
        """Somebody has to have given us a code: with the command line, in its file, or through the cloud."""
        chosen = self._settings
        if identity.load(chosen.state) is None and not enrolment.waiting(chosen.state):
            await self._surroundings.refresh(code=True)
            if not self._surroundings.known.code:
                raise WrongUse(f"{chosen.state}: no identity yet, and no --code", hint=ADD)

    async def _is_admitted(self) -> bool:
        """Whether the state is this machine's, as soon as that is sure; False if the end came first."""

        async def injected() -> str:
            return (await self._surroundings.refresh(code=True)).code

        if self._berth is not None:
            # Whoever carries it knows which machine it is; a copy is told to forget by its host.
            return not self._stop.is_set()
        watching = asyncio.create_task(self._notifier.keep(_is_turning))
        try:
            await shutout.admit(self._settings, stop=self._stop, injected=injected, tell=self._tell_shut_out)
        finally:
            watching.cancel()
        recorded = origin.load(self._settings.state)
        self._used_code = recorded.code if recorded is not None else ""
        if identity.load(self._settings.state) is not None:
            enrolment.forget(self._settings.state)
        return not self._stop.is_set()

    def _tell_shut_out(self, why: str) -> None:
        if why:
            self.ready.set()
            self._notifier.ready()
        self._register.apart(why or "begins anew")

    def _code(self) -> str:
        """The enrolment code to show, remembered before it is shown; one that was used before comes last."""
        state = self._settings.state
        given = [
            code for code in (enrolment.waiting(state), self._settings.code, self._surroundings.known.code) if code
        ]
        code = min(given, key=lambda one: origin.digest(one) == self._used_code, default="")
        if code and not self._settings.is_local:
            recorded = origin.load(state) or origin.Origin()
            if recorded.code != origin.digest(code):
                origin.record(state, replace(recorded, code=origin.digest(code)))
        return code

    async def _look_around(self) -> None:
        if self._berth is None:  # else it has a host, not a cloud
            with contextlib.suppress(PaddockError, OSError):
                await self._surroundings.refresh()

    # Speaking

    async def _speak(self, worker: Worker, greeting: Greeting, place: Place, server: Server | None) -> None:
        async def converse(link: Link) -> str:
            if self._berth is None:
                return await self._converse(link, worker, greeting, place)
            try:
                if self._berth.record is None:
                    await self._berth.hear(link)
                return await self._converse(link, worker, greeting, place)
            except Park as park:
                await self._berth.leave(park.command, link)

        async def heard(link: Link) -> str:
            reason = "the line is quiet"
            try:
                reason = await converse(link)
            except PaddockError as exc:
                reason = exc.message
                raise
            finally:
                self._register.apart(reason)
            return reason

        try:
            if server is not None:
                self.ready.set()
                await dialing.keep(server, converse, subject="server", register=self._register)
            else:
                inherited = self._berth.inherited if self._berth is not None else None
                await attending.attend(
                    self._settings.line, heard, ready=self.ready, over=self.stop, inherited=inherited
                )
        except Hopeless as exc:
            self._hopeless = exc
            self.stop()

    def server(self) -> Server | None:
        """Whom it dials; None if it is spoken to."""
        chosen = self._settings
        if chosen.line and not chosen.is_dialling:
            attending.check(chosen.line)
            return None
        return dialing.server(
            chosen.servers or (chosen.line,),
            authorities=chosen.authorities,
            certificate=chosen.certificate,
            fingerprint=chosen.fingerprint,
            proxy=chosen.proxy,
            insecure=chosen.insecure,
            option="--line" if chosen.line else "--server",
            limit=chosen.connect_limit,
            backoff=Backoff(most=max(chosen.retry_limit, Backoff().least)),
        )

    def _begin_session(self, agent: str) -> None:
        self._register.connected(agent)
        self.life.welcome()

    async def _converse(self, link: Link, worker: Worker, greeting: Greeting, place: Place) -> str:
        conversation = Conversation(
            link=link,
            worker=worker,
            logs=self._logs,
            alerts=self._alerts,
            hello_limit=self._settings.hello_limit,
            aside=self._berth.answer if self._berth is not None else _refusal,
            parks=self._berth is not None,
        )
        self._conversation = conversation
        try:
            return await conversation.run(lambda one: greeting.say(one, worker, place))
        finally:
            if self._conversation is conversation:
                self._conversation = None

    def _tell(self, status: Status) -> None:
        if self._conversation is not None:
            self._conversation.tell(status)

    # Living

    async def _live_on(self, ledger: Ledger) -> None:
        """Let the service's manager know that it began, and then, for as long as it asks, that all of it lives."""
        await self.ready.wait()
        self._notifier.ready()

        async def is_alive() -> None:
            # By way of the thread that writes: a full disk is no reason to end, one that hangs is.
            with contextlib.suppress(Unwritable):
                await ledger.find("")

        await self._notifier.keep(is_alive)

    # Time

    def _moment(self) -> Moment:
        return Moment(
            at=datetime.now(UTC),
            uptime=timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME)),
            boot_id=self.life.boot_id(),
        )

    async def _prune(self, ledger: Ledger) -> None:
        while True:
            with contextlib.suppress(Unwritable):
                faults.at("agent.pruning")
                pruned = await ledger.prune(before=datetime.now(UTC) - self._settings.retention)
                faults.at("agent.pruned")
                if pruned:
                    _log.info("pruned", extra={"entries": pruned})
            await asyncio.sleep(min(_PRUNE_EVERY, max(self._settings.retention.total_seconds() / 2, 1)))


async def live(chosen: Settings) -> None:
    """Run an agent until SIGTERM or SIGINT; then it is gone within five seconds.

    Does not return where another program is to go on in this process. A trial only says hello.
    """
    is_trial = bool(os.environ.pop(program.TRIAL, ""))
    agent = Agent(chosen)
    if is_trial:
        from paddock.agent import trial

        await trial.run(chosen, agent.server())
        return
    loop = asyncio.get_running_loop()

    def stop() -> None:
        # Whoever does not read, or a disk that hangs, would keep us; all that matters is in ledger and records.
        last = threading.Timer(_LEAVE_LIMIT, os._exit, (0,))
        last.daemon = True
        last.start()
        agent.life.stay()
        agent.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    _collect_seldom()
    await agent.run()
    agent.life.succeed()


def _collect_seldom() -> None:
    """With thousands of commands under way the collector took a third of the time: what lives on is not looked at.

    What was loaded by now is never garbage; what a command makes is freed by its count of references, and cycles wait
    for some ten thousand objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)


def _berth(chosen: Settings, life: Life) -> "Berth | None":
    """Most agents never lie in one."""
    if not chosen.parked:
        return None
    from paddock.agent.parking.berth import Berth

    return Berth(chosen, life=life)


def _refusal(command: Command) -> Failure | None:
    """Of what only a machine takes that was begun to be woken."""
    if command.method not in ("wake", "park"):
        return None
    msg = f"{command.method}: this agent was not begun with --parked"
    return Failure(id=command.id, code=Code.REFUSED, msg=msg)


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


async def _is_turning() -> None:
    """That the loop came to this is the proof."""


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
