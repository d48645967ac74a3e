"""What goes wrong for a client beyond what the server says in so many words."""

from paddock.core.errors import Broken, Refused, Stale


class Unreachable(Broken):
    """No answer came: the server is not there, or the way to it is not."""


class NotAllowed(Refused):
    """The server does not know who asks, or does not let them."""


class NoEnvironment(Refused):
    """The lease was not granted, and will not be."""


class LeaseLost(Stale):
    """The lease ended while it was held: what it lent may be somebody else's by now."""
