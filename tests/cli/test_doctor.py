"""`paddock doctor`: a line a check, and how to mend what is wrong."""

from pathlib import Path

from paddock.client.finding import record
from paddock.wire import shapes
from tests.cli.conftest import Paddock
from tests.client.desk import Desk


def _hosts(*states: str) -> shapes.Hosts:
    return shapes.Hosts(
        items=tuple(
            shapes.Host(
                name=f"h{number}", state=state, since="", agent="a1", skills=("local",), drained_by="", reason=""
            )
            for number, state in enumerate(states)
        )
    )


def test_a_server_in_order_is_ok_in_every_line(paddock: Paddock, desk: Desk) -> None:
    desk.extra["GET", "/whoami"] = shapes.Whoami(name="anna", role="person")
    desk.extra["GET", "/hosts"] = _hosts("online")
    said = paddock("doctor")
    assert said.code == 0
    assert "✓ server " in said.out
    assert "✓ token           anna, person (from PADDOCK_TOKEN)" in said.out
    assert "✓ host h0" in said.out
    assert said.out.endswith("nothing to mend\n")


def test_what_is_wrong_stands_with_the_command_that_mends_it(paddock: Paddock, desk: Desk) -> None:
    desk.extra["GET", "/whoami"] = shapes.Whoami(name="anna", role="person")
    desk.extra["GET", "/hosts"] = _hosts("joining", "lost", "draining")
    said = paddock("doctor", "--json")
    found = {row["check"]: (row["state"], row["mend"]) for row in said.objects}
    assert said.code == 1
    assert found["host h0"] == ("broken", "paddock host add h0")
    assert found["host h1"][0] == "broken"
    assert found["host h2"] == ("note", "paddock host resume h2")


def test_a_server_that_is_not_there_is_to_mend(paddock: Paddock) -> None:
    said = paddock("doctor", "--server", "http://127.0.0.1:9")
    assert said.code == 1
    assert "✗ server          http://127.0.0.1:9: Connection refused" in said.out
    assert "mend: paddock serve paddock.yaml" in said.out


def test_a_state_that_others_can_read_is_to_mend(paddock: Paddock, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    (state / "operator.token").write_text("x\n")
    (state / "operator.token").chmod(0o644)
    record(url="http://127.0.0.1:9", state=state)
    found = {row["check"]: row for row in paddock("doctor", "--json", "--state", str(state)).objects}
    assert found["state"]["state"] == "broken"
    assert str(state / "operator.token") in found["state"]["found"]
    assert found["state"]["mend"] == f"chmod -R go= {state}"


def test_a_configuration_here_is_looked_at(paddock: Paddock, tmp_path: Path) -> None:
    (tmp_path / "paddock.yaml").write_text("- hosts: {}\n")
    found = {row["check"]: row for row in paddock("doctor", "--json").objects}
    assert found["configuration"]["state"] == "broken"
    assert found["configuration"]["mend"] == "paddock validate paddock.yaml"
