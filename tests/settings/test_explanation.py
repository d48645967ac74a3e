"""Why each job runs for an event, or does not, as `paddock explain` tells it."""

import json
from pathlib import Path

import pytest

from paddock.core.errors import Missing, Refused
from paddock.settings import explain, read, spell

TEXT = """\
- replay: {name: review, file: x, recheck: ['^my-ci recheck$'], bots: [jenkins]}
- host: {name: local, skills: [local]}
- environment: {name: pool, machines: [{name: one}], host: local}
- job: {name: two-machines, environment: pool, trusted: true}
- job: {name: migrate, environment: pool, trusted: true}
- project: {name: openstack-dev/ci-sandbox, branches: [master], jobs: [noop, two-machines]}
- project: {name: openstack-dev/ci-sandbox, branches: ["^stable/.*"], jobs: [migrate]}
"""
CONFIGURATION = read(TEXT, directory=Path("/srv")).configuration


def said(comment, *, author="anna", project="openstack-dev/ci-sandbox"):
    return json.dumps(
        {
            "type": "comment-added",
            "author": {"username": author},
            "comment": comment,
            "change": {"project": project, "branch": "master", "number": "189221", "url": "https://x.example.org/1"},
            "patchSet": {"number": "1", "ref": "refs/changes/21/189221/1", "revision": "1" * 40},
        },
        indent=2,
    )


def test_each_job_has_its_reason_and_the_line_that_decided():
    explanation = explain(said("Patch Set 1:\n\nmy-ci recheck"), CONFIGURATION)
    assert explanation.runs
    assert spell(explanation) == [
        'comment-added  openstack-dev/ci-sandbox 189221,1  "my-ci recheck"  by anna',
        "  noop          runs  project openstack-dev/ci-sandbox, comment matches ^my-ci recheck$  (paddock.yaml:6:72)",
        "  two-machines  runs  same                                                               (paddock.yaml:6:78)",
        "  migrate       no    branch: wants stable/.*, is master                                 (paddock.yaml:7:55)",
    ]


def test_what_is_ignored_as_a_whole_is_told_once():
    explanation = explain(said("Patch Set 1: Verified+1\n\nBuild succeeded", author="jenkins"), CONFIGURATION)
    assert not explanation.runs
    assert spell(explanation) == [
        'comment-added  openstack-dev/ci-sandbox 189221,1  "Build succeeded"  by jenkins',
        "  every job  no    bot jenkins  (paddock.yaml:1:71)",
    ]


def test_what_cannot_be_read_is_explained_too():
    assert "not" in explain("{", CONFIGURATION).outcome
    assert spell(explain('{"type": "change-merged"}', CONFIGURATION))[1] == (
        "  every job  no    type change-merged starts nothing"
    )


def test_among_several_forges_one_has_to_be_named():
    two = read(TEXT + "- replay: {name: other, file: y}", directory=Path("/srv")).configuration
    with pytest.raises(Refused, match="several forges: review, other"):
        explain(said("x"), two)
    assert explain(said("my-ci recheck"), two, forge="review").runs
    with pytest.raises(Missing, match=r"forge reviw: not configured \(did you mean"):
        explain(said("x"), two, forge="reviw")
