"""What is fetched is what is pinned, or it is not kept."""

import hashlib
import os
from pathlib import Path

import pytest

from tools import maven

COORDINATES = "com.example:thing:1.0"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Maven that does what the test writes into it, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = tmp_path / "mvn"
    script.touch(mode=0o755)
    return script


def test_a_jar_is_fetched_once(registry: Path) -> None:
    registry.write_text("#!/bin/sh\nprintf right >thing-1.0.jar\n")
    digest = hashlib.sha256(b"right").hexdigest()
    first = maven.jar(COORDINATES, digest)
    registry.write_text("#!/bin/sh\nexit 1\n")
    assert maven.jar(COORDINATES, digest) == first
    assert first.read_bytes() == b"right"


def test_a_jar_with_another_digest_is_refused_and_not_kept(registry: Path, tmp_path: Path) -> None:
    registry.write_text("#!/bin/sh\necho forged >thing-1.0.jar\n")
    with pytest.raises(maven.Forged, match="is pinned"):
        maven.jar(COORDINATES, "0" * 64)
    assert not list((tmp_path / "cache").rglob("*.jar"))


def test_a_jar_that_changed_in_the_cache_is_not_taken(registry: Path) -> None:
    registry.write_text("#!/bin/sh\nprintf right >thing-1.0.jar\n")
    digest = hashlib.sha256(b"right").hexdigest()
    maven.jar(COORDINATES, digest).write_bytes(b"wrong")
    assert maven.jar(COORDINATES, digest).read_bytes() == b"right"


def test_a_registry_that_does_not_answer_makes_it_unavailable_in_its_own_words(registry: Path) -> None:
    registry.write_text("#!/bin/sh\necho '[ERROR] Could not find artifact'\nexit 1\n")
    with pytest.raises(maven.Unavailable, match="Could not find artifact"):
        maven.jar(COORDINATES, "0" * 64)


def test_without_maven_it_is_unavailable(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(maven.Unavailable, match="no mvn"):
        maven.jar(COORDINATES, "0" * 64)
