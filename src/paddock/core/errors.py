"""Everything raised on purpose, as one tree.

A message is "<name>: <fact>", written for the operator: no full stop, no "error", no "failed to". `hint` says what
to do
about it, where there is something to do.
"""


class PaddockError(Exception):
    """The root: whatever Paddock raises on purpose is one of these."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Refused(PaddockError):
    """The request is understood and will not be carried out: its sender has to change something."""


class Stale(Refused):
    """The fence or epoch that was shown is over: somebody else owns the thing now."""


class NotAllowed(Refused):
    """Whoever asks has not the right to it: a person of another role may ask the same."""


class NotOffered(Refused):
    """The agent has no such method; another agent, or a newer one, may have it."""


class Conflict(Refused):
    """The row was changed by somebody else since it was read: read it again and decide again."""


class Missing(PaddockError):
    """There is no such thing."""


class Unbuilt(Missing):
    """What it would be made of is not there: that has to be built first, and room for it to be booked."""


class Broken(PaddockError):
    """Something that should work does not: a disk, a forge, a process. Nobody who asked is to blame."""
