"""The page over the pool, signed in with a key: what it shows, to whom, and what it refuses."""

from __future__ import annotations

import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests
from doors import SETTINGS, TEAMS, Door
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send
from waiting import wait_for
from web_threads import start

from cluster.door.api import make_app
from cluster.door.files import FOLDER
from cluster.door.pages import routes
from cluster.door.settings import DoorSettings
from cluster.serving.api import make_app as make_serving
from cluster.serving.server import Server
from cluster.serving.settings import ServeSettings

PICTURES = Path(__file__).parents[3] / "build/report"
HTML = "<script>alert(1)</script><img src=x onerror=alert(2)>"
FILE = "<b onclick=alert(3)>.jsonl"
UNKNOWN = "ghost.first.1"
LONG = {"train": {**SETTINGS["train"], "steps": 100_000}}


def ask(door: Door, key: str | None, path: str, method: str = "GET", **more: Any) -> requests.Response:
    """A request as a browser on the page makes it."""
    headers = {"Origin": door.url, **more.pop("headers", {})}
    cookies = {} if key is None else {"odeformer_key": key}
    asked = {"headers": headers, "cookies": cookies, "allow_redirects": False, "timeout": 60, **more}
    return requests.request(method, f"{door.url}{path}", **asked)


Jobs = dict[str, str]
"""The id of a job of each team."""


@pytest.fixture(scope="module")
def jobs(door: Door) -> dict[str, str]:
    """An ended job of each team; that of docs has HTML wherever a user may write a text."""
    made = {}
    for team in TEAMS:
        file = door.upload(team, name=FILE)
        job = door.create(team, file, suffix=f"of-{team}", metadata={"note": HTML}, odeformer=LONG)
        door.client(team).fine_tuning.jobs.cancel(job.id)
        made[team] = job.id
    door.pool.wait(*(job.replace(".", "/") for job in made.values()))
    return made


def test_the_key_is_kept_where_no_script_and_no_other_site_can_use_it(door: Door, jobs: Jobs) -> None:
    asked = ask(door, None, f"/pool/jobs/{jobs['docs']}")
    assert asked.status_code == 401
    assert f'name="to" value="/pool/jobs/{jobs["docs"]}"' in asked.text
    form = {"key": f" {door.keys['docs']} ", "to": f"/pool/jobs/{jobs['docs']}"}
    entered = ask(door, None, "/pool/sign-in", "POST", data=form)
    assert (entered.status_code, entered.headers["Location"]) == (303, form["to"])
    cookie = entered.headers["Set-Cookie"]
    assert re.fullmatch(rf"odeformer_key={door.keys['docs']}; HttpOnly; Path=/pool; SameSite=lax", cookie)
    behind_tls = ask(door, None, "/pool/sign-in", "POST", data=form, headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in behind_tls.headers["Set-Cookie"]
    for path in ("/pool", f"/pool/jobs/{jobs['docs']}"):
        answer = ask(door, door.keys["docs"], path)
        assert answer.status_code == 200
        assert door.keys["docs"] not in answer.text + answer.url
    left = ask(door, door.keys["docs"], "/pool/sign-out", "POST")
    assert (left.status_code, left.headers["Location"]) == (303, "/pool")
    assert 'odeformer_key=""' in left.headers["Set-Cookie"]
    assert "Max-Age=0" in left.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "to", ["https://elsewhere.org", "//elsewhere.org", "/pool/../v1", "/pool\r\nX: y", ""]
)
def test_signing_in_leads_nowhere_else(door: Door, to: str) -> None:
    entered = ask(door, None, "/pool/sign-in", "POST", data={"key": door.keys["docs"], "to": to})
    assert entered.headers["Location"] == "/pool"


def test_a_wrong_a_revoked_and_a_missing_key_are_asked_for_again(door: Door) -> None:
    for given in ("wrong", "", "ode-" + "x" * 43, HTML):
        answer = ask(door, None, "/pool/sign-in", "POST", data={"key": given})
        assert (answer.status_code, "Set-Cookie" in answer.headers) == (401, False)
        assert "This key is not valid." in answer.text
    key, text = door.pool.add_key("docs")
    assert ask(door, text, "/pool").status_code == 200
    door.pool.revoke_key(key.id)
    answer = ask(door, text, "/pool")
    assert (answer.status_code, "not valid any more" in answer.text) == (401, True)
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert ask(door, None, "/pool/sign-in", "POST", data={"key": "x" * 5000}).status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.org"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_what_another_site_sends_changes_nothing(door: Door, jobs: Jobs, headers: dict[str, str]) -> None:
    before = door.pool.audit()
    changing = [
        (route.path.replace("{action}", "resume").replace("{job_id}", jobs["docs"]), method)
        for route in routes.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods - {"GET"}
    ]
    assert len(changing) == 3
    for path, method in changing:
        answer = ask(door, door.keys["docs"], path, method, headers=headers, data={"key": door.keys["docs"]})
        assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False), path
    assert door.pool.audit() == before


