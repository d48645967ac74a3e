"""Hostile tests share a server a file: whatever was done to it, the next test finds it well."""

from collections.abc import Iterator

import pytest

from tests.hostile.peers import Memory, is_well
from tests.story.house import House, house

PROJECT = """
- environment: {name: pair, machines: [{name: one}, {name: two}], host: local, max: 4}
- job:
    name: pair
    environment: pair
    trusted: true
    steps: [{name: work, run: 'true'}]
    results: ["*.xml"]
    artifacts: ["logs/**"]
- project: {name: openstack-dev/ci-sandbox, branches: [master], jobs: [pair]}
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server without agents and without events."""
    with house(tmp_path_factory.mktemp("house")) as built:
        built.configure(PROJECT)
        built.start_server()
        yield built


@pytest.fixture
def server(shared: House) -> Iterator[House]:
    """The shared server; after the test it is well, whoever it met."""
    yield shared
    assert shared.server is not None
    assert shared.server.poll() is None, shared.log("server")
    assert is_well(shared)


@pytest.fixture
def memory(server: House) -> Memory:
    assert server.server is not None
    measured = Memory(server.server.pid)
    measured.begin()
    return measured


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house that a test has for itself, not started yet."""
    with house(tmp_path_factory.mktemp("alone")) as built:
        yield built
