"""The one table: what is checked, and that its rows keep its own rules."""

import base64
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.core.access import Role
from paddock.wire.methods import (
    METHODS,
    BadParams,
    Effect,
    Kind,
    Method,
    Toward,
    UnknownMethod,
    check,
    describe,
    find,
    params_of,
)

FENCED = {"environment": "two-machines-1", "fence": 7}
VALID: dict[str, dict[str, Any]] = {
    "ping": {},
    "status": {},
    "system.facts": {},
    "system.stats_start": {"name": "all"},
    "system.stats": {"name": "all"},
    "system.stats_list": {},
    "system.stats_stop": {"name": "all"},
    "system.health_watch": {"name": "root", "what": "disk.used", "above": 90},
    "system.health": {},
    "system.health_unwatch": {"name": "root"},
    "system.rename": {"hostname": "web-1.example.org"},
    "system.reboot": {},
    "system.clean_image": {},
    "agent.upgrade": {"url": "https://ci.example.org/paddock-agent.pyz", "sha256": 64 * "0"},
    "task.cancel": {"task_id": "C"},
    "script.run": {"run": "echo hello"},
    "file.put": {"path": "a", "data": "YQ=="},
    "file.get": {"path": "a"},
    "file.send": {"path": "a"},
    "file.collect": {"root": "results", "globs": ["**/*.xml"]},
    "sources.checkout": {"url": "https://git.example.org/a", "ref": "refs/changes/21/189221/1", "path": "a"},
    "machine.build": {**FENCED, "machine": "one"},
    "machine.clean": {**FENCED, "machine": "one"},
    "machine.destroy": {**FENCED, "machine": "one"},
    "machine.list": {},
    "machine.power": {**FENCED, "machine": "one", "action": "reset"},
    "machine.console": {**FENCED, "machine": "one"},
    "machine.type": {**FENCED, "machine": "one", "data": "Cg=="},
    "machine.screenshot": {**FENCED, "machine": "one"},
    "machine.weigh": {**FENCED, "machine": "one", "saved": "two-machines-1.one"},
    "machine.save": {**FENCED, "machine": "one", "saved": "two-machines-1.one"},
    "machine.forget": {**FENCED, "machine": "one", "saved": "two-machines-1.one"},
    "image.build": {"chain": [{"name": "debian", "url": "https://images.example.org/debian.qcow2"}]},
    "image.list": {},
    "image.collect": {},
    "park": {},
    "wake": {
        "machine": "one",
        "hostname": "one",
        "machine_id": 32 * "0",
        "wake_id": "k3f9",
        "time": "2026-11-20T12:00:00Z",
        "entropy": base64.b64encode(bytes(32)).decode(),
    },
    "package.install": {"names": ["htop"]},
    "package.remove": {"names": ["htop"]},
    "package.upgrade": {},
    "package.list": {},
    "user.add": {"name": "ann"},
    "user.remove": {"name": "ann"},
    "user.list": {},
    "disk.list": {},
    "disk.format": {"device": "/dev/vdb", "fs": "ext4"},
    "disk.mount": {"device": "/dev/vdb", "path": "/srv/data"},
    "disk.unmount": {"path": "/srv/data"},
    "disk.resize": {"device": "/dev/vdb"},
    "disk.encrypt": {"device": "/dev/vdb", "name": "data", "key_file": "/etc/keys/data"},
    "log.tail": {"path": "/var/log/syslog"},
    "tunnel.open": {"port": 22},
    "tunnel.put": {"task_id": "C", "offset": 0},
    "config.apply": {"tool": "ansible", "content": "- hosts: all"},
}


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.toward is not Toward.SERVER])
def test_the_least_that_a_method_needs_passes(method: str) -> None:
    checked = check(method, VALID[method], toward=Toward.AGENT)
    assert checked.items() >= VALID[method].items()


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_a_row_keeps_the_rules_of_the_table(method: Method) -> None:
    names = [param.name for param in params_of(method)]
    assert len(names) == len(set(names))
    assert set(method.one_of) <= set(names)
    assert len(method.caption) <= 110
    assert method.caption.endswith(".")
    assert not (method.task and method.toward is Toward.SERVER)
    for param in method.params:
        assert (param.of is not None) == (param.kind in (Kind.LIST, Kind.MAP))
        assert not (param.required and param.default is not None)
        assert param.kind not in (Kind.BYTES, Kind.NUMBER) or param.unit or param.name == "data"
        if param.pattern is not None:
            re.compile(param.pattern)


