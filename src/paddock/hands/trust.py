"""Whom a TLS connection trusts: authorities, one certificate, or a fingerprint.

Effects: none.
"""

import hashlib
import hmac
import ssl as tls
from pathlib import Path

from paddock.core.errors import Refused


def trusting(
    *, authorities: Path | None = None, certificate: Path | None = None, fingerprint: str = ""
) -> tls.SSLContext:
    """A TLS context that verifies certificate and host name.

    Against the system's authorities, a file of authorities, or one pinned certificate (nothing else is then trusted).
    With a `fingerprint` (SHA-256 of the certificate in DER, 64 hex digits) that alone is asked for: whoever has the
    key of that very certificate is the server, whatever name or date it bears.
    """
    if fingerprint:
        return _pinned(fingerprint)
    given = authorities or certificate
    try:
        context = tls.create_default_context(cafile=given)
    except (OSError, tls.SSLError) as exc:
        raise Refused(f"{given}: {exc}") from exc
    context.minimum_version = tls.TLSVersion.TLSv1_2
    if certificate is not None:
        # The certificate itself is the anchor, though it signed nothing.
        context.verify_flags |= tls.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    return context


def fingerprint_of(text: str) -> str:
    """A SHA-256 fingerprint as people write it (colons, capitals, `sha256:` before it) as 64 hex digits.

    Empty for anything else.
    """
    digits = text.strip().lower().removeprefix("sha256:").removeprefix("sha256 fingerprint=").replace(":", "")
    return digits if len(digits) == 64 and set(digits) <= set("0123456789abcdef") else ""


def _pinned(fingerprint: str) -> tls.SSLContext:
    wanted = bytes.fromhex(fingerprint)

    class Pinned(tls.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()  # raises until all of it was exchanged
            found = hashlib.sha256(self.getpeercert(binary_form=True) or b"").digest()
            if not hmac.compare_digest(found, wanted):
                raise tls.SSLCertVerificationError(f"the certificate's SHA-256 is {found.hex()}, not the pinned one")

    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.minimum_version = tls.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = tls.CERT_NONE  # the digest is checked instead, before a byte of ours is sent
    context.sslobject_class = Pinned
    return context
