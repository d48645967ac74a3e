"""The server: everything wired on one screen, started, reloaded, stopped."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from paddock.adapters.archives.directory import DirectoryArchive
from paddock.adapters.chances.system import SystemChance
from paddock.adapters.clocks.system import SystemClock
from paddock.adapters.forges.replay import ReplayForge
from paddock.adapters.links.hub import Hub
from paddock.adapters.links.sockets import Frames, Requests, bound
from paddock.adapters.stores.sql import SqlStore, open_store
from paddock.agent.bundle import bundling
from paddock.client import finding
from paddock.core import access
from paddock.core.access import Role, Token
from paddock.core.configuration import Configuration, ForgeKind
from paddock.core.configuration import Forge as ForgeSettings
from paddock.core.configuration import Server as ServerSettings
from paddock.core.errors import Broken, PaddockError, Refused
from paddock.engine.admission import greet_nobody
from paddock.engine.attending import Attending
from paddock.engine.building import Building
from paddock.engine.cleaning import Cleaning
from paddock.engine.commanding import Commanding
from paddock.engine.imaging import Imaging
from paddock.engine.keeping import Keeping
from paddock.engine.leasing import Leasing, full_ttls
from paddock.engine.loop import Bell, Stage, keep
from paddock.engine.means import Means
from paddock.engine.operating import Operating
from paddock.engine.planning import Planning
from paddock.engine.receiving import Receiving
from paddock.engine.reporting import Reporting
from paddock.engine.running import Running
from paddock.engine.saving import Saving
from paddock.hands import pins
from paddock.hands.pins import Pins
from paddock.ports import Chance, Clock, Forge, Tables
from paddock.settings import load
from paddock.web.app import create_app
from paddock.web.kit import Kit
from paddock.web.live import Tail

log = logging.getLogger(__name__)

OPERATOR = "operator"
"""Name of the token that `serve` writes into its state directory."""
TOKEN_FILE = "operator.token"
STOP_WITHIN = 4
"""Seconds that requests in flight get at a stop; the whole stop takes 5 at most."""
RETRY = 5.0


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What a server that listens says of itself."""

    url: str
    state: Path
    token_file: Path