@pytest.mark.parametrize("method", METHODS)
def test_defaults_pass_their_own_check(method: str) -> None:
    if method in VALID:
        checked = check(method, VALID[method])
        assert check(method, checked) == checked


def test_scripts_run_once_and_machines_are_ensured_under_a_fence() -> None:
    assert METHODS["script.run"].effect is Effect.ONCE
    for name in ("machine.build", "machine.clean", "machine.destroy"):
        assert METHODS[name].effect is Effect.ENSURE
        assert METHODS[name].fenced
        assert METHODS[name].task
        assert METHODS[name].role is Role.OPERATOR


def test_defaults_are_filled_in_and_unknown_fields_dropped() -> None:
    assert check("script.run", {"run": "true", "color": "blue"}) == {
        "run": "true",
        "interpreter": "/bin/sh -e",
        "cwd": ".",
        "umask": 0o022,
        "grace": 10,
        "output_limit": 1 << 30,
        "background": False,
    }


@pytest.mark.parametrize(
    ("method", "params", "why"),
    [
        ("system.clean_image", {"dryrun": True}, r'params\.dryrun: .*did you mean "dry_run"'),
        ("script.run", {"run": "true", "color": "blue"}, r"params\.color: script\.run has no such param$"),
    ],
)
def test_strictly_a_param_that_nobody_knows_is_refused(method: str, params: dict[str, Any], why: str) -> None:
    check(method, params)
    with pytest.raises(BadParams, match=why):
        check(method, params, is_strict=True)


def test_strictly_what_every_method_takes_is_taken() -> None:
    assert check("status", {"limit": 5, "odd": None}, is_strict=True)["limit"] == 5
    assert check("ping", {"odd": 1}, is_strict=True) == {"odd": 1}


def test_a_reboot_is_not_over_before_its_delay_is() -> None:
    assert check("system.reboot", {"delay": 3600, "limit": 4000})["delay"] == 3600
    for params in ({"delay": 3600}, {"delay": 5, "limit": 5}):
        with pytest.raises(BadParams, match=r"params\.limit: .* is not more than delay"):
            check("system.reboot", params)


def test_null_is_absent() -> None:
    assert "argv" not in check("script.run", {"run": "true", "argv": None})


def test_the_params_of_a_ping_come_back_whole() -> None:
    assert check("ping", {"any": ["thing"]}) == {"any": ["thing"]}


@pytest.mark.parametrize("method", ["", "script", "script.run ", "hello\x1b"])
def test_an_unknown_method_is_named(method: str) -> None:
    with pytest.raises(UnknownMethod) as refusal:
        check(method, {})
    assert refusal.value.method == method


def test_a_side_carries_out_its_own_methods_only() -> None:
    assert find("script.run", toward=Toward.AGENT).name == "script.run"
    assert find("ping", toward=Toward.AGENT) is find("ping", toward=Toward.SERVER)
    with pytest.raises(UnknownMethod):
        find("script.run", toward=Toward.SERVER)
    with pytest.raises(UnknownMethod):
        check("hello", {}, toward=Toward.AGENT)


