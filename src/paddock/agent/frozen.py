"""Where the standalone agent begins: one program, the agent and the Python it starts.

Effects: none.
"""

import os
import sys
from collections.abc import MutableMapping

from paddock.agent.bundle.bundled import PROGRAM

_FLAGS = frozenset({"-I", "-S", "-E", "-s", "-u"})
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def main() -> None:
    """`-I -S -c CODE WORDS` as Python does it; else the agent's command line."""
    program = settle(os.environ)
    words = sys.argv[1:]
    while words and words[0] in _FLAGS:
        del words[0]
    if words[:1] == ["-c"] and len(words) > 1:
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        return
    sys.argv[0] = program or sys.argv[0]
    from paddock.agent.__main__ import main as begin

    begin()


def settle(environment: MutableMapping[str, str]) -> str:
    """Make the environment that of the machine again, for tasks; the file that was started, if that is known."""
    # Libraries that came along are for this program and for nobody whom it starts.
    before = environment.pop("LD_LIBRARY_PATH_ORIG", None)
    if before is not None:
        environment["LD_LIBRARY_PATH"] = before
    elif environment.get("LD_LIBRARY_PATH", "").startswith(os.path.dirname(sys.executable)):
        del environment["LD_LIBRARY_PATH"]
    for name in [name for name in environment if name.startswith("_PYI_")]:
        del environment[name]
    _trust_the_machine(environment)
    return environment.pop(PROGRAM, "")


def _trust_the_machine(environment: MutableMapping[str, str]) -> None:
    """The OpenSSL that came along looks where its maker's authorities were; here they may be elsewhere."""
    import ssl

    usual = ssl.get_default_verify_paths()
    if not usual.cafile and not usual.capath:
        for path in _AUTHORITIES:
            if os.path.exists(path):
                environment["SSL_CERT_FILE"] = path
                return


if __name__ == "__main__":
    main()
