"""What a certificate is known again by, and whether that is needed.

Effects: none; it reads the two files.
"""

import base64
import hashlib
import ssl as tls
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddock.core.errors import Refused

_SEQUENCE, _VERSION = 0x30, 0xA0
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True, kw_only=True)
class Pins:
    """`certificate` is its SHA-256 as 64 hex digits, for agents; `key` that of its public key, as curl takes it."""

    certificate: str
    key: str


def pins(certificate: Path) -> Pins:
    """Of the first certificate in a PEM file. Refused if there is none."""
    try:
        text = certificate.read_text("ascii", "replace")
        der = tls.PEM_cert_to_DER_cert(_BEGIN + text.split(_BEGIN)[1].split(_END)[0] + _END)
        key = base64.b64encode(hashlib.sha256(_public_key(der)).digest()).decode()
    except OSError as exc:
        raise Refused(f"{certificate}: {exc.strerror}") from exc
    except (IndexError, ValueError) as exc:
        raise Refused(f"{certificate}: holds no certificate") from exc
    return Pins(certificate=hashlib.sha256(der).hexdigest(), key=f"sha256//{key}")


def is_trusted(certificate: Path, key: Path, name: str) -> bool:
    """Whether a program on this machine that trusts the system's authorities would take it for `name`.

    Asked of TLS itself: both ends shake hands here, in memory.
    """
    try:
        ours = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
        ours.load_cert_chain(certificate, key)
        theirs = tls.create_default_context()
        to_server, to_client = tls.MemoryBIO(), tls.MemoryBIO()
        client = theirs.wrap_bio(to_client, to_server, server_hostname=name)
        server = ours.wrap_bio(to_server, to_client, server_side=True)
        # The client is content after its second turn.
        for end in (client, server, client):
            try:
                end.do_handshake()
            except tls.SSLWantReadError:
                continue
    except (OSError, ValueError):
        return False
    return client.version() is not None and client.getpeercert() is not None


def _public_key(der: bytes) -> bytes:
    """SubjectPublicKeyInfo: the seventh field of what is signed, or the sixth where no version is told (RFC 5280)."""
    [(_, whole)] = list(_fields(der))[:1]
    [(_, signed)] = list(_fields(_content(whole)))[:1]
    fields = list(_fields(_content(signed)))
    place = 6 if fields[0][0] == _VERSION else 5
    kind, key = fields[place]
    if kind != _SEQUENCE:
        raise ValueError("not a certificate")
    return key


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and bytes of each element of DER, one after the other."""
    while data:
        length = _header(data) + _length(data)
        yield data[0], data[:length]
        data = data[length:]


def _content(element: bytes) -> bytes:
    return element[_header(element) :]


def _header(data: bytes) -> int:
    return 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)


def _length(data: bytes) -> int:
    if not data[1] & 0x80:
        return data[1]
    return int.from_bytes(data[2 : 2 + (data[1] & 0x7F)], "big")
