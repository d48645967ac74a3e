"""What a library names and nobody uses is not loaded; what is used is there."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # each starts a Python of its own


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_who_speaks_frames_loads_neither_an_http_client_nor_a_reader_of_mails() -> None:
    loaded = said(
        "import sys; from paddock.hands import deferring; deferring.defer(*deferring.HEAVY);"
        "import paddock.hands.websocket; print(sorted({'http.client', 'email', 'zipfile'} & set(sys.modules)))"
    )
    assert loaded == "[]"


@pytest.mark.parametrize(
    "use", ["urllib.request.getproxies_environment()", "importlib.metadata.version('websockets') and {}"]
)
def test_what_was_deferred_works_as_soon_as_it_is_used(use: str) -> None:
    name = use.partition("(")[0].rpartition(".")[0]
    found = said(
        f"import os; os.environ.pop('http_proxy', 0); from paddock.hands.deferring import defer; defer('{name}');"
        f"import {name}; print(type({use}).__name__)"
    )
    assert found == "dict"


def test_what_is_loaded_already_stays_as_it_is() -> None:
    same = said(
        "import sys, urllib.request; before = sys.modules['urllib.request'];"
        "from paddock.hands.deferring import defer; defer('urllib.request');"
        "print(sys.modules['urllib.request'] is before and urllib.request is before)"
    )
    assert same == "True"
