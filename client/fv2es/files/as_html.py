"""A report in one HTML file: timeline, table, pictures if asked for. No script, nothing loaded from elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from fv2es.console import UNTRAINED, clock
from fv2es.files.key_frames import KeyFrame, key_frames
from fv2es.files.lanes import lanes
from fv2es.palette import colours
from fv2es.plain import printable
from fv2es.result import MODALITIES, LostUtterance, Result, UtteranceResult
from fv2es.ticks import ticks

WIDTH = 1000.0
"""Of the timeline in its own units, at least."""
_LEAST_WIDTH = 6.0
"""Room for an utterance of mean length; a long film's timeline becomes wider and is scrolled."""
_MOST_WIDTH = 12_000.0
_STRIP, _ROW, _GAP = 150.0, 10.0, 4.0
"""Heights: of the stacked probabilities, of a modality's presence, between them."""
_AXIS = 22.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A rectangle of the timeline."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    """Class of its style; labels have `e0`, `e1` ... by their place."""
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """All of one utterance in the timeline."""

    anchor: str
    title: str
    bars: tuple[Bar, ...]


def html_bytes(results: Sequence[Result], *, key_frames: bool = False) -> bytes:
    """The report, UTF-8: a part for each result."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": clock, "plain": lambda text: printable(str(text))}
    environment.tests["lost"] = lambda each: isinstance(each, LostUtterance)
    labels = list(dict.fromkeys(label for each in results for label in each.model.labels))
    page = environment.get_template("report.html.j2").render(
        parts=[_part(each, place, labels, with_pictures=key_frames) for place, each in enumerate(results)],
        tones=list(colours(labels).values()),
        modalities=MODALITIES,
        untrained=UNTRAINED,
    )
    return page.encode()


def _part(result: Result, place: int, labels: Sequence[str], *, with_pictures: bool) -> dict[str, Any]:
    """What the template needs for one result."""
    kinds = {label: f"e{labels.index(label)}" for label in result.model.labels}
    pictures = dict(key_frames(result)) if with_pictures else {}
    return {
        "place": place,
        "result": result,
        "kinds": kinds,
        "timeline": _timeline(result, place, kinds),
        "rows": [_row(each, place, pictures.get(each.index)) for each in result.items],
        "with_pictures": bool(pictures),
    }


def _row(each: UtteranceResult | LostUtterance, place: int, picture: KeyFrame | str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"item": each, "anchor": f"r{place}u{each.index}", "picture": None, "no_picture": ""}
    if isinstance(picture, str):
        row["no_picture"] = picture
    elif picture is not None:
        row["picture"] = picture
    if isinstance(each, UtteranceResult):
        row["ordered"] = sorted(each.probabilities.items(), key=lambda pair: -pair[1])
        row["added"] = {name: own[each.top_label] for name, own in each.contributions.items() if each.top_label in own}
    return row


def _timeline(result: Result, place: int, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Geometry of the picture: stacked probabilities over time, below them what each utterance was judged by."""
    filled = lanes(result.items)
    start_s, end_s = result.extent_s
    width = min(max(WIDTH, _LEAST_WIDTH * len(result.items)), _MOST_WIDTH)
    scale = width / (end_s - start_s)
    top = result.stack_top
    height_of_lane = _STRIP + len(MODALITIES) * (_ROW + _GAP) + 2 * _GAP
    groups = []
    for number, lane in enumerate(filled):
        y = number * height_of_lane
        groups += [
            Group(
                anchor=f"r{place}u{each.index}",
                title=_title(each),
                bars=tuple(_bars(each, (each.start_s - start_s) * scale, y, scale, top, kinds)),
            )
            for each in lane
        ]
    strips = [
        {
            "y": number * height_of_lane,
            "rows": [number * height_of_lane + _row_y(each) for each in range(len(MODALITIES))],
        }
        for number in range(max(len(filled), 1))
    ]
    height = height_of_lane * max(len(filled), 1)
    return {
        "width": width,
        "height": height + _AXIS,
        "axis_y": height,
        "ticks": [((time_s - start_s) * scale, text) for time_s, text in ticks(start_s, end_s, int(width / 90))],
        "groups": groups,
        "strips": strips,
        "strip": _STRIP,
        "row": _ROW,
        "levels": [(share, _STRIP * (1 - share / top)) for share in (0.0, 0.5, 1.0)],
    }


def _bars(
    each: UtteranceResult | LostUtterance, x: float, y: float, scale: float, top: float, kinds: Mapping[str, str]
) -> Iterator[Bar]:
    width = (each.end_s - each.start_s) * scale
    if isinstance(each, LostUtterance):
        yield Bar(x=x, y=y, width=width, height=_STRIP, kind="lost")
        return
    bottom = y + _STRIP
    for label, value in each.probabilities.items():
        height = _STRIP * value / top
        bottom -= height
        yield Bar(x=x, y=bottom, width=width, height=height, kind=kinds[label])
    if not each.is_clear:
        yield Bar(x=x, y=bottom, width=width, height=y + _STRIP - bottom, kind="unclear")
    for number, name in enumerate(MODALITIES):
        if each.modalities[name].present:
            share = {"visual": each.face_share, "text": None, "acoustic": each.speech_share}[name]
            opacity = 1.0 if share is None else 0.25 + 0.75 * share
            yield Bar(x=x, y=y + _row_y(number), width=width, height=_ROW, kind=name, opacity=opacity)


def _row_y(number: int) -> float:
    return _STRIP + 2 * _GAP + number * (_ROW + _GAP)


def _title(each: UtteranceResult | LostUtterance) -> str:
    span = f"{clock(each.start_s)}-{clock(each.end_s)}"
    if isinstance(each, LostUtterance):
        return f"{span} not scored: {each.error}: {each.reason}"
    ordered = sorted(each.probabilities.items(), key=lambda pair: -pair[1])
    unclear = "" if each.is_clear else "unclear: "
    return f"{span} {unclear}{', '.join(f'{label} {value:.2f}' for label, value in ordered)}\n{each.text}"
