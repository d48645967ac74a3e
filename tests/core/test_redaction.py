"""Secrets go out of text where it comes in."""

import json
import time

import pytest

from paddock.core.redaction import redact, redacted, sentence

TOKEN = "pdk_" + "Ab1-" * 8
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"agent said {TOKEN}.", TOKEN),
        (f"x{TOKEN}", TOKEN),
        (f"cat: {KEY} and on", "b3BlbnNz"),
        (KEY[:50], "b3Blbn"),
        (json.dumps({"key": KEY, "after": "kept"}), "b3BlbnNz"),
        ("Authorization: Bearer abcdefgh", "abcdefgh"),
        ("authorization: basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("password=hunter2", "hunter2"),
        ('password = "two words"', "two words"),
        ("--token='a b c d'", "a b c d"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI", "wJalrXUtnFEMI"),
        ("GITHUB_TOKEN: ghp_abcdef", "ghp_abcdef"),
        ('{"db_password": "s3cr3t\\"x"}', "s3cr3t"),
        ('{"text": "{\\"token\\": \\"abcdefgh\\"}"}', "abcdefgh"),
        ("git clone https://me:hunter2@example.org/x.git", "hunter2"),
        ("postgresql://paddock:p%40ss@db/paddock", "p%40ss"),
        ("/run/secrets/password: hunter2", "hunter2"),
        ("/run/secrets/password:abcdefgh is it", "abcdefgh"),
        ("db/password: correct horse", "correct"),
        ("/run/passphrase: correct horse", "correct"),
        ("/x/authorization: Bearer abcdefgh", "abcdefgh"),
        ("https://example.org/token: abcdefgh is it", "abcdefgh"),
        ("/x?password: abcdefgh is it", "abcdefgh"),
        ("/x password: abcdefgh is it", "abcdefgh"),
        ("Set-Cookie: paddock=abcdefgh; HttpOnly", "abcdefgh"),
    ],
)
def test_a_secret_goes_and_the_rest_stays(text: str, secret: str) -> None:
    told = redact(text)
    assert secret not in told
    assert "[redacted]" in told
    assert redact(told) == told


@pytest.mark.parametrize(
    "text",
    [
        "token: it is not known, over or revoked",
        "ssh://my-ci@review.example.org:29418",
        "https://ci.example.org/runs/7/",
        "the password is asked for later",
        "pdk_short",
        "/etc/passwd: File exists",
        "useradd: cannot lock /etc/passwd: Device or resource busy",
        "('/var/lib/my-token: Input/output error')",
        "/run/app/secret: does not exist",
        "tokens=5",
        "12:34:56 build@host: make",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_json_stays_json() -> None:
    whole = {"password": "a b c d", "msg": f"see {TOKEN}", "key": KEY[:60], "n": 1, "list": ["api_key=abcdef", None]}
    assert json.loads(redact(json.dumps(whole)))["n"] == 1
    told = redacted(whole)
    assert told == {
        "password": "[redacted]",
        "msg": "see [redacted]",
        "key": "[redacted]",
        "n": 1,
        "list": ["api_key=[redacted]", None],
    }


def test_a_sentence_is_one_short_line() -> None:
    told = sentence("a\n- forged : SUCCESS\x1b[2J\u202e" + TOKEN + "x" * 100_000)
    assert told.startswith("a - forged : SUCCESS [2J [redacted]")
    assert told.isprintable()
    assert len(told) <= 500


@pytest.mark.parametrize(
    "piece",
    ["a-", "token", "token ", "a://", "://a:", "-----BEGIN ", 'secret="', "x:y@", "BEGIN A ", "/token: abcd ef"],
)
def test_no_text_takes_long(piece: str) -> None:
    began = time.perf_counter()
    redact(piece * (100_000 // len(piece)))
    assert time.perf_counter() - began < 0.2
