"""The cues of a text subtitle stream inside a media file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av.error
from av.stream import Disposition

from fv2es.demux import codec_name, open_media
from fv2es.source import SourceInfo
from fv2es.transcript import Cue, plain_text

TEXT_CODECS = ("subrip", "ass", "ssa", "mov_text", "webvtt", "text")
"""FFmpeg's names of the codecs whose packets hold letters; others hold pictures of letters."""
MAX_BYTES = 64 * 1024 * 1024
"""Of all packets together; more is no subtitles."""
_THREE_LETTERS = {
    "cs": ("cze", "ces"), "cy": ("wel",), "de": ("ger",), "el": ("gre",), "es": ("spa",), "fa": ("per",), "is": ("ice",),
    "ja": ("jpn",), "nl": ("dut",), "pl": ("pol",), "pt": ("por",), "ro": ("rum",), "sv": ("swe",), "tr": ("tur",), "zh": ("chi",),
}  # fmt: skip
"""Codes of ISO 639-2 that don't begin with the two letters of ISO 639-1."""
_ASS_FIELDS = 8
"""Commas before the text in a packet of ASS as containers hold it: ReadOrder, Layer, Style, Name, three margins, Effect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subtitles:
    """What one stream says."""

    cues: tuple[Cue, ...]
    """In the order of the file; empty where no stream of text has words."""
    stream: str
    """Which stream, for people."""
    notes: tuple[str, ...]
    """What was not used or could not be read."""


def read_subtitles(info: SourceInfo, language: str = "") -> Subtitles:
    """The cues of the best text stream: of the wanted language, then the default one; none that is for foreign lines alone.

    Args:
        info: what `probe` found.
        language: code such as `en`, compared with the stream's own; "": any.
    """
    notes: list[str] = []
    with open_media(info.path) as container:
        streams = list(container.streams.subtitles)
        readable = [each for each in streams if codec_name(each) in TEXT_CODECS]
        if len(readable) < len(streams):
            found = ", ".join(codec_name(each) for each in streams if each not in readable)
            notes.append(f"subtitles that are no text ({found}) can't be read and were left alone")
        texts = [each for each in readable if not each.disposition & Disposition.forced]
        if len(texts) < len(readable):
            notes.append(
                f"{len(readable) - len(texts)} subtitle streams for foreign lines alone (forced) were left alone"
            )
        if not texts:
            return Subtitles(cues=(), stream="", notes=tuple(notes))
        best = max(texts, key=lambda each: _rank(each, language))
        name = f"subtitle stream {best.index} ({codec_name(best)}, {best.language or 'language not stated'})"
        if len(texts) > 1:
            notes.append(f"of {len(texts)} subtitle streams number {best.index} is used")
        cues: list[Cue] = []
        try:
            cues.extend(_cues(container, best, f"{info.path}, {name}", notes))
        except (av.error.FFmpegError, OSError) as error:
            notes.append(
                f"reading the {name} failed after {len(cues)} cues ({error.strerror}); what follows is missing"
            )
    return Subtitles(cues=tuple(cues), stream=name, notes=tuple(notes))


def _rank(stream: Any, language: str) -> tuple[bool, bool, int]:
    spoken, wanted = (stream.language or "").lower(), language.lower()
    return (
        bool(wanted) and (spoken[:2] == wanted[:2] or spoken in _THREE_LETTERS.get(wanted, ())),
        bool(stream.disposition & Disposition.default),
        -stream.index,
    )


def _cues(container: Any, stream: Any, path: str, notes: list[str]) -> Iterator[Cue]:
    kind, num_bytes, num_unreadable, num_untimed = codec_name(stream), 0, 0, 0
    for number, packet in enumerate(container.demux(stream), start=1):
        if not packet.size:
            continue
        num_bytes += packet.size
        if num_bytes > MAX_BYTES:
            notes.append(f"{path}: more than {MAX_BYTES} bytes; what follows was left out")
            break
        data = bytes(packet)
        if kind == "mov_text":
            data = data[2 : 2 + int.from_bytes(data[:2], "big")]
            if not data:  # MP4 fills the time between two subtitles with empty ones
                continue
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            num_unreadable += 1
            text = data.decode("utf-8", errors="replace")
        if kind in ("ass", "ssa"):
            text = text.split(",", _ASS_FIELDS)[-1].replace("\\N", " ").replace("\\n", " ").replace("\\h", " ")
        if packet.pts is None:
            num_untimed += 1
            continue
        start_s = float(packet.pts * packet.time_base)
        yield Cue(
            start_s=start_s,
            end_s=start_s + float((packet.duration or 0) * packet.time_base),
            text=plain_text(text.splitlines()),
            line=number,
            path=path,
            unit="number",
        )
    if num_unreadable:
        notes.append(f"{path}: {num_unreadable} cues are not UTF-8; the letters that can't be read were replaced")
    if num_untimed:
        notes.append(f"{path}: {num_untimed} cues carry no time and were left out")
