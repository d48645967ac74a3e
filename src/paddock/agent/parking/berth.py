"""Where a machine lies until its host says who it is: one wake is taken, nothing else.

Effects: journaled, by the wake that was heard (waking), the record of who it is (settling) and the mark of a park
(leaving).

A park that is not the end of the machine ends in another program in the same process: this very one, begun anew with
nothing of what it was in its memory. The line stays open across that; its descriptor and the command that is still to
be answered are handed on in a variable.
"""

import asyncio
import gc
import logging
import os
import shutil
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn, Self

from paddock.agent.alerts import Alerts
from paddock.agent.conversation import Park
from paddock.agent.ledger import Ledger
from paddock.agent.life import Life
from paddock.agent.parking import dress, heard, leaving, record, waking
from paddock.agent.parking.kernel import Kernel, Paper, of
from paddock.agent.parking.record import Record
from paddock.agent.parking.settling import Settling
from paddock.agent.settings import Settings, WrongUse, prepare
from paddock.agent.skills.skill import code_of
from paddock.agent.skills.system import SOFTWARE
from paddock.core.errors import Broken, PaddockError
from paddock.hands import faults
from paddock.hands.keeper import boot_id
from paddock.hands.launcher import Launcher
from paddock.hands.link import Closed, Link
from paddock.wire import methods
from paddock.wire.framing import Malformed
from paddock.wire.hello import Hello
from paddock.wire.messages import Code, Command, Failure, Fatal, Success, encode, parse
from paddock.wire.methods import Toward
from paddock.wire.specs import Peer, Wake

_log = logging.getLogger(__name__)

VARIABLE = "PADDOCK_PARKED"
_LINES = ("virtio:", "unix:", "stdio:")


@dataclass(frozen=True, kw_only=True)
class Inherited:
    """The line of the process that this one was: its descriptor, -1 for stdio, and the command to be answered on it."""

    handle: int
    answer: str

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Self | None:
        """Out of the environment, so that neither tasks nor successors find it."""
        handle, _, answer = environment.pop(VARIABLE, "").partition(" ")
        if not answer:
            return None
        if int(handle) >= 0:
            os.set_inheritable(int(handle), False)  # noqa: FBT003 - the standard library's signature
        return cls(handle=int(handle), answer=answer)


