"""What goes wrong for a client beyond what the server says in so many words."""

from paddock.core.errors import Broken, Refused, Stale
from paddock.core.errors import NotAllowed as NotAllowed


class Unreachable(Broken):
    """No answer came: the server is not there, or the way to it is not."""


class NoEnvironment(Refused):
    """The lease was not granted, and will not be."""


class LeaseLost(Stale):
    """The lease ended while it was held: what it lent may be somebody else's by now."""
