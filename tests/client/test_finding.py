"""Where the server is and which token opens it."""

import json
import stat
from pathlib import Path

import pytest

from paddock.client import finding
from paddock.client.finding import DEFAULT_URL, find, record
from paddock.core.errors import Missing, Refused


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "XDG_STATE_HOME": str(tmp_path / "xdg")}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / "operator.token").write_text("operator-secret\n")
    return directory


def test_without_a_word_it_is_the_default_and_nobodys_token(home: dict[str, str]) -> None:
    place = find(environment=home)
    assert (place.url, place.token) == (DEFAULT_URL, "")


def test_the_server_that_was_served_last_is_found_with_its_token(home: dict[str, str], state: Path) -> None:
    record(url="http://127.0.0.1:4711", state=state, environment=home)
    place = find(environment=home)
    assert (place.url, place.token) == ("http://127.0.0.1:4711", "operator-secret")


def test_a_state_directory_alone_names_its_server(home: dict[str, str], state: Path) -> None:
    record(url="http://127.0.0.1:4711", state=state, environment=home)
    other = {"HOME": home["HOME"] + "-of-another", "PADDOCK_STATE": str(state)}
    place = find(environment=other)
    assert (place.url, place.token) == ("http://127.0.0.1:4711", "operator-secret")


def test_a_recorded_token_is_never_shown_to_another_server(home: dict[str, str], state: Path) -> None:
    record(url="http://127.0.0.1:4711", state=state, environment=home)
    assert find(server="http://elsewhere.example.org", environment=home).token == ""
    assert find(server="http://elsewhere.example.org", environment={**home, "PADDOCK_STATE": str(state)}).token == ""


def test_what_is_named_for_this_call_comes_before_the_environment(
    home: dict[str, str], state: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine\n")
    env = {**home, "PADDOCK_SERVER": "https://one.example.org", "PADDOCK_TOKEN": "theirs"}
    assert find(environment=env).url == "https://one.example.org"
    assert find(environment=env).token == "theirs"
    place = find(server="https://two.example.org/", token_file=str(mine), environment=env)
    assert (place.url, place.token) == ("https://two.example.org", "mine")


@pytest.mark.parametrize("content", ["", "   \n", "two words\n", "zweizeilig\nx\n"])
def test_a_file_without_one_token_in_it_is_refused(home: dict[str, str], tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(Refused, match="holds no token"):
        find(token_file=str(file), environment=home)


def test_a_token_file_that_is_not_there_is_missing(home: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(Missing, match="does not exist"):
        find(token_file=str(tmp_path / "no"), environment=home)


def test_an_address_that_is_none_is_refused(home: dict[str, str]) -> None:
    with pytest.raises(Refused, match="http://"):
        find(server="ci.example.org", environment=home)


def test_a_damaged_record_is_no_record(home: dict[str, str]) -> None:
    file = Path(home["XDG_STATE_HOME"]) / "paddock" / "server.json"
    file.parent.mkdir(parents=True)
    for damage in ("{", "[]", json.dumps({"url": 7})):
        file.write_text(damage)
        assert find(environment=home).url == DEFAULT_URL


def test_the_record_is_for_its_owner_alone(home: dict[str, str], state: Path) -> None:
    record(url="http://127.0.0.1:4711", state=state, environment=home)
    file = Path(home["XDG_STATE_HOME"]) / "paddock" / "server.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_user_without_a_home_can_serve(state: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record(url="http://127.0.0.1:1", state=state, environment={"XDG_STATE_HOME": str(tmp_path / "file" / "below")})
    assert json.loads((state / "server.json").read_text())["url"] == "http://127.0.0.1:1"


def test_a_place_does_not_print_its_token() -> None:
    assert "secret" not in repr(finding.Place(url="http://x", token="secret"))