class Berth:
    """Of one agent that was begun with --parked. `record` is who it is: None while it is parked."""

    def __init__(self, chosen: Settings, *, life: Life) -> None:
        os.environ.pop(VARIABLE, None)
        inherited = Inherited.take(life.environment)
        self._settings = chosen
        self._life = life
        self._boot = boot_id()
        self._kernel: Kernel = of(chosen.rootfs)
        self._answer = inherited.answer if inherited is not None else ""
        self._ledger: Ledger | None = None
        self._left: tuple[Command, int, bool] | None = None
        self._wake: Wake | None = None
        """Who it is since this boot, while not all that shows it is on its disk."""
        self.inherited = inherited.handle if inherited is not None else None
        self.record: Record | None = None
        self.woken = asyncio.Event()
        life.settled.clear()

    @property
    def kernel(self) -> Kernel:
        return self._kernel

    @property
    def is_left(self) -> bool:
        """Whether the machine is to be parked again."""
        return self._left is not None

    # Birth

    def check(self) -> None:
        """Raises WrongUse where nobody could say who the machine is."""
        if not self._settings.line.startswith(_LINES):
            raise WrongUse("--parked: needs the machine's own --line", hint=f"--line {' or '.join(_LINES)}")

    async def open(self) -> Ledger:
        """The ledger: its own, or a blank one where it is nobody. A park that was cut short is finished before."""
        chosen = self._settings
        self._kernel.let_go()
        heard.prepare(chosen.rootfs)
        if leaving.is_begun(chosen.state):
            await leaving.finish(chosen, self._kernel)
            prepare(chosen)
        if (said := heard.load(chosen.rootfs, self._boot)) is not None:
            self._wake = _read(said)
        self.record = record.load(chosen.state) or (Record.of(self._wake) if self._wake is not None else None)
        if self.record is None:
            self._ledger = await asyncio.to_thread(Ledger.blank, chosen.ledger)
            return self._ledger
        self._life.wake_id = self.record.wake_id
        self._life.variables = dict(self.record.env)
        self.woken.set()
        name = waking.journal(self._wake) if self._wake is not None else ""
        ledger = await asyncio.to_thread(Ledger.open, chosen.ledger, name=name)
        await ledger.raise_fences({self.record.environment: self.record.fence})
        return ledger

    async def rehearse(self, launcher: Launcher, hello: Callable[[], Hello]) -> None:
        """Everything that a wake needs is loaded and was done once; the warm process is there."""
        scratch = self._settings.state / "rehearsal"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        ledger = await asyncio.to_thread(Ledger.blank, scratch / "ledger")
        try:
            message = encode(Command(id="wake-0", method="wake", params=_anybody().params()))
            said = parse(message)
            if not isinstance(said, Command):
                raise AssertionError("a wake is a command")
            heard.prepare(scratch)
            wake = _read(said)
            waking.apply(wake, message, rootfs=scratch, ledger=ledger, kernel=Paper(scratch), boot=self._boot)
            await asyncio.to_thread(dress.dress, scratch, wake)
            encode(Command(id="hello-0", method="hello", params=hello().params()))
            await launcher.warm(scratch / "task")
        finally:
            await ledger.close()
            shutil.rmtree(scratch, ignore_errors=True)
        # What was loaded is never garbage: no fork copies its pages only because they were looked at.
        gc.collect()
        gc.freeze()

    # Parked

    async def hear(self, link: Link) -> None:
        """Say that it is parked, and return once the wake is answered. Closed where the line ends before; Park."""
        if self._answer:
            faults.at("parking.answering")
            first = encode(Success(id=self._answer, result={}))
            self._kernel.sync()
            self._kernel.hold()
        else:
            first = encode(Command(id="parked-1", method="parked", params={"software": SOFTWARE, "boot_id": boot_id()}))
        self._answer = ""
        await link.send(first)
        while self.record is None:
            try:
                text = await link.receive()
                message = parse(text)
            except Malformed as exc:
                await link.send(encode(Fatal(text=str(exc).encode("ascii", "backslashreplace").decode()[:1000])))
                raise Closed(str(exc)) from exc
            match message:
                case Command():
                    await link.send(encode(self._take(message, text)))
                case Fatal(text=text):
                    raise Closed(f"the other side refused: {text[:500]!a}")
        faults.at("waking.answered")
        self.woken.set()

    def _take(self, command: Command, text: str) -> Success | Failure:
        match command.method:
            case "ping":
                return Success(id=command.id, result=command.params)
            case "park":
                if command.params.get("power_off"):
                    raise Park(command)
                return Success(id=command.id, result={})
            case "wake":
                try:
                    self._become(_read(command), text)
                except PaddockError as exc:
                    return Failure(id=command.id, code=code_of(exc), msg=exc.message)
                except OSError as exc:
                    msg = f"wake: {exc.filename or 'kernel'}: {exc.strerror or exc}"
                    return Failure(id=command.id, code=Code.FAILED, msg=msg)
                return Success(id=command.id, result={"boot_id": self._life.boot_id()})
        msg = f"{command.method[:100]}: this machine is parked, it takes wake and nothing else"
        return Failure(id=command.id, code=Code.REFUSED, msg=msg)

    def _become(self, wake: Wake, text: str) -> None:
        """At once and in one go: nobody else of this process runs meanwhile, and no thread and no process is begun."""
        chosen, ledger = self._settings, self._ledger
        if ledger is None:
            raise AssertionError("a parked agent has a blank ledger")
        waking.apply(wake, text, rootfs=chosen.rootfs, ledger=ledger, kernel=self._kernel, boot=self._boot)
        self._wake, self.record = wake, Record.of(wake)
        self._life.wake_id = wake.wake_id
        self._life.variables = dict(wake.env)
        self._life.addresses = tuple(address.partition("/")[0] for address in wake.addresses if address)

    # Woken

    def answer(self, command: Command) -> Success | Failure | None:
        """To what only a parked agent takes, while it is not; None for everything else."""
        if command.method != "wake":
            return None
        if self.record is not None and command.params.get("wake_id") == self.record.wake_id:
            return Success(id=command.id, result={"boot_id": self._life.boot_id()})
        return Failure(id=command.id, code=Code.REFUSED, msg=f"wake: is not parked, it is {self._name()}")

    def _name(self) -> str:
        return f"{self.record.environment}/{self.record.machine}" if self.record is not None else "nobody"

    async def settle(self, ledger: Ledger, alerts: Alerts) -> None:
        """The second step of the wake: from then on the machine takes commands."""
        if self.record is None:
            raise AssertionError("nobody has nothing to settle")
        chosen = self._settings
        settling = Settling(rootfs=chosen.rootfs, state=chosen.state, ledger=ledger, kernel=self._kernel, alerts=alerts)
        try:
            await settling.settle(self.record, self._wake, self._boot)
            self._wake = None
        finally:
            self._life.settled.set()

    # Parking

    async def leave(self, command: Command, link: Link) -> NoReturn:
        """Have this life end. Does not return: whoever ends it ends us; the line stays open."""
        try:
            params = methods.check("park", command.params, toward=Toward.AGENT, is_strict=True)
        except PaddockError as exc:
            await link.send(encode(Failure(id=command.id, code=code_of(exc), msg=exc.message)))
            raise Broken(exc.message) from exc
        is_last = bool(params.get("power_off"))
        if self.record is not None:
            # Else what still settles would write into what is cleaned already.
            await self._life.settled.wait()
        # In one go: a host that dials anew meanwhile would cancel us between the mark and the end.
        leaving.begin(self._settings.state, power_off=is_last)
        handle = detached(link)
        self._left = (command, handle, is_last)
        if is_last:
            self._life.ended.set()
        else:
            self._life.environment[VARIABLE] = f"{handle} {command.id}"
            self._life.become((sys.executable, *sys.orig_argv[1:]))
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def end(self) -> None:
        """The life is over: forget it, if that was wanted. A machine that goes off answers before it does."""
        if not leaving.is_begun(self._settings.state):
            return
        self._kernel.let_go()
        await leaving.finish(self._settings, self._kernel)
        if self._left is not None and self._left[2]:
            command, handle, _ = self._left
            faults.at("parking.going_off")
            leaving.answer(handle, encode(Success(id=command.id, result={})))
            await asyncio.to_thread(leaving.power_off, self._settings.rootfs)


