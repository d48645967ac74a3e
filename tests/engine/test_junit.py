"""JUnit files as strangers write them: read, or refused with the reason; never more than that."""

import contextlib
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.core.errors import Refused
from paddock.core.results import Outcome
from paddock.engine.junit import LARGEST, LONGEST_MESSAGE, LONGEST_NAME, MOST_CASES, read

LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + b"".join(
        f'<!ENTITY {after} "{"&" + before + ";" * 1}{("&" + before + ";") * 9}">'.encode()
        for before, after in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + b"]><testsuite><testcase name='&i;'/></testsuite>"
)
EXTERNAL = b'<!DOCTYPE t [<!ENTITY x SYSTEM "file:///etc/passwd">]><testsuite><testcase name="&x;"/></testsuite>'
PARAMETER = b'<!DOCTYPE t [<!ENTITY % x SYSTEM "http://127.0.0.1:1/"> %x;]><testsuite/>'
ONE = "<testsuite><testcase classname='a.B' name='tëst' time='1,000.5'/></testsuite>"


@pytest.mark.parametrize("hostile", [LAUGHS, EXTERNAL, PARAMETER])
def test_entities_are_refused_before_they_grow(hostile: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(Refused, match="not XML that can be trusted"):
        read(hostile, machine="one")
    assert time.monotonic() - began < 1


def test_a_file_of_a_hundred_megabytes_is_refused_unread() -> None:
    with pytest.raises(Refused, match=f"at most {LARGEST} are read"):
        read(bytes(100 << 20), machine="one")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_encodings_that_the_file_names_are_read(encoding: str) -> None:
    data = f'<?xml version="1.0" encoding="{encoding}"?>{ONE}'.encode(encoding)
    (case,) = read(data, machine="one")
    assert (case.suite, case.name, case.seconds, case.outcome) == ("one: a.B", "tëst", 1000.5, Outcome.PASSED)


@pytest.mark.parametrize("encoding", ["no-such-encoding", "shift_jis", "utf-7", "idna", "rot13", "\udcff"])
def test_encodings_that_nobody_reads_are_refused_or_read_and_never_raise(encoding: str) -> None:
    data = f'<?xml version="1.0" encoding="{encoding}"?>'.encode(errors="surrogateescape") + b"<testsuite/>"
    with contextlib.suppress(Refused):
        assert read(data, machine="one") == []


@pytest.mark.parametrize("data", [b"", b"<", b"\x00" * 100, b"PK\x03\x04", b"<testsuite>", b"\xff\xfe<"])
def test_what_is_no_xml_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        read(data, machine="one")


@pytest.mark.parametrize("data", [b"<html/>", b"<x:testsuite xmlns:x='y'/>", b"<" + b"a" * 5000 + b"/>"])
def test_what_is_another_kind_of_xml_is_refused_in_few_words(data: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read(data, machine="one")
    assert len(refused.value.message) < 200


def test_a_tree_of_very_many_levels_is_read_or_refused() -> None:
    depth = 20_000
    data = b"<testsuite>" * depth + b"<testcase name='deep'/>" + b"</testsuite>" * depth
    with contextlib.suppress(Refused):
        assert len(read(data, machine="one")) == 1


def test_names_and_messages_are_cut() -> None:
    data = f"<testsuite><testcase name='{'n' * 10_000}'><failure>{'m' * 100_000}</failure></testcase></testsuite>"
    (case,) = read(data.encode(), machine="one")
    assert (len(case.name), len(case.message)) == (LONGEST_NAME, LONGEST_MESSAGE)


@pytest.mark.slow
def test_too_many_cases_are_refused() -> None:
    data = b"<testsuite>" + b"<testcase/>" * (MOST_CASES + 1) + b"</testsuite>"
    with pytest.raises(Refused, match=f"at most {MOST_CASES} are read"):
        read(data, machine="one")


@pytest.mark.parametrize("time", ["", "nan", "inf", "-1", "1e99", "soon", "0x10"])
def test_times_that_are_none_are_nought(time: str) -> None:
    (case,) = read(f"<testsuite><testcase name='a' time='{time}'/></testsuite>".encode(), machine="one")
    assert case.seconds == 0.0


@pytest.mark.slow
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"<testsuite>{text}</testsuite>".encode()))
def test_nothing_that_a_machine_sends_does_more_than_be_refused(data: bytes) -> None:
    try:
        cases = read(data, machine="one")
    except Refused:
        return
    assert all(math.isfinite(case.seconds) for case in cases)
