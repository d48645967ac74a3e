"""What every route works with, and who is asking."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from starlette.requests import HTTPConnection

from paddock.core.access import NOBODY, Identity
from paddock.core.configuration import Configuration
from paddock.ports import Archive, Clock, Store
from paddock.web.actions import Actions
from paddock.web.figures import Figures
from paddock.web.kit import Kit
from paddock.web.live import Feed, Tail
from paddock.web.logs import Logs

COOKIE = "paddock"
"""Name of the cookie that makes a browser a session."""
IDENTITY = "paddock.identity"
"""Key of the request's scope under which the door leaves who is asking."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Everything behind the routes: reading goes to store and archive, doing to the engine's actions."""

    store: Store
    archive: Archive
    actions: Actions
    configuration: Callable[[], Configuration]
    clock: Clock
    feed: Feed
    tail: Tail
    logs: Logs
    figures: Figures
    kit: Kit
    ailing: Callable[[], Mapping[str, str]]
    """What does not work now, by name; empty when all is well."""
    draining: Callable[[], bool]
    """Whether no new run is started until the next start of the server."""

    @property
    def now(self) -> datetime:
        return self.clock.now()

    @property
    def public_url(self) -> str:
        return self.configuration().server.public_url.rstrip("/")


def identity_of(connection: HTTPConnection) -> Identity:
    identity: Identity = connection.scope.get(IDENTITY, NOBODY)
    return identity
