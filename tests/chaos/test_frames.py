"""The proxy finds the frames of a server, however they are cut, and says old commands again between two of them."""

from collections import deque

import pytest

from paddock.chaos.proxy import Frames

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def frame(text: bytes) -> bytes:
    head = bytes([0x81])
    if len(text) < 126:
        return head + bytes([len(text)]) + text
    if len(text) < 1 << 16:
        return head + bytes([126]) + len(text).to_bytes(2) + text
    return head + bytes([127]) + len(text).to_bytes(8) + text


COMMAND = frame(b'{"id":"a","method":"script.run","params":{},"seq":1,"version":"1"}')
SMALL, LARGE, HUGE = frame(b"{}"), frame(b"x" * 300), frame(b"y" * 70_000)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 5000, 100_000])
def test_what_is_cut_anywhere_goes_on_whole(size: int) -> None:
    said: deque[bytes] = deque()
    frames = Frames(said)
    stream = ANSWER + SMALL + COMMAND + LARGE + HUGE + COMMAND
    passed = b"".join(frames.take(stream[at : at + size]) for at in range(0, len(stream), size))
    assert passed == stream
    assert list(said) == [COMMAND, COMMAND]


def test_only_commands_are_remembered() -> None:
    said: deque[bytes] = deque()
    Frames(said).take(ANSWER + frame(b'{"id":"hello-1","result":{"seq":1}}') + COMMAND)
    assert list(said) == [COMMAND]


def test_what_is_said_again_stands_between_two_frames() -> None:
    frames = Frames(deque())
    frames.take(ANSWER)
    frames.inserted = [COMMAND, SMALL]
    assert frames.take(LARGE[:100]) == b""
    assert frames.take(LARGE[100:] + SMALL) == LARGE + COMMAND + SMALL + SMALL