@pytest.mark.parametrize(
    ("method", "change", "path"),
    [
        ("script.run", {"run": None}, "params.argv"),
        ("script.run", {"argv": ["a"]}, "params.argv"),
        ("script.run", {"run": "a\0b"}, "params.run"),
        ("script.run", {"run": 7}, "params.run"),
        ("script.run", {"run": "x" * (512 * 1024 + 1)}, "params.run"),
        ("script.run", {"run": None, "argv": []}, "params.argv"),
        ("script.run", {"run": None, "argv": ["a", 7]}, "params.argv[1]"),
        ("script.run", {"run": None, "argv": ["a", "b\0"]}, "params.argv[1]"),
        ("script.run", {"env": {"A": 7}}, "params.env['A']"),
        ("script.run", {"env": {"A": "\0"}}, "params.env['A']"),
        ("script.run", {"env": {"A=B": "x"}}, "params.env['A=B']"),
        ("script.run", {"env": {"": "x"}}, "params.env key"),
        ("script.run", {"env": ["A=x"]}, "params.env"),
        ("script.run", {"limit": 0}, "params.limit"),
        ("script.run", {"limit": "600"}, "params.limit"),
        ("script.run", {"limit": True}, "params.limit"),
        ("script.run", {"limit": 1e300}, "params.limit"),
        ("script.run", {"start_within": -1}, "params.start_within"),
        ("script.run", {"umask": 0o1000}, "params.umask"),
        ("script.run", {"umask": 18.0}, "params.umask"),
        ("script.run", {"background": "yes"}, "params.background"),
        ("script.run", {"cwd": ""}, "params.cwd"),
        ("script.run", {"cwd": "a\0"}, "params.cwd"),
        ("script.run", {"cwd": "é" * 2049}, "params.cwd"),
        ("script.run", {"user": "a\nb"}, "params.user"),
        ("script.run", {"environment": "e"}, "params.fence"),
        ("script.run", {"fence": 7}, "params.environment"),
        ("script.run", {"environment": "e", "fence": "7"}, "params.fence"),
        ("script.run", {"task_id": "\x1b"}, "params.task_id"),
        ("machine.build", {"environment": None, "fence": None}, "params.environment"),
        ("machine.clean", {"fence": None}, "params.fence"),
        ("machine.destroy", {"machine": None}, "params.machine"),
        ("task.cancel", {"task_id": None}, "params.task_id"),
        ("file.put", {"data": "a"}, "params.data"),
        ("file.put", {"data": base64.b64encode(bytes(512 * 1024 + 1)).decode()}, "params.data"),
        ("file.put", {"mode": 0o10000}, "params.mode"),
        ("file.put", {"sha256": "0" * 63}, "params.sha256"),
        ("file.put", {"sha256": "0" * 64 + "\n"}, "params.sha256"),
        ("file.get", {"length": 0}, "params.length"),
        ("file.collect", {"globs": []}, "params.globs"),
        ("file.collect", {"globs": "*"}, "params.globs"),
        ("sources.checkout", {"revision": "main"}, "params.revision"),
        ("sources.checkout", {"url": ""}, "params.url"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_param_is_named_by_its_path(method: str, change: dict, path: str) -> None:
    with pytest.raises(BadParams) as refusal:
        check(method, {**VALID[method], **change})
    assert refusal.value.path == path


def test_a_file_of_512_kib_fits() -> None:
    check("file.put", {"path": "a", "data": base64.b64encode(bytes(512 * 1024)).decode()})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_is_asked_is_checked_or_refused_and_never_crashes(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(list(METHODS)))
    names = [param.name for param in params_of(METHODS[method])]
    keys = st.sampled_from(names)
    params = {**VALID.get(method, {}), **data.draw(st.dictionaries(keys, VALUES, max_size=3))}
    try:
        checked = check(method, params)
    except BadParams:
        return
    assert checked == check(method, checked) or method == "ping"


def test_the_table_describes_every_method_and_its_own_params() -> None:
    rows = describe()
    assert [row["method"] for row in rows if row["method"]] == list(METHODS)
    assert len(rows) == sum(1 + len(method.params) for method in METHODS.values())
    assert all(isinstance(value, str) for row in rows for value in row.values())
