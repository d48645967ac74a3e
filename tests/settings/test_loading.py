"""A settings file becomes core values, or everything that is not right about it is told with its place."""

import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.core.configuration import ForgeKind
from paddock.core.environment import Reset
from paddock.core.errors import Missing
from paddock.core.report import Vote
from paddock.settings import Invalid, load, read

HERE = Path("/srv/ci")
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
WHOLE = """\
- server:
    public-url: "https://ci.example.org/"
    state: state
    keep: {runs: 7d}
    host-grace: 90s
    access: private
    tls: {certificate: tls/cert.pem, key: /etc/key.pem}
    listen: "0.0.0.0:8443"
- gerrit:
    name: review
    ssh: {host: review.example.org, user: my-ci, key: ci-key, host-key: "HOST_KEY"}
    recheck: ['^recheck$', '^my-ci recheck$']
    bots: [jenkins]
    report: {vote: full, label: Third-Party, contact: "https://wiki.example.org"}
    sources: "https://review.example.org/{project}"
- replay: {name: old, file: events.jsonl}
- host: {name: local, skills: [local]}
- environment: {name: two, machines: [{name: one}, {name: compute-1}], host: local, max: 4, min-ready: 1, reset: none}
- script: {name: greet, run: "echo hello"}
- script: {name: snake, run: "print(1)", interpreter: python3}
- job:
    name: dsvm
    environment: two
    trusted: true
    sources: true
    limit: 10m
    limits: {hello: 30s, collect: 1m}
    before: [{run: "true"}]
    steps:
      - {script: greet, on: [one, compute-1], background: true}
      - {script: snake, on: one, name: second, env: {COUNT: 3, FLAG: true, VERSION: 1.10}}
    after: [{run: "cp a b", interpreter: /bin/bash}]
    results: ["*.xml"]
    artifacts: ["logs/**"]
    sizes: {log: 1KiB, files: 5}
    env: {COLOUR: blue}
- project:
    name: openstack/nova
    branches: [master, "^stable/.*"]
    jobs: [noop, dsvm]
    on: [recheck]
    forge: review
- project: {name: "^openstack/.*", non-voting-jobs: [dsvm], forge: review}
""".replace("HOST_KEY", HOST_KEY)


def whole():
    return read(WHOLE, name="etc/paddock.yaml", directory=HERE).configuration


def problems(text):
    with pytest.raises(Invalid) as caught:
        read(text, directory=HERE)
    return [str(problem) for problem in caught.value.problems]


def with_job(job, *, rest=""):
    return f"""\
- host: {{name: local, skills: [local]}}
- environment: {{name: pool, machines: [{{name: one}}, {{name: two}}], host: local}}
- script: {{name: greet, run: "true"}}
- job: {job}
{rest}"""


def test_the_server_is_read():
    server = whole().server
    assert (server.public_url, server.listen) == ("https://ci.example.org", "0.0.0.0:8443")
    assert (server.state, server.certificate, server.certificate_key) == (
        "/srv/ci/state",
        "/srv/ci/tls/cert.pem",
        "/etc/key.pem",
    )
    assert (server.keep.runs, server.keep.events) == (timedelta(days=7), timedelta(days=90))
    assert (server.host_grace, server.private) == (timedelta(seconds=90), True)


def test_a_heartbeat_is_read():
    assert read("- server: {heartbeat: 5s}", directory=HERE).configuration.server.heartbeat == timedelta(seconds=5)


def test_without_a_server_everything_has_its_default():
    server = read("- host: {name: local, skills: [local]}", directory=HERE).configuration.server
    assert (server.public_url, server.state) == ("http://127.0.0.1:8080", "/srv/ci/paddock-state")
    assert (server.private, server.insecure, server.store) == (False, False, "")


def test_a_public_address_is_made_from_the_one_that_is_listened_on():
    server = read('- server: {listen: "127.0.0.1:9"}', directory=HERE).configuration.server
    assert server.public_url == "http://127.0.0.1:9"


