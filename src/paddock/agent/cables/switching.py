"""Who gets a frame: addresses given or learned, and no speaking in another's name.

Effects: none.
"""

from collections.abc import Mapping

FLOWS = 4096
"""Pairs of addresses that a table remembers the answer of; more are only slower."""
LEARNED = 1024
"""Addresses that are learned of one port; a guest that invents more is not listened to further."""
_GROUP = 1


class Table:
    """Which port has which addresses. A port that was given addresses sends from them alone; others are learned from,
    but never believed what was given to somebody else.
    """

    def __init__(self, given: Mapping[str, frozenset[bytes]]) -> None:
        """`given` has every port, with its addresses; a port without any may use whatever is nobody's."""
        self._given = dict(given)
        self._fixed = {mac: port for port, macs in given.items() for mac in macs}
        self._learned: dict[bytes, str] = {}
        self._flows: dict[tuple[str, bytes], tuple[str, ...]] = {}

    def keep(self, former: "Table") -> None:
        """Know what a former table has learned of ports that are still here."""
        self._learned = {
            mac: port
            for mac, port in former._learned.items()
            if mac not in self._fixed and not self._given.get(port, frozenset([mac]))
        }

    def targets(self, port: str, addresses: bytes) -> tuple[str, ...]:
        """Whoever gets a frame that came in at a port; `addresses` are its first twelve bytes, destination and source.

        Nobody, where the source is not the port's to use.
        """
        flow = self._flows.get((port, addresses))
        return flow if flow is not None else self._decide(port, addresses)

    def _decide(self, port: str, addresses: bytes) -> tuple[str, ...]:
        destination, source = addresses[:6], addresses[6:]
        if not self._may_send(port, source):
            return self._remember(port, addresses, ())
        if destination[0] & _GROUP:
            found = self._others(port)
        else:
            known = self._fixed.get(destination) or self._learned.get(destination)
            found = self._others(port) if known is None else () if known == port else (known,)
        return self._remember(port, addresses, found)

    def _may_send(self, port: str, source: bytes) -> bool:
        given = self._given[port]
        if given:
            return source in given
        if source[0] & _GROUP or source in self._fixed:
            return False
        if self._learned.get(source) != port:
            if sum(1 for owner in self._learned.values() if owner == port) >= LEARNED:
                return False
            self._learned[source] = port
            self._flows.clear()  # it was flooded, or is with somebody else now
        return True

    def _others(self, port: str) -> tuple[str, ...]:
        return tuple(other for other in self._given if other != port)

    def _remember(self, port: str, addresses: bytes, found: tuple[str, ...]) -> tuple[str, ...]:
        if len(self._flows) >= FLOWS:
            self._flows.clear()
        self._flows[port, addresses] = found
        return found
