"""Sessions and buttons: a cookie that only our own pages can use."""

import re

import pytest

from tests.web.conftest import HTML, ask
from tests.web.scene import OPERATOR, PERSON, Scene

SAME = {"sec-fetch-site": "same-origin"}


async def test_a_token_becomes_a_cookie_that_no_script_and_no_other_site_can_use(scene: Scene) -> None:
    async with ask(scene) as client:
        answer = await client.post("/login", data={"token": PERSON, "back": "/runs"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Secure" in cookie


async def test_a_wrong_token_stays_at_the_door(scene: Scene) -> None:
    async with ask(scene) as client:
        answer = await client.post("/login", data={"token": "wrong"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "wrong" not in re.sub(r"<title>.*</title>", "", answer.text)


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", ""]
)
async def test_logging_in_leads_to_a_page_of_ours_alone(scene: Scene, back: str) -> None:
    async with ask(scene) as client:
        answer = await client.post("/login", data={"token": PERSON, "back": back})
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (SAME, 303),
        ({"origin": "http://ci.example.org"}, 303),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://ci.example.org"}, 403),
        ({}, 403),
    ],
)
async def test_a_button_must_stand_on_a_page_of_ours(scene: Scene, headers: dict[str, str], status: int) -> None:
    async with ask(scene, **headers) as client:
        answer = await client.post("/runs/118/cancel", headers={"cookie": f"paddock={PERSON}"})
    assert answer.status_code == status


async def test_the_api_takes_a_session_under_the_same_rule(scene: Scene) -> None:
    async with ask(scene) as client:
        cookie = {"cookie": f"paddock={PERSON}"}
        assert (await client.post("/api/v1/leases", json={"pool": "desk"}, headers=cookie)).status_code == 403
        answer = await client.post("/api/v1/leases", json={"pool": "desk"}, headers=cookie | SAME)
        assert answer.status_code == 201


async def test_buttons_are_shown_to_who_may_press_them(scene: Scene) -> None:
    page = "/environments/two-node-4"
    async with ask(scene) as client:
        for secret, shown in (("", False), (PERSON, False), (OPERATOR, True)):
            text = (await client.get(page, headers=HTML | {"cookie": f"paddock={secret}"})).text
            assert (f'action="{page}/clean"' in text) is shown, secret


async def test_each_button_does_what_it_says(scene: Scene) -> None:
    async with ask(scene, **SAME) as client:
        client.headers["cookie"] = f"paddock={OPERATOR}"
        for address, form in {
            "/environments/two-node-1/hold": {"hours": "2"},
            "/environments/two-node-3/release": {},
            "/environments/two-node-4/clean": {},
            "/environments/two-machines-2/quarantine": {"reason": "smells"},
            "/hosts/local/drain": {},
            "/hosts/local/resume": {},
            "/leases/l77aa/cancel": {},
            "/runs/118/cancel": {},
            "/runs/110/retry": {},
        }.items():
            answer = await client.post(address, data=form)
            assert answer.status_code == 303, (address, answer.text)
    lease, environment = await scene.store.read(
        lambda tables: (tables.leases.find("l77aa"), tables.environments.find("two-machines-2"))
    )
    assert lease
    assert environment
    assert (lease.state, environment.state, environment.reason) == ("cancelled", "quarantined", "smells")


async def test_what_the_engine_refuses_is_a_page_with_the_reason(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        answer = await client.post("/environments/two-node-2/hold", headers=HTML)
    assert answer.status_code == 409
    assert "environment" in answer.text


async def test_a_session_whose_token_is_over_reads_as_anyone(scene: Scene) -> None:
    async with ask(scene, **SAME) as client:
        client.headers["cookie"] = "paddock=revoked"
        assert (await client.get("/runs")).status_code == 200
        assert (await client.post("/runs/118/cancel")).status_code == 401