def test_forges_are_read_with_the_lines_that_decide():
    forge = whole().forges["review"]
    assert (forge.kind, forge.account, forge.bots) == (ForgeKind.GERRIT, "my-ci", ("jenkins",))
    assert forge.ssh is not None
    assert (forge.ssh.port, forge.ssh.key, forge.ssh.host_key) == (
        29418,
        "/srv/ci/ci-key",
        HOST_KEY,
    )
    assert (forge.vote, forge.label) == (Vote.FULL, "Third-Party")
    assert forge.recheck_where == ("paddock.yaml:12:15", "paddock.yaml:12:28")
    assert (forge.where, forge.bots_where, forge.account_where) == (
        "paddock.yaml:9:3",
        "paddock.yaml:13:11",
        "paddock.yaml:11:43",
    )
    assert (whole().forges["old"].kind, whole().forges["old"].file) == (ForgeKind.REPLAY, "/srv/ci/events.jsonl")


def test_a_host_key_may_be_a_file():
    text = WHOLE.replace(f'"{HOST_KEY}"', "known_hosts")
    ssh = read(text, directory=HERE).configuration.forges["review"].ssh
    assert ssh is not None
    assert ssh.host_key == "/srv/ci/known_hosts"


@pytest.mark.parametrize(
    "wrong",
    ["ssh-ed25519 AAAA...", "ssh-ed25519 AAAA", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8Q", "a b"],
)
def test_a_host_key_that_no_server_can_have_is_told(wrong):
    text = WHOLE.replace(HOST_KEY, wrong)
    with pytest.raises(Invalid) as refused:
        read(text, directory=Path("/srv/ci"))
    (problem,) = refused.value.problems
    assert "is not a public key; `ssh-keyscan" in str(problem)


def test_pools_are_read_and_local_is_never_isolated():
    pool = whole().pools["two"]
    assert (pool.host, pool.machines, pool.max, pool.min_ready) == ("local", ("one", "compute-1"), 4, 1)
    assert (pool.reset, pool.isolated) == (Reset.NONE, False)


def test_jobs_hold_their_steps_whole():
    job = whole().jobs["dsvm"]
    assert (job.trusted, job.sources, job.env) == (True, True, {"COLOUR": "blue"})
    assert (job.limits.main, job.limits.hello, job.limits.after) == (
        timedelta(minutes=10),
        timedelta(seconds=30),
        timedelta(minutes=5),
    )
    assert [(step.name, step.run, step.interpreter) for step in (*job.before, *job.steps, *job.after)] == [
        ("before-1", "true", "/bin/sh -e"),
        ("greet", "echo hello", "/bin/sh -e"),
        ("second", "print(1)", "python3"),
        ("after-1", "cp a b", "/bin/bash"),
    ]
    assert (job.steps[0].on, job.steps[0].background) == (("one", "compute-1"), True)
    assert (job.steps[1].on, job.steps[1].env) == (("one",), {"COUNT": "3", "FLAG": "true", "VERSION": "1.10"})
    assert (job.sizes.log, job.sizes.files, job.sizes.file) == (1024, 5, 64 * 1024**2)


def test_noop_is_built_in():
    assert whole().jobs["noop"].environment == ""


def test_projects_keep_the_order_and_the_line_of_each_job():
    first, second = whole().projects
    assert [(job.job, job.voting, job.where) for job in first.jobs] == [
        ("noop", True, "paddock.yaml:40:12"),
        ("dsvm", True, "paddock.yaml:40:18"),
    ]
    assert (first.on, first.forge, first.branches_where) == (("recheck",), "review", "paddock.yaml:39:15")
    assert [(job.job, job.voting) for job in second.jobs] == [("dsvm", False)]
    assert (second.on, second.branches_where) == (("patchset-created", "recheck"), "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "paddock.yaml:1:1  empty"),
        ("server: {}", "paddock.yaml:1:1  the file is a list of items, like `- job: {name: ...}`"),
        ("- {host: {}, job: {}}", "paddock.yaml:1:3  an item has one key"),
        ("- hots: {name: local}", 'paddock.yaml:1:3  unknown item "hots" (did you mean "host"?)'),
        ("- a: [", "paddock.yaml:1:7  not YAML: "),
        ("- host: {name: a, name: b}", 'paddock.yaml:1:19  key "name" stands here twice, first in line 1'),
        ("- host: !!python/object:os.system {name: a}", "paddock.yaml:1:9  "),
        ("- host: {name: local, skills: [lcoal]}", 'skills[0] "lcoal" is not one of local, hypervisor (did you mean'),
        ("- host: {name: local, skills: local}", 'host local: skills "local" is not a list: put it into [ ]'),
        ("- host: {name: [], skills: [local]}", "paddock.yaml:1:16  host: name a list is not text"),
        ("- host: {name: 7, skills: [local]}", "host: name 7 is not text: put it into quotes"),
        ('- host: {name: "a/../b", skills: [local]}', 'host a/../b: name "a/../b" is not a name'),
        ("- host: {skills: [local]}", "paddock.yaml:1:9  host: name is missing"),
        ("- host: [1]", "paddock.yaml:1:9  host: a list is not a mapping of keys and values"),
        ("- server: {listen: '0.0.0.0:80'}", 'paddock.yaml:1:20  server: listen "0.0.0.0:80" is open to others'),
        ("- server: {listen: 'ci.example.org:80'}", "is open to others without TLS"),
        ("- server: {listen: '8080'}", 'listen "8080" is not HOST:PORT'),
        ("- server: {acess: public}", 'server: unknown key "acess" (did you mean "access"?)'),
        ("- server: {access: open}", 'access "open" is not one of public, private'),
        ("- server: {keep: {runs: 30}}", "server: keep.runs 30 is not a duration like 90s, 10m, 2h or 7d"),
        ("- server: {keep: {run: 30d}}", 'server: keep: unknown key "run" (did you mean "runs"?)'),
        ("- server: {store: 'mysql://u:secret@h'}", "server: store is not a sqlite:// or postgresql:// address"),
        ("- server: {insecure: 'yes'}", 'server: insecure "yes" is not true or false'),
        ("- server: {}\n- server: {}", "paddock.yaml:2:3  server: stands here twice, first in line 1"),
        ("- replay: {name: a, file: b, recheck: ['(']}", 'replay a: recheck[0] "(" is not a regular expression: '),
        ("- replay: {name: a, file: b, recheck: ['(a+)+$']}", 'recheck[0] "(a+)+$" repeats a repetition'),
        ("- replay: {name: a, file: b, sources: 'https://x'}", 'sources "https://x" has no {project} in it'),
        ("- replay: {name: a, file: b, sources: 'ext::sh {project}'}", "is not an http, https, ssh, git or file"),
        ("- replay: {name: a, file: b}\n- replay: {name: a, file: c}", "2:3  replay a: stands here twice, first in"),
        ("- project: {name: a/b}", "paddock.yaml:1:12  project a/b: has no jobs"),
        ("- project: {name: 'a/.*', jobs: [noop]}", 'name "a/.*" is a plain name; an expression begins with ^'),
        ("- project: {name: a, jobs: [nop]}", 'project a: jobs[0]: no job "nop" (did you mean "noop"?)'),
        ("- project: {name: a, jobs: [noop, noop]}", '1:35  project a: jobs[1]: job "noop" is listed twice'),
        ("- project: {name: a, jobs: [noop], on: [rechek]}", 'on[0] "rechek" is not one of patchset-created, recheck'),
        ("- project: {name: a, jobs: [noop], forge: g}", 'project a: forge: no forge "g"'),
        ("- environment: {name: a, host: b, machines: []}", "environment a: machines is empty"),
        ("- environment: {name: a, host: b, machines: [{name: x}]}", 'environment a: host: no host "b"'),
        ("- environment: {name: a, host: b, machines: [{name: X_1}]}", 'machines[0].name "X_1" is not a machine\'s'),
        ("- environment: {name: a, host: b, machines: [{name: x}], max: 0}", "environment a: max 0 is less than 1"),
    ],
)
def test_what_is_not_right_is_told_with_its_place(text, expected):
    assert expected in "\n".join(problems(text))


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("{name: j, environment: pol}", '4:31  job j: environment: no environment "pol" (did you mean "pool"?)'),
        ("{name: noop, environment: pool}", 'job noop: name "noop" is built in'),
        ("{name: j, environment: pool, limit: 0}", "4:44  job j: limit 0 is not between 1s and 7d"),
        ("{name: j, environment: pool, limit: 8d}", "limit 8d is not between 1s and 7d"),
        ("{name: j, environment: pool, limits: {main: 1h}}", 'job j: limits: unknown key "main"'),
        ("{name: j, environment: pool, steps: [{script: gret}]}", 'steps[0].script: no script "gret" (did you mean'),
        ("{name: j, environment: pool, steps: [{run: a, on: [three]}]}", 'steps[0].on[0]: no machine of pool "three"'),
        ("{name: j, environment: pool, steps: [{run: a, on: onne}]}", '(did you mean "one"?)'),
        ("{name: j, environment: pool, steps: [{run: a, on: [one, one]}]}", 'machine "one" is listed twice'),
        ("{name: j, environment: pool, steps: [{}]}", "job j: steps[0] wants either `script` or `run`"),
        ("{name: j, environment: pool, steps: [{run: a, script: greet}]}", "wants either `script` or `run`"),
        ("{name: j, environment: pool, steps: [{script: greet, interpreter: x}]}", "is the script's own to say"),
        ("{name: j, environment: pool, after: [{run: a, background: true}]}", "nothing comes after `after`"),
        ("{name: j, environment: pool, results: ['../x']}", 'results[0] "../x" is not a path below $PADDOCK_RESULTS'),
        ("{name: j, environment: pool, artifacts: ['/etc/*']}", '"/etc/*" is not a path below'),
        ("{name: j, environment: pool, sizes: {log: 10MB}}", 'sizes.log "10MB" is not a size like 64KiB'),
        ("{name: j, environment: pool, env: {PADDOCK_RUN: x}}", "names that begin with PADDOCK_ are Paddock's own"),
        ("{name: j, environment: pool, env: {A-B: x}}", 'job j: env: "A-B" is not the name of a variable'),
        ('{name: j, environment: pool, env: {A: "x\\0"}}', "job j: env.A holds a NUL"),
        ("{name: j, environment: pool, hold-on-failure: 31d}", "hold-on-failure 31d is not between 1s and 30d"),
        ("{name: j, environment: pool, hold-on-failure: true}", "hold-on-failure true is not a duration"),
        ("{name: j, environment: pool, hold-disks: true}", "4:49  job j: hold-disks goes with `hold-on-failure`"),
        (
            "{name: j, environment: pool, hold-on-failure: 2h, hold-disks: true}",
            "4:70  job j: hold-disks: machines without an image have no disks of their own",
        ),
        ("{name: j, environment: pool, trusted: yes}", 'trusted "yes" is not true or false'),
        ("{name: j, environment: pool, step: []}", '4:37  job j: unknown key "step" (did you mean "steps"?)'),
    ],
)
def test_a_job_that_is_not_right_is_told_with_its_place(job, expected):
    assert expected in "\n".join(problems(with_job(job)))


