"""What everybody who draws names and secrets promises."""

import pytest

from paddock.adapters.chances.system import SystemChance
from paddock.ports import Chance
from paddock.testing import FakeChance


@pytest.fixture(params=[FakeChance, SystemChance])
def chance(request: pytest.FixtureRequest) -> Chance:
    drawn: Chance = request.param()
    return drawn


def test_names_begin_with_their_prefix_and_do_not_come_twice(chance: Chance) -> None:
    names = [chance.name(prefix) for prefix in ("run", "lease", "run") for _ in range(50)]
    assert len(set(names)) == 150
    assert all(name.startswith(("run", "lease")) and name.isalnum() and len(name) < 20 for name in names)


def test_secrets_are_long_printable_and_do_not_come_twice(chance: Chance) -> None:
    secrets = {chance.secret() for _ in range(50)}
    assert len(secrets) == 50
    assert all(len(secret) >= 43 and secret.isprintable() and " " not in secret for secret in secrets)


def test_shares_are_below_one(chance: Chance) -> None:
    assert all(0 <= chance.share() < 1 for _ in range(50))


def test_the_fake_counts_and_throws_what_it_is_told() -> None:
    chance = FakeChance(shares=[0.0, 0.9])
    assert [chance.name("run"), chance.name("lease"), chance.name("run")] == ["run1", "lease1", "run2"]
    assert [chance.share() for _ in range(3)] == [0.0, 0.9, 0.0]