def test_a_foreign_job_is_shown_as_an_unknown_one_and_nothing_changes(door: Door, jobs: Jobs) -> None:
    paths = [
        (f"/pool/jobs/{{job}}{rest}", method)
        for rest, method in (("", "GET"), ("/cancel", "POST"), ("/resume", "POST"))
    ] + [("/pool?after={job}", "GET"), ("/pool?team={team}", "GET")]
    covered = {re.sub(r"/(cancel|resume)$", "/{action}", path.partition("?")[0].replace("{job}", "{job_id}"))
               for path, _ in paths}  # fmt: skip
    routed = {route.path for route in routes.router.routes if isinstance(route, APIRoute)}
    assert covered | {"/pool/sign-in", "/pool/sign-out"} == routed
    before = door.pool.audit(), door.pool.jobs()
    for team in TEAMS:
        for path, method in paths:

            def told(job: str, path: str = path, method: str = method, team: str = team) -> tuple[int, str]:
                whose = job.partition(".")[0]
                answer = ask(door, door.keys[team], path.format(job=job, team=whose), method)
                text = answer.text.replace(job, "ID").replace(f"team={whose}", "team=")
                return answer.status_code, re.sub(r"<time.*?</time>|\b\d+(\.\d+)? (min|s|h)\b", "", text)

            expected = told(UNKNOWN)
            for other in TEAMS:
                if other != team:
                    assert told(jobs[other]) == expected, (team, other, path)
    assert (door.pool.audit(), door.pool.jobs()) == before


def test_a_team_sees_its_own_and_an_admin_all(door: Door, jobs: Jobs) -> None:
    own = ask(door, door.keys["docs"], "/pool").text
    assert "of-docs" in own
    assert not [team for team in TEAMS if team != "docs" and team in own]
    all_teams = ask(door, door.admin, "/pool").text
    assert all(f"of-{team}" in all_teams and f"?team={team}" in all_teams for team in TEAMS)
    of_one = ask(door, door.admin, "/pool?team=sales").text
    assert "of-sales" in of_one
    assert "of-docs" not in of_one
    assert ask(door, door.admin, f"/pool/jobs/{jobs['sales']}").status_code == 200


def test_the_pool_by_http_is_the_part_of_the_team(door: Door) -> None:
    own = door.ask(door.keys["lab"], "GET", "/v1/fine_tuning/pool").json()
    assert [team["team"] for team in own["teams"]] == ["lab"]
    assert own["teams"][0]["max_queued"] == 1
    assert set(own["slots"]) == {"free", "busy", "starting"}
    assert str(door.folder) not in json.dumps(own)
    every = door.ask(door.admin, "GET", "/v1/fine_tuning/pool").json()
    assert {team["team"] for team in every["teams"]} >= {"lab"}