def test_a_job_says_how_long_what_fails_is_held():
    read_job = read(with_job("{name: j, environment: pool, hold-on-failure: 2h}"), directory=HERE).configuration.jobs
    assert (read_job["j"].hold_on_failure, read_job["j"].hold_disks) == (timedelta(hours=2), False)
    assert whole().jobs["dsvm"].hold_on_failure is None


def test_a_job_holds_for_no_longer_than_its_environment_allows():
    text = """\
- host: {name: vm-1, skills: [hypervisor]}
- image: {name: debian, path: /srv/debian.raw}
- environment: {name: pool, machines: [{name: one, image: debian}], host: vm-1, hold: {longest: 1h}}
- job: {name: j, environment: pool, hold-on-failure: TTL, hold-disks: true}
"""
    job = read(text.replace("TTL", "1h"), directory=HERE).configuration.jobs["j"]
    assert (job.hold_on_failure, job.hold_disks) == (timedelta(hours=1), True)
    assert problems(text.replace("TTL", "2h")) == [
        "paddock.yaml:4:54  job j: hold-on-failure 2h 00m 00s is more than environment pool is held for, 1h 00m 00s"
    ]


def test_a_forges_change_needs_a_trusted_job_on_a_bare_host():
    rest = "- replay: {name: review, file: x}\n- project: {name: a, jobs: [j]}"
    assert problems(with_job("{name: j, environment: pool}", rest=rest)) == [
        'paddock.yaml:4:31  job j: environment "pool" has no isolation (host local), and project a lets a forge\'s '
        "changes into it: say `trusted: true` if they may"
    ]
    assert read(with_job("{name: j, environment: pool, trusted: true}", rest=rest), directory=HERE)