class Server:
    """One server on one store. Made by `serve`; everything it needs is made in `open`, nothing later."""

    def __init__(self, path: Path, loaded: Configuration, configuration: Configuration, store: SqlStore) -> None:
        """`loaded` is what the file says, `configuration` what became of it: the port that was bound, whole paths."""
        self._path = path
        self._loaded = loaded
        self._configuration = configuration
        self._store = store
        self._state = Path(configuration.server.state)
        self._clock: Clock = SystemClock()
        self._chance: Chance = SystemChance()
        self._hub = Hub()
        self._forges: dict[str, Forge] = forges_of(configuration, self._state, self._clock, self._chance)
        self._means = Means(
            store=store,
            archive=DirectoryArchive(self._state / "archive"),
            clock=self._clock,
            chance=self._chance,
            links=self._hub,
            configuration=lambda: self._configuration,
            forges=self._forges,
        )
        tail = Tail()
        leasing, running = Leasing(self._means), Running(self._means)
        self._bells: dict[str, Bell] = {}
        self._stages: tuple[Stage, ...] = (
            Attending(self._means),
            Planning(self._means),
            leasing,
            Imaging(self._means),
            Building(self._means),
            running,
            Cleaning(self._means),
            Saving(self._means),
            Reporting(self._means),
            Keeping(self._means),
        )
        self._hub.attach(Commanding(self._means, grew=tail.grew, stir=lambda run: self._stir(running, run)))
        self.app = create_app(
            store,
            self._means.archive,
            Operating(self._means, leasing),
            lambda: self._configuration,
            self._clock,
            Kit(self._state / "agent", bundling.archive, _pins(configuration.server)),
            tail=tail,
            agents=self._hub,
            ailing=self.ailing,
            draining=lambda: leasing.is_draining,
        )
        self._ailing: dict[str, str] = {}
        self._listening: dict[str, asyncio.Task[None]] = {}

    def _stir(self, running: Running, run: str) -> None:
        """Output of an ended command arrived: its run may have waited for just that."""
        running.stir(run)
        self._bells[running.name].ring()

    def ailing(self) -> Mapping[str, str]:
        """What does not work now, name → words."""
        broken = {"store": self._store.trouble} if self._store.trouble else {}
        away = {
            f"forge {name}": f"not heard since {forge.away.since:%Y-%m-%d %H:%M:%S} UTC: {forge.away.why}"
            for name, forge in self._forges.items()
            if forge.away is not None
        }
        return {**broken, **away, **self._ailing}

    async def recover(self) -> None:
        """What the last server left: no session is live, outside holders get a full ttl, an operator can get in."""
        now = self._clock.now()

        def step(tables: Tables) -> None:
            greet_nobody(tables, now=now)
            full_ttls(tables, now=now)

        await self._store.write(step)
        for name, settings in self._configuration.forges.items():
            if settings.kind is ForgeKind.GERRIT:
                await Receiving(self._means, self._forges[name]).note_absence()
        await self._write_operator_token()

    async def _write_operator_token(self) -> None:
        """A token for the CLI on this machine, 0600 in the state directory; made anew at each start."""
        secret, now = self._chance.secret(), self._clock.now()

        def step(tables: Tables) -> None:
            token = Token(id=OPERATOR, role=Role.OPERATOR, digest=access.digest(secret), created=now)
            old = tables.tokens.find(OPERATOR)
            if old is None:
                tables.tokens.add(token)
            else:
                tables.tokens.swap(old, replace(token, version=old.version))

        await self._store.write(step)
        file = self._state / TOKEN_FILE
        part = file.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secret + "\n")
        part.replace(file)

    async def run(self, sock: socket.socket, *, ready: Callable[[Ready], None]) -> None:
        """Serve until told to stop. Waits for: the web server's end; a stage's (which only ends by a defect)."""
        web = _Web(self.app, self._configuration, self._hub)
        async with asyncio.TaskGroup() as group:
            stages = [group.create_task(self._keep(stage)) for stage in self._stages]
            self._listen_to_all(group)
            with self._signals(web, group):
                serving = group.create_task(web.serve(sockets=[sock]))
                await web.started_or(serving)
                url = self._configuration.server.public_url
                # The terminal on this machine need not go through a proxy in front of the public address.
                finding.record(url=_nearest(self._configuration.server), state=self._state)
                log.info("server is ready", extra={"url": url, "epoch": self._store.epoch})
                ready(Ready(url=url, state=self._state, token_file=self._state / TOKEN_FILE))
                await serving
            for task in (*stages, *self._listening.values()):
                task.cancel()

    async def _keep(self, stage: Stage) -> None:
        bell = Bell(stage.wakes)
        self._bells[stage.name] = bell
        await keep(stage, self._store, self._clock, bell)

    def _listen_to_all(self, group: asyncio.TaskGroup) -> None:
        for name, forge in self._forges.items():
            if name not in self._listening:
                self._listening[name] = group.create_task(self._listen(forge))

    async def _listen(self, forge: Forge) -> None:
        """Hear a forge for ever; one that cannot be heard is said so on /healthz and tried again."""
        receiving = Receiving(self._means, forge)
        while True:
            try:
                await receiving.listen()
            except PaddockError as exc:
                self._ailing[f"forge {forge.name}"] = exc.message
                log.warning("forge is not heard", extra={"forge": forge.name, "reason": exc.message})
            await asyncio.sleep(RETRY)
            self._ailing.pop(f"forge {forge.name}", None)

    @contextlib.contextmanager
    def _signals(self, web: "_Web", group: asyncio.TaskGroup) -> Iterator[None]:
        """SIGTERM and SIGINT stop, SIGHUP reloads."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, web.stop)
        loop.add_signal_handler(signal.SIGINT, web.stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._reload(group))
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _reload(self, group: asyncio.TaskGroup) -> None:
        """Take the file as it is now, or keep what we have and say why."""
        try:
            fresh = load(self._path).configuration
            changed = _needs_restart(self._loaded, fresh)
            if changed:
                raise Refused(f"{self._path}: {', '.join(changed)} changed: that needs a restart")
            forges = forges_of(fresh, self._state, self._clock, self._chance)
        except PaddockError as exc:
            self._ailing["configuration"] = exc.message
            log.error("configuration was not reloaded", extra={"reason": exc.message})
            return
        self._ailing.pop("configuration", None)
        server = replace(fresh.server, listen=self._configuration.server.listen, state=str(self._state))
        if _follows_listen(fresh.server):
            server = replace(server, public_url=self._configuration.server.public_url)
        before = self._configuration
        self._loaded, self._configuration = fresh, replace(fresh, server=server)
        self._exchange_forges(before, forges, group)
        for bell in self._bells.values():
            bell.ring()
        log.info("configuration was reloaded", extra={"path": str(self._path)})

    def _exchange_forges(self, before: Configuration, fresh: Mapping[str, Forge], group: asyncio.TaskGroup) -> None:
        """Forges that are new or reached differently are listened to anew; gone ones no more."""
        for name in set(before.forges) | set(self._configuration.forges):
            old, new = before.forges.get(name), self._configuration.forges.get(name)
            if old is not None and new is not None and _reached(old) == _reached(new):
                continue
            if name in self._listening:
                self._listening.pop(name).cancel()
            self._forges.pop(name, None)
            if name in fresh:
                self._forges[name] = fresh[name]
        self._listen_to_all(group)


def _reached(forge: ForgeSettings) -> tuple[object, ...]:
    return forge.kind, forge.ssh, forge.file


def _needs_restart(before: Configuration, after: Configuration) -> list[str]:
    """The settings of the server that are read once, and differ. Both as the file has them, not as they were bound."""
    old, new = before.server, after.server
    pairs = {
        "server.listen": (old.listen, new.listen),
        "server.state": (old.state, new.state),
        "server.store": (old.store, new.store),
        "server.tls": ((old.certificate, old.certificate_key), (new.certificate, new.certificate_key)),
    }
    return [name for name, (was, wanted) in pairs.items() if was != wanted]


def forges_of(configuration: Configuration, state: Path, clock: Clock, chance: Chance) -> dict[str, Forge]:
    """An adapter for each configured forge."""
    made: dict[str, Forge] = {}
    for name, settings in configuration.forges.items():
        if settings.kind is ForgeKind.REPLAY:
            made[name] = ReplayForge(name=name, file=Path(settings.file), state=state, clock=clock)
        elif settings.ssh is not None:
            # Its ssh is a tenth of what the server takes to start.
            from paddock.adapters.forges.gerrit import GerritForge

            made[name] = GerritForge(name=name, ssh=settings.ssh, clock=clock, chance=chance)
    return made


class _Web(uvicorn.Server):
    """uvicorn without its signal handlers; agents are told to go before the listening ends."""

    def __init__(self, app: object, configuration: Configuration, hub: Hub) -> None:
        server = configuration.server
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                http=Requests,
                ws=Frames,
                ws_ping_interval=None,  # the agents' protocol has its own
                ws_per_message_deflate=False,
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_WITHIN,
                ssl_certfile=server.certificate or None,
                ssl_keyfile=server.certificate_key or None,
            )
        )
        self._hub = hub
        self._began = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._began.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._hub.close()
        await super().shutdown(sockets=sockets)

    def stop(self) -> None:
        """Refuse new requests, finish what is being answered, leave."""
        self.should_exit = True

    async def started_or(self, serving: "asyncio.Task[None]") -> None:
        """Wait for: listening; an end before it."""
        began = asyncio.ensure_future(self._began.wait())
        await asyncio.wait({began, serving}, return_when=asyncio.FIRST_COMPLETED)
        began.cancel()


async def serve(path: Path, *, listen: str = "", ready: Callable[[Ready], None] = lambda _: None) -> None:
    """Serve what the file at `path` says until a signal stops it; `listen` overrides its address, port 0 is any."""
    loaded = load(path).configuration
    sock = bind(listen or loaded.server.listen)
    try:
        configuration = _settle(loaded, sock)
        async with _opened(configuration) as store:
            server = Server(path, loaded, configuration, store)
            await server.recover()
            await server.run(sock, ready=ready)
    finally:
        sock.close()


@contextlib.asynccontextmanager
async def _opened(configuration: Configuration) -> AsyncIterator[SqlStore]:
    store = await open_store(configuration.server.store or f"sqlite:///{configuration.server.state}/paddock.sqlite")
    try:
        yield store
    finally:
        await store.close()


def _settle(configuration: Configuration, sock: socket.socket) -> Configuration:
    """The state directory is there; the address is as it was bound, and the public one unless that was configured."""
    host, port = sock.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    state = Path(configuration.server.state).absolute()
    _own(state)
    server = replace(configuration.server, listen=address, state=str(state))
    if _follows_listen(configuration.server):
        server = replace(server, public_url=f"{_scheme(server)}://{address}")
    return replace(configuration, server=server)


_OURS = ("agent", "archive", "operator.", "paddock.sqlite")
"""How the names in a state directory begin; a directory of other things may be somebody's home, or /tmp."""


