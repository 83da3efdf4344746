"""SRT and WebVTT: the emotion above the words, for any player."""

import html
from collections.abc import Sequence

from fv2es.palette import colours
from fv2es.plain import printable
from fv2es.result import LostUtterance, Result, UtteranceResult

_MS_IN = (3_600_000, 60_000, 1000)


def srt_bytes(results: Sequence[Result]) -> bytes:
    """SubRip, UTF-8: `happiness 97%`, then the words. For one result."""
    (result,) = results
    cues = [
        f"{number}\n{_span(each, ',')}\n{_without_arrow(head(each))}\n{_without_arrow(printable(each.text))}".rstrip()
        for number, each in enumerate(result.items, start=1)
    ]
    return "".join(f"{cue}\n\n" for cue in cues).encode()


def vtt_bytes(results: Sequence[Result]) -> bytes:
    """WebVTT, UTF-8: as SRT, with a colour for each label, and which model spoke in a note. For one result."""
    (result,) = results
    labels = result.model.labels
    classes = {label: f"emotion{place}" for place, label in enumerate(labels)}
    styles = "\n".join(f"::cue(.{classes[label]}) {{ color: {tone}; }}" for label, tone in colours(labels).items())
    trained = "" if result.model.trained else ", UNTRAINED WEIGHTS"
    note = f"{result.source['path']}: model {result.model.name} {result.model.sha256[:12]}{trained}"
    blocks = ["WEBVTT", f"NOTE {_without_arrow(printable(note))}", f"STYLE\n{styles}"]
    for number, each in enumerate(result.items, start=1):
        told = html.escape(head(each), quote=False)
        if isinstance(each, UtteranceResult):
            told = f"<c.{classes[each.top_label]}>{told}</c>"
        words = html.escape(printable(each.text), quote=False)
        blocks.append(f"{number}\n{_span(each, '.')}\n{told}\n{words}".rstrip())
    return ("\n\n".join(blocks) + "\n").encode()


def head(each: UtteranceResult | LostUtterance) -> str:
    """The emotion in few words: `happiness 97%`, `unclear (happiness 35%)`, or `not scored (NoMedia)`."""
    if isinstance(each, LostUtterance):
        return f"not scored ({printable(each.error)})"
    best = f"{printable(each.top_label)} {each.confidence:.0%}"
    return best if each.is_clear else f"unclear ({best})"


def span_ms(each: UtteranceResult | LostUtterance) -> tuple[int, int]:
    """Start and end in whole milliseconds, at least one apart and never below 0."""
    start_ms = max(round(each.start_s * 1000), 0)
    return start_ms, max(round(each.end_s * 1000), start_ms + 1)


def _span(each: UtteranceResult | LostUtterance, point: str) -> str:
    return " --> ".join(_clock(time_ms, point) for time_ms in span_ms(each))


def _clock(time_ms: int, point: str) -> str:
    parts = []
    for length_ms in _MS_IN:
        part, time_ms = divmod(time_ms, length_ms)
        parts.append(f"{part:02d}")
    return f"{':'.join(parts)}{point}{time_ms:03d}"


def _without_arrow(text: str) -> str:
    """SRT and notes have no way to escape the arrow that marks times."""
    return text.replace("-->", "->")