def test_a_job_that_no_forge_feeds_needs_no_trust():
    rest = "- project: {name: a, jobs: [j]}"
    assert read(with_job("{name: j, environment: pool}", rest=rest), directory=HERE)


def test_sources_need_an_address():
    rest = "- replay: {name: review, file: x}\n- project: {name: a, jobs: [j]}"
    job = "{name: j, environment: pool, trusted: true, sources: true}"
    assert problems(with_job(job, rest=rest)) == [
        "paddock.yaml:4:61  job j: sources wants to know where from: give forge review a `sources` address"
    ]


def test_everything_is_told_at_once_in_the_order_of_the_file():
    text = """\
- host: {name: local, skils: [local]}
- environment: {name: two-node, machine: [{name: one}], machines: [{name: one}, {name: one}], host: local}
- job: {name: dsvm, environment: two-nod, limit: 0}
- job: {name: other, environment: two-nod}
- project: {name: nova, jobs: [dsvn]}
"""
    assert problems(text) == [
        "paddock.yaml:1:9  host local: skills is missing",
        'paddock.yaml:1:23  host local: unknown key "skils" (did you mean "skills"?)',
        'paddock.yaml:2:33  environment two-node: unknown key "machine" (did you mean "machines"?)',
        'paddock.yaml:3:34  job dsvm: environment: no environment "two-nod" (did you mean "two-node"?)',
        "paddock.yaml:3:50  job dsvm: limit 0 is not between 1s and 7d",
        'paddock.yaml:4:35  job other: environment: no environment "two-nod" (did you mean "two-node"?)',
        'paddock.yaml:5:32  project nova: jobs[0]: no job "dsvn" (did you mean "dsvm"?)',
    ]


