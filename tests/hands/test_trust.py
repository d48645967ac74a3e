"""Fingerprints: one certificate is the server, whatever it says of itself."""

import hashlib
import ssl
from pathlib import Path

import pytest

from paddock.hands.links import Unreachable, connect, trusting
from paddock.hands.trust import fingerprint_of
from tests.hands.test_links import SHORT, certificate, server_tls, serving

__all__ = ["certificate", "server_tls"]


def digest(certificate: Path) -> str:
    text = certificate.read_text()
    der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :])
    return hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("kind", ["wss", "tls"])
async def test_a_pinned_fingerprint_is_enough_whatever_the_certificates_name(
    kind: str, tmp_path: Path, server_tls: ssl.SSLContext, certificate: Path
) -> None:
    async with serving(kind, tmp_path, server_tls) as url:
        trusted = trusting(fingerprint=digest(certificate))
        link = await connect(url.replace("127.0.0.1", "localhost"), deadline=SHORT, ssl=trusted)
        await link.send("hello")
        assert await link.receive() == "hello"
        await link.close("done")


@pytest.mark.parametrize("kind", ["wss", "tls"])
async def test_another_certificate_than_the_pinned_one_is_not_spoken_to(
    kind: str, tmp_path: Path, server_tls: ssl.SSLContext, certificate: Path
) -> None:
    async with serving(kind, tmp_path, server_tls) as url:
        with pytest.raises(Unreachable, match=f"SHA-256 is {digest(certificate)}, not the pinned one"):
            await connect(url, deadline=SHORT, ssl=trusting(fingerprint="ab" * 32))


def test_fingerprints_are_read_as_people_write_them() -> None:
    plain = "0123456789abcdef" * 4
    colons = ":".join(plain[at : at + 2] for at in range(0, 64, 2)).upper()
    for text in (plain, plain.upper(), colons, f"sha256:{plain}", f"SHA256 Fingerprint={colons}", f" {plain}\n"):
        assert fingerprint_of(text) == plain
    for text in ("", plain[:-1], plain[:-1] + "g", "/etc/paddock/server.pem"):
        assert fingerprint_of(text) == ""