def detached(link: Link) -> int:
    """A descriptor of the link's own end that outlives it; -1 where it is the process's own stdio."""
    detach = getattr(link, "detach", None)
    if detach is None:
        raise AssertionError("a parked agent has a line")
    handle = int(detach())
    if handle >= 0:
        os.set_inheritable(handle, True)  # noqa: FBT003 - the standard library's signature
    return handle


def _read(command: Command) -> Wake:
    checked = methods.check("wake", command.params, toward=Toward.AGENT, is_strict=True)
    wake = Wake.read(checked)
    waking.check(wake)
    return wake


def _anybody() -> Wake:
    """Nobody in particular, with one of each."""
    return Wake(
        agent="e.m",
        environment="e",
        machine="m",
        fence=1,
        hostname="m",
        machine_id="1" * 32,
        wake_id="rehearsal",
        time=datetime.now(UTC),
        entropy=bytes(64),
        host_keys={"ssh_host_ed25519_key": "-", "ssh_host_ed25519_key.pub": "-"},
        authorized_keys=("-",),
        login_key="-",
        macs=("52:54:00:00:00:01",),
        addresses=("192.168.80.10/24",),
        peers=(Peer(machine="n", addresses=("192.168.80.11",)),),
        env={"http_proxy": "-"},
        restart=("ssh",),
    )
