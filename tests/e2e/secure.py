"""A house whose server speaks TLS under a certificate of its own, as guests and hosts reach it."""

import ipaddress
import json
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.guest import HOUSE
from tests.story.house import House

OVER = ("complete", "failed")
SETTINGS = """\
- server:
    listen: '127.0.0.1:0'
    public-url: '{url}'
    state: {state}
    tls: {{certificate: {certificate}, key: {certificate}}}
"""


class SecureHouse(House):
    """A server with TLS. Guests find it as 10.0.2.2, this machine as 127.0.0.1: the certificate is for both."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"https://127.0.0.1:{self._port}"
        self.seen_from_guests = f"https://{HOUSE}:{self._port}"
        self.certificate = directory / "server.pem"
        """Key and certificate."""
        self.public = directory / "public.pem"
        """The certificate alone."""
        _certify(self.certificate, HOUSE, "127.0.0.1", public=self.public)

    def furnish(self, *hosts: str, rest: str = "") -> None:
        """Write the settings: the server, these hosts, then `rest`."""
        server = SETTINGS.format(url=self.seen_from_guests, state=self.state, certificate=self.certificate)
        known = "".join(f"- host: {{name: {name}, skills: [local]}}\n" for name in hosts)
        self.config.write_text(server + known + rest)

    def one_liner(self, host: str) -> str:
        """What `paddock host add` prints for a person to paste on the machine."""
        return str(self.post("enrolments", host=host)["command"])

    # ---- agents

    def agent_of(self, host: str) -> dict[str, Any]:
        """The agent that stands for a host, with all that the API tells of it."""
        id = self.get(f"hosts/{host}")["agent"]
        found: dict[str, Any] = self.get(f"agents/{id}")
        return found

    def until_connected(self, host: str, *, limit: float = 60) -> dict[str, Any]:
        """The agent of a host, once it is in a session."""

        def look() -> dict[str, Any] | None:
            try:
                found = self.agent_of(host)
            except httpx.HTTPStatusError:  # there is no agent yet
                return None
            return found if found["connected"] else None

        found = self.until(look, f"the agent of {host} is connected", limit=limit)
        assert found is not None
        return found

    def order(self, agent: str, method: str, *, id: str = "", **params: Any) -> dict[str, Any]:
        """Queue a command, and return it as it is then."""
        named = {"id": id} if id else {}
        ordered: dict[str, Any] = self.post(f"agents/{agent}/commands", method=method, params=params, **named)
        return ordered

    def over(self, agent: str, id: str, *, limit: float = 60) -> dict[str, Any]:
        """A command, once it has ended."""

        def look() -> dict[str, Any] | None:
            row: dict[str, Any] = self.get(f"agents/{agent}/commands/{id}", wait=5)
            return row if row["state"] in OVER else None

        row = self.until(look, f"command {id} is over", limit=limit)
        assert row is not None
        return row

    def ask(self, agent: str, method: str, *, limit: float = 60, **params: Any) -> dict[str, Any]:
        """Have it done, and return the command, however it ended."""
        return self.over(agent, self.order(agent, method, **params)["id"], limit=limit)

    def call(self, agent: str, method: str, *, limit: float = 60, **params: Any) -> Mapping[str, Any]:
        """Have it done, and return its result; fails the test if it is not complete."""
        row = self.ask(agent, method, limit=limit, **params)
        assert row["state"] == "complete", f"{method}: {row['code']}: {row['message']}\n{self.output(row)}"
        result: Mapping[str, Any] = row["result"]
        return result

    def refused(self, agent: str, method: str, **params: Any) -> str:
        """Have it refused by the agent, and return its reason."""
        row = self.ask(agent, method, **params)
        assert (row["state"], row["code"]) == ("failed", "refused"), json.dumps(row)
        return str(row["message"])

    def output(self, command: Mapping[str, Any]) -> str:
        """All that a command has printed; of one that has ended: once its last byte is here, which may be later."""
        path = f"{self.url}/api/v1/agents/{command['agent']}/commands/{command['id']}/output"

        def look() -> httpx.Response | None:
            query = {"limit": 16 << 20, "offset": 0}
            answer = self._http.get(path, headers=self._headers(), params=query)
            is_whole = command["state"] not in OVER or answer.headers.get("Paddock-Ended") == "yes"
            return answer if answer.is_error or is_whole else None

        answer = self.until(look, f"the output of {command['id']} is whole")
        assert answer is not None
        return answer.text if answer.is_success else ""


def _certify(path: Path, *addresses: str, public: Path) -> None:
    """Key and certificate of these addresses, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, addresses[0])])
    named = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(one)) for one in addresses])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(named, critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    path.write_bytes(secret + public.read_bytes())
