"""Memory that a clip is written into."""

import io

import pytest

from fv2es.remux import _Target


@pytest.mark.parametrize("room", [0, 10, 999, 1000, 1_000_000])
def test_what_is_written_comes_out_however_much_room_there_was(room: int):
    """As a muxer writes: forwards, then back to the start, then on at the end."""
    data = bytes(index % 251 for index in range(1000))
    target, plain = _Target(room), io.BytesIO()
    for each in (target, plain):
        each.write(data[:600])
        each.seek(10)
        each.write(b"size")
        each.seek(600)
        each.write(data[600:])
        each.seek(20)
        each.write(b"end")
    assert target.written() == plain.getvalue()


def test_nothing_written():
    assert _Target(100).written() == b""
