"""Pages are whole, escape what others wrote, and ask nobody outside."""

import re
from dataclasses import replace

import httpx
import pytest

from paddock.core.environment import Left, State
from paddock.core.results import Case, Outcome
from paddock.ports import Tables
from paddock.web import pages, telling
from paddock.web.reading import need
from tests.web.conftest import HTML, ask
from tests.web.scene import HOSTILE, OPERATOR, PERSON, Scene, make

OUTSIDE = re.compile(r"""(src|href|action)=["'](?!/|#|\?|https?://(review|ci|wiki)\.example\.org)""")
PAGES = (
    "/",
    "/runs",
    "/runs/110/",
    "/runs/110/?machine=compute",
    "/runs/110/?machine=all",
    "/runs/118/",
    "/runs/119/",
    "/runs/121/",
    "/rounds/30",
    "/rounds/43",
    "/changes/review/912340",
    "/changes/review/912345",
    "/environments",
    "/environments/two-node-1",
    "/environments/two-node-4",
    "/hosts",
    "/agents/a-vm-1",
    "/agents/two-node-1.compute",
    "/leases",
    "/leases/l121",
    "/leases/l118",
    "/events",
    "/events/30",
    "/events/40",
    "/login",
    "/docs",
    "/runs?job=dsvm-migrate&verdict=failure",
    "/events?kind=gap",
)


@pytest.mark.slow
@pytest.mark.parametrize("secret", ["", OPERATOR])
async def test_every_page_is_whole_and_its_text_is_text(scene: Scene, secret: str) -> None:
    async with ask(scene, secret) as client:
        for page in PAGES:
            answer = await client.get(page, headers=HTML)
            assert answer.status_code == 200, page
            assert answer.text.rstrip().endswith("</html>"), page
            assert "<script>" not in answer.text, page
            assert not re.search(
                r"""(src|href|action)=["'](?!/|#|\?|https?://(review|ci|wiki)\.example\.org)""", answer.text
            ), page
            assert " style=" not in answer.text, page
            assert not re.search(r"\son\w+=", answer.text), page


async def test_hostile_text_is_shown_as_it_was_written(client: httpx.AsyncClient) -> None:
    shown = HOSTILE.replace("<", "&lt;").replace(">", "&gt;")
    for page in ("/runs/110/", "/changes/review/912340", "/events", "/events/30", "/rounds/30", "/runs"):
        assert shown in (await client.get(page)).text, page


async def test_every_answer_forbids_what_it_does_not_need(client: httpx.AsyncClient) -> None:
    for address in ("/", "/api/v1/runs", "/static/paddock.css", "/nowhere", "/runs/110/log/main-2-controller"):
        headers = (await client.get(address, headers=HTML)).headers
        assert "default-src 'none'" in headers["content-security-policy"], address
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


async def test_a_first_day_says_what_to_do_next() -> None:
    scene = await make(empty=True)
    async with ask(scene) as client:
        for page, words in {
            "/": "Nothing runs.",
            "/runs": "No run yet.",
            "/environments": "None is built",
            "/hosts": "No host is configured.",
            "/leases": "Nothing is lent.",
            "/events": "Nothing was heard yet.",
        }.items():
            assert words in (await client.get(page)).text, page


async def test_now_shows_who_waits_and_why(client: httpx.AsyncClient) -> None:
    page = (await client.get("/")).text
    assert "1 leased, 1 held, 1 cleaning, 1 quarantined, at most 4" in page
    assert 'class="sq quarantined"' in page
    assert 'aria-label="two-node-4: quarantined"' in page


async def test_a_run_that_failed_shows_its_failed_tests_first_and_what_differs(client: httpx.AsyncClient) -> None:
    page = (await client.get("/runs/110/")).text
    assert page.index("test_case_02") < page.index("test_case_00")
    assert "main-2-controller line 82" in page
    assert "all 40 instances migrated" in page
    assert 'aria-label="earlier runs, oldest first: passed, passed, failed, passed, failed"' in page


async def test_a_run_whose_environment_is_held_for_it_says_until_when(scene: Scene) -> None:
    async def told(held_for: Left | None, state: State = State.HELD) -> tuple[str | None, bool]:
        def hold(tables: Tables) -> None:
            row = need(tables.environments, "two-node-3", "environment")
            tables.environments.swap(row, replace(row, held_for=held_for, state=state))

        await scene.store.write(hold)
        async with ask(scene, PERSON) as client:
            answer = (await client.get("/api/v1/runs/110")).json()
            return answer["held_until"], ", held until " in (await client.get("/runs/110/")).text

    environment = await scene.store.read(lambda tables: need(tables.environments, "two-node-3", "environment"))
    assert await told(None) == (None, False)
    assert await told(Left(run="111", job="dsvm-migrate")) == (None, False)
    assert await told(Left(run="110", job="dsvm-migrate")) == (telling.moment(environment.hold_until), True)
    assert await told(Left(run="110", job="dsvm-migrate"), State.BROKEN) == (None, False)