class Tags(HTMLParser):
    """The tags of a page, each with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_page_has_nothing_but_its_own(door: Door, jobs: Jobs) -> None:
    own, ended = door.keys["docs"], f"/pool/jobs/{jobs['docs']}"
    for path, key in {"/pool": door.admin, ended: own, "/pool/jobs/none": own, "/pool?team=x": None}.items():
        answer = ask(door, key, path)
        rules = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in rules
        assert "unsafe" not in rules
        assert answer.headers["Cache-Control"] == "no-store"
        for tag, attributes in Tags(answer.text).found:
            assert tag not in ("style", "img", "b onclick"), path
            assert not [name for name in attributes if name == "style" or name.startswith("on")], (tag, path)
            assert tag != "script" or attributes.get("src") == "/pool/static/live.js"
    page = ask(door, own, ended).text
    assert escape(HTML) in page
    assert escape(FILE) in page
    for file in ("style.css", "live.js"):
        assert ask(door, None, f"/pool/static/{file}").status_code == 200
    assert ask(door, own, "/pool/static/../rendering.py").status_code == 404
    assert ask(door, own, "/pool/static/%2e%2e/rendering.py").status_code == 404


def test_an_error_is_shown_as_text(door: Door) -> None:
    """A job whose file was damaged while it waited, and whose name is HTML."""
    holds = door.create("sales", door.upload("sales"), suffix="holds", odeformer=LONG)
    wait_for(lambda: door.pool.job("sales/holds/1").state == "running")
    file = door.upload("docs", name=FILE)
    door.create("docs", file, suffix="broken")
    [path] = (door.folder / "pool" / FOLDER / "docs" / file).iterdir()
    path.write_text("no JSON\n")
    door.client("sales").fine_tuning.jobs.cancel(holds.id)
    [broken] = door.pool.wait("docs/broken/1")
    assert (broken.state, FILE in str(broken.error)) == ("failed", True)
    for place in ("/pool", "/pool/jobs/docs.broken.1"):
        page = ask(door, door.keys["docs"], place).text
        assert f"{escape(FILE)} line 1 is not JSON" in page
        assert not [tag for tag, attributes in Tags(page).found if "onclick" in attributes]


def test_an_adapter_leads_to_the_playground_where_it_is_served(door: Door, browser: Any) -> None:
    file = door.upload("docs")
    job = door.create("docs", file, suffix="served")
    door.pool.wait("docs/served/1")
    serving = Server(
        ServeSettings(model="models:/base@champion", all_adapters=True, tracking_uri=door.pool.uri())
    )
    models = make_serving(serving)
    pool = make_app(DoorSettings())

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        """The door's paths and the server's at one port, as Ray Serve divides them."""
        is_door = str(scope.get("path", "")).startswith(("/pool", "/v1/files", "/v1/fine_tuning"))
        await (pool if is_door else models)(scope, receive, send)

    web, thread, url = start(both)
    try:
        context = browser.new_context()
        context.add_cookies([{"name": "odeformer_key", "value": door.keys["docs"], "url": f"{url}/pool"}])
        page = context.new_page()
        page.goto(f"{url}/pool/jobs/{job.id}")
        shown = page.locator("main").inner_text()
        name = "base--docs--served"
        for fact in ("models:/base/1", f"models:/{name}/1", f"train.jsonl ({file})", "accuracy"):
            assert fact in shown
        assert re.search("SHA-256 [0-9a-f]{64}", shown)
        page.click("text=Try it in the playground")
        page.wait_for_selector("#model option", state="attached")
        wait_for(lambda: page.locator("#model").input_value() == name)
        context.close()
    finally:
        web.should_exit = True
        thread.join()
        serving.end()
    # Where nothing serves it, it is not offered.
    context = browser.new_context()
    context.add_cookies([{"name": "odeformer_key", "value": door.keys["docs"], "url": f"{door.url}/pool"}])
    page = context.new_page()
    with page.expect_response("**/v1/models/*") as asked:
        page.goto(f"{door.url}/pool/jobs/{job.id}")
    assert asked.value.status == 404
    assert not page.locator("#playground").is_visible()
    context.close()


def test_a_curve_and_an_end_are_shown_while_it_trains_and_it_is_canceled(
    door: Door, jobs: Jobs, browser: Any
) -> None:
    job = door.create("docs", door.upload("docs"), suffix="watched", odeformer=LONG)
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on(
        "request", lambda asked: asked.url.startswith((door.url, "data:")) or complaints.append(asked.url)
    )
    page.goto(f"{door.url}/pool")
    page.fill("#key", door.keys["docs"])
    page.click("button:has-text('Sign in')")
    page.wait_for_url(f"{door.url}/pool")
    complaints.clear()  # the browser notes that the first page was not allowed yet
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "pool-1200.png", full_page=True)

    # Without another load of the page: the job goes on, and its curve grows.
    page.click("text=watched")
    page.wait_for_url(f"{door.url}/pool/jobs/{job.id}")
    loads: list[str] = []
    page.on("framenavigated", lambda frame: loads.append(frame.url))
    curve, steps = page.locator("polyline.training"), page.locator("#steps")
    wait_for(lambda: " " in (curve.get_attribute("points") or "" if curve.count() else ""))
    before = curve.get_attribute("points")
    wait_for(lambda: curve.get_attribute("points") != before)
    wait_for(lambda: re.search(r"step [\d,]+ of 100,000 · about .* left", steps.inner_text()))
    assert loads == []
    for width, scheme in ((375, "light"), (1200, "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        page.screenshot(path=PICTURES / f"pool-job-{width}.png", full_page=True)

    page.click("summary:has-text('Cancel this job')")
    page.click("button:has-text('Cancel the job')")
    wait_for(lambda: page.locator("#state").inner_text() == "cancelled")
    assert page.locator("summary:has-text('Resume this job')").count() == 1
    assert door.pool.job(job.id.replace(".", "/")).state == "cancelled"
    assert [entry.who for entry in door.pool.audit() if entry.action == "cancelled"][-1].endswith("of docs")
    page.click("text=Sign out")
    page.wait_for_selector("#key")
    assert [text for text in complaints if "401" not in text] == []
    context.close()