def test_the_first_problem_stands_in_the_message_and_the_way_to_see_all_in_the_hint():
    with pytest.raises(Invalid) as caught:
        read("- hots: {}\n- jub: {}", name="etc/ci.yaml", directory=HERE)
    assert caught.value.message == 'etc/ci.yaml:1:3: unknown item "hots" (did you mean "host"?) (and 1 more)'
    assert caught.value.hint == "paddock validate etc/ci.yaml"


def test_a_file_is_read_relative_to_its_directory(tmp_path):
    path = tmp_path / "paddock.yaml"
    path.write_text("- replay: {name: review, file: events.jsonl}")
    assert load(path).configuration.forges["review"].file == str(tmp_path / "events.jsonl")


def test_a_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(Missing, match="no such file"):
        load(tmp_path / "paddock.yaml")


def test_a_file_that_is_not_text_is_told_with_its_place(tmp_path):
    path = tmp_path / "paddock.yaml"
    path.write_bytes(b"- host:\n    name: \xff\n")
    with pytest.raises(Invalid) as caught:
        load(path)
    assert caught.value.problems[0].where == f"{path}:2:11"


@given(st.text())
def test_no_text_makes_it_raise_anything_else(text):
    with suppress(Invalid):
        read(text, directory=HERE)


_leaf = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["local", "a", "10m"])
_keys = st.sampled_from(
    ["name", "host", "machines", "steps", "on", "env", "ssh", "limits", "keep", "jobs", "skills", "run", "listen"]
)
_tree = st.recursive(_leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3))
_kinds = st.sampled_from(["server", "gerrit", "replay", "host", "environment", "script", "job", "project"])


@given(st.lists(st.dictionaries(_kinds, _tree, min_size=1, max_size=1), max_size=4))
def test_no_tree_of_known_keys_makes_it_raise_anything_else(tree):
    with suppress(Invalid):
        read(json.dumps(tree), directory=HERE)