def _own(state: Path) -> None:
    """The state directory, there and 0700. `Broken` where it cannot be made, `Refused` where it is not ours alone."""
    elsewhere = "name a directory of its own under server: state: in the configuration"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = state.stat()
        if found.st_uid != os.geteuid():
            who = f"user {found.st_uid}, not to user {os.geteuid()}"
            raise Refused(f"server: state {state}: it belongs to {who}, who serves", hint=elsewhere)
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o777 == 0o700:
            return
        held = sorted(each.name for each in state.iterdir() if not each.name.startswith(_OURS))
        if held:
            raise Refused(
                f"server: state {state}: its mode is {mode:04o}, not 0700, and it holds {held[0]!r}, which is not ours",
                hint=f"{elsewhere}, or: chmod 700 {state}",
            )
        state.chmod(0o700)
        log.warning("state directory was open to others", extra={"path": str(state), "mode": f"{mode:04o}"})
    except FileExistsError as exc:
        raise Broken(f"server: state {state}: it is not a directory", hint=elsewhere) from exc
    except OSError as exc:
        raise Broken(f"server: state {state}: {exc.strerror or exc}", hint=elsewhere) from exc


def _follows_listen(server: ServerSettings) -> bool:
    """Whether the public address is just the one that is listened on, as the loader makes it unless it is told."""
    return server.public_url == f"{_scheme(server)}://{server.listen}"


def _nearest(server: ServerSettings) -> str:
    """How programs on this machine reach it: where it listens; with TLS under the name that its certificate has."""
    if server.certificate:
        return server.public_url
    address = server.listen.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    return f"http://{address}"


def _pins(server: ServerSettings) -> Pins | None:
    """What our certificate is known by, if it has to be: those that this machine trusts for our name need no pin."""
    if not server.certificate:
        return None
    certificate, key = Path(server.certificate), Path(server.certificate_key)
    name = urlsplit(server.public_url).hostname or ""
    return None if pins.is_trusted(certificate, key, name) else pins.pins(certificate)


def _scheme(server: ServerSettings) -> str:
    return "https" if server.certificate else "http"


def bind(listen: str) -> socket.socket:
    """A socket on `host:port`; `Broken` with the reason if the address is taken or not ours."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named: asyncio sets TCP_NODELAY only where it is, else an answer waits 40 ms for its second half.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
        bound(sock)
    except (OSError, ValueError) as exc:
        sock.close()
        reason = exc.strerror if isinstance(exc, OSError) else "not host:port"
        raise Broken(f"server: {listen}: {reason}", hint="paddock serve --listen 127.0.0.1:0 takes any port") from exc
    return sock
