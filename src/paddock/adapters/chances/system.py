"""The kernel's randomness, as short names and long secrets.

Effects: none
"""

import secrets

from paddock.core.redaction import MARK

_ALPHABET = "23456789abcdefghjkmnpqrstvwxyz"
"""Without letters and digits that are taken for each other when somebody reads them out."""
_LENGTH = 10
"""30^10 names: two in a billion drawn collide with a chance of one in a thousand, and a store refuses the second."""


class SystemChance:
    """Names to type, secrets to keep."""

    def name(self, prefix: str) -> str:
        return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))

    def secret(self) -> str:
        return MARK + secrets.token_urlsafe(32)

    def share(self) -> float:
        return secrets.randbelow(1 << 53) / (1 << 53)
