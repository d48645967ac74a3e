"""What the agent knows of its cloud: at once what it knew before, then what this boot says.

Effects: idempotent; the file is news, not memory.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import asdict

from paddock.agent import durable
from paddock.agent.cloud.facts import CloudFacts, word, words
from paddock.agent.settings import Settings

_log = logging.getLogger(__name__)

FILE = "cloud"


class Surroundings:
    """Shared by whoever says facts. The enrolment code is never kept on disk."""

    def __init__(self, chosen: Settings, *, boot_id: str) -> None:
        self._settings = chosen
        self._boot_id = boot_id
        self._path = chosen.state / FILE
        self.asked = asyncio.Event()
        """Set when all that will be known soon is known."""
        self._asking = asyncio.Lock()
        self._is_fresh = False
        self._known = CloudFacts(name="" if chosen.cloud.lower() == "none" else chosen.cloud)

    @property
    def known(self) -> CloudFacts:
        """What is known now; nobody waits for more."""
        return self._known

    def recall(self) -> None:
        """What was known before, as long as the cloud is the one that was told; of this boot, it need not be asked."""
        if self._known.instance:
            return
        told = durable.read(self._path)
        if not isinstance(told, dict):
            return
        addresses = told.get("addresses")
        before = CloudFacts(
            name=word(told.get("name")),
            instance=word(told.get("instance")),
            addresses=words(*addresses) if isinstance(addresses, list) else (),
        )
        if self._settings.cloud and before.name != self._known.name:
            return
        self._known = before
        self._is_fresh = told.get("boot_id") == self._boot_id and bool(before.instance)

    async def refresh(self, *, code: bool = False) -> CloudFacts:
        """Ask, once a boot; within the budget. With `code` it is asked again: a code is not remembered on disk."""
        try:
            return await self._refresh(code=code)
        finally:
            self.asked.set()

    async def _refresh(self, *, code: bool) -> CloudFacts:
        async with self._asking:
            chosen = self._settings
            if chosen.is_local or (self._is_fresh and (self._known.code or not code)):
                return self._known
            # Rarely needed: once a boot.
            from paddock.agent.cloud import probing

            found = await probing.probe(chosen.rootfs, told=chosen.cloud, url=chosen.metadata_url)
            self._is_fresh = True
            if found.instance:
                self._known = found
                await asyncio.to_thread(self._keep, found)
                _log.info("the cloud is known", extra={"cloud": found.name, "instance": found.instance})
            return self._known

    def _keep(self, found: CloudFacts) -> None:
        kept = asdict(found)
        del kept["code"]
        kept["addresses"] = list(found.addresses)
        with suppress(OSError):  # on a full disk it is asked again
            durable.write(self._path, {**kept, "boot_id": self._boot_id})