async def test_the_report_stands_as_it_was_posted(client: httpx.AsyncClient) -> None:
    page = (await client.get("/changes/review/912340")).text
    told = re.sub(r"<[^>]+>", "", page[page.index('<pre class="report">') :])
    assert told.startswith(
        "Build failed.\n\n- dsvm-migrate https://ci.example.org/runs/110/ : FAILURE in 41m 24s\n\nContact: "
    )


async def test_a_gap_is_marked(client: httpx.AsyncClient) -> None:
    page = (await client.get("/events")).text
    assert '<tr class="gap"' in page
    assert "connection reset by peer" in page


async def test_a_line_can_be_linked_to(client: httpx.AsyncClient) -> None:
    page = (await client.get("/runs/110/?machine=controller")).text
    assert 'id="main-2-controller-L82"' in page
    assert 'href="#main-2-controller-L82"' in page


async def test_the_address_without_a_slash_leads_to_the_one_that_is_posted(client: httpx.AsyncClient) -> None:
    answer = await client.get("/runs/110")
    assert (answer.status_code, answer.headers["location"]) == (308, "/runs/110/")


@pytest.mark.parametrize("address", ["/runs/999/", "/nowhere", "/changes/review/x", "/events/x", "/static/../app.py"])
async def test_what_is_not_there_is_said_kindly(client: httpx.AsyncClient, address: str) -> None:
    answer = await client.get(address, headers=HTML)
    assert answer.status_code == 404
    assert "Not here" in answer.text
    assert (await client.get(address)).json()["error"]["code"] == "missing"


async def test_a_private_server_asks_a_reader_to_log_in() -> None:
    scene = await make(private=True)
    async with ask(scene) as client:
        answer = await client.get("/runs/110/", headers=HTML)
    assert answer.status_code == 401
    assert 'href="/login?back=/runs/110/"' in answer.text


async def test_static_files_may_be_kept_under_the_address_that_pages_use(client: httpx.AsyncClient) -> None:
    page = (await client.get("/")).text
    address = re.search(r'href="(/static/paddock\.css\?v=\w+)"', page)
    assert address
    assert "immutable" in (await client.get(address[1])).headers["cache-control"]
    assert (await client.get("/static/paddock.css")).headers["cache-control"] == "no-cache"


async def test_a_defect_of_ours_ends_one_request_and_shows_no_traceback(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.store, "read", None)
    async with ask(scene) as client:
        answer = await client.get("/runs", headers=HTML)
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert "Something is broken" in answer.text


async def told_of(scene: Scene, *cases: Case, problems: tuple[str, ...] = (), refused: str = "") -> tuple[str, str]:
    """What the run page says of tests and of artifacts, when the run read these and an artifact was refused so."""

    def write(tables: Tables) -> None:
        old = need(tables.results, "110", "results")
        tables.results.swap(old, replace(old, cases=cases, problems=problems))
        if refused:
            like = next(row for row in tables.commands.where(run="110"))
            result = {"refused": [{"path": "logs/a", "why": refused}]}
            name = f"{like.id}-artifacts"
            tables.commands.add(
                replace(like, id=name, seq=999, method="file.collect", step=2, outputs={}, result=result)
            )

    await scene.store.write(write)
    async with ask(scene) as client:
        text = (await client.get("/runs/110/", headers=HTML)).text
    tests = re.search(r'<section data-live id="tests">.*?</section>', text, re.DOTALL)
    artifacts = re.search(r'<section data-live id="artifacts">.*?</section>', text, re.DOTALL)
    assert artifacts
    return tests.group() if tests else "", artifacts.group()


PASSED = Case(suite="s", name="good", outcome=Outcome.PASSED)


async def test_no_test_is_no_success(scene: Scene) -> None:
    tests, _ = await told_of(scene)
    assert "No test results were read" in tests
    assert "✓" not in tests
    assert "good" not in tests


async def test_results_that_could_not_be_read_stand_with_the_tests_and_are_no_success(scene: Scene) -> None:
    tests, artifacts = await told_of(scene, PASSED, problems=("one/result.xml: not XML",))
    assert "one/result.xml: not XML" in tests
    assert "one/result.xml: not XML" not in artifacts
    assert "all passed" not in tests


async def test_artifacts_that_were_refused_stand_with_the_artifacts(scene: Scene) -> None:
    machine = (await scene.store.read(lambda tables: tables.commands.where(run="110")))[0].machine
    said = f"{machine}/logs/a: a symbolic link"
    tests, artifacts = await told_of(scene, PASSED, problems=(said,), refused="a symbolic link")
    assert said not in tests
    assert said in artifacts
    assert "all passed" in tests


async def test_tests_that_were_all_skipped_did_not_pass(scene: Scene) -> None:
    tests, _ = await told_of(scene, replace(PASSED, outcome=Outcome.SKIPPED))
    assert "all skipped" in tests
    assert "passed" not in tests


async def test_a_server_that_is_drained_says_so_and_is_well(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        assert "No new run is started" not in (await client.get("/", headers=HTML)).text
        await client.post("/api/v1/drain", json={})
        assert "No new run is started" in (await client.get("/", headers=HTML)).text
        answer = await client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"healthy": True, "draining": True, "reasons": {}})


def test_every_template_can_be_compiled() -> None:
    templates = pages._templates()
    assert [templates.get_template(name).name for name in templates.list_templates()]
