"""A result's timeline as a picture."""

import io
import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fv2es.errors import MissingPackage, ResultError
from fv2es.files.as_json import read_results
from fv2es.files.atomic import check_writable, write_whole
from fv2es.files.lanes import lanes
from fv2es.palette import colours
from fv2es.plain import printable
from fv2es.result import MODALITIES, LostUtterance, Result, UtteranceResult
from fv2es.ticks import ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS: Final = (".png", ".svg")
"""Of file names; they say the format."""
MOST_RESULTS = 20
"""More do not fit one picture."""

_WIDTH_IN, _HEIGHT_IN = 12.0, 4.0
_DPI = 150
_ROWS = {"text": "words", "visual": "face", "acoustic": "voice"}
_INK, _FAINT, _PALE, _ALARM = "#1d2129", "#5d6673", "#e9ebee", "#b3261e"
_PALENESS = 0.35
"""Opacity of an utterance with too little evidence."""
_MOST_TICKS = 12
_MOST_EDGED = 150
"""With more utterances, the white edges between them would hide them."""
_LEAST_ROOM_IN = 1.1
"""Width of an utterance that has room for its words."""
_CHARACTERS_PER_IN = 15.0
_MOST_LINES = 4


def plot(result_file: Path | str, target: Path | str) -> list[str]:
    """Draw the results of a JSON file into a .png or .svg; an old file is replaced only by a whole new one.

    Above: the labels' probabilities, stacked, pale where there is too little evidence. Below: what each utterance was judged by.
    The words stand under their utterances where all have room.

    Returns:
        Notes for people: which characters no font of this machine has.

    Raises:
        ResultError: the file holds no results, or more than 20.
        UsageError: the target could not be written, or its ending is unknown.
        MissingPackage: matplotlib is not installed.
        OSError: the target can't be written.
    """
    target = Path(target)
    check_writable(target, ENDINGS)
    results = read_results(result_file)
    if not 1 <= len(results) <= MOST_RESULTS:
        raise ResultError(
            printable(result_file),
            f"holds {len(results)} results; a picture shows 1 to {MOST_RESULTS}: analyse fewer at once",
        )
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise MissingPackage("a picture", package="matplotlib", extra="plot") from error
    is_svg = target.suffix.lower() == ".svg"
    families, missing = _families(_characters(results))
    settings: Any = {"font.family": families, "svg.fonttype": "none", "svg.hashsalt": "fv2es", "text.color": _INK}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # they are noted, or left to an SVG's viewer
        figure = _figure(results, set() if is_svg else missing)
        data = io.BytesIO()
        metadata = {"Date": None} if is_svg else {"Software": None}
        figure.savefig(data, format=target.suffix[1:].lower(), dpi=_DPI, metadata=metadata)
    write_whole(target, data.getvalue())
    if not missing or is_svg:
        return []
    shown = " ".join(sorted(missing)[:10]) + (" ..." if len(missing) > 10 else "")
    return [
        f"no font of this machine has {len(missing)} of the characters ({shown}), so \ufffd or ? stands for each; "
        "install one (Debian: apt-get install fonts-noto-core fonts-noto-cjk fonts-symbola) or draw an .svg, whose viewer finds its own"
    ]


def _figure(results: Sequence[Result], missing: set[str]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN * len(results)), layout="constrained", facecolor="white")
    parts = figure.subfigures(len(results), 1, squeeze=False)
    for part, result in zip(parts[:, 0], results, strict=True):
        part.set_facecolor("white")
        above, below = part.subplots(2, 1, sharex=True, height_ratios=(5, 1.2))
        tones = colours(result.model.labels)
        start_s, end_s = result.extent_s
        filled = lanes(result.items)
        edge = 0.4 if len(result.items) <= _MOST_EDGED else 0.0
        _draw_stacks(above, filled, tones, result.stack_top, edge)
        _draw_presence(below, result.items, edge)
        for axes in (above, below):
            axes.set_xlim(start_s, end_s)
            axes.tick_params(colors=_FAINT, labelsize=9)
            for spine in axes.spines.values():
                spine.set_visible(False)
        marks = ticks(start_s, end_s, _MOST_TICKS)
        below.set_xticks([time_s for time_s, _ in marks], [name for _, name in marks])
        above.tick_params(bottom=False)
        below.tick_params(left=False)
        _write_words(above, result, missing)
        above.set_title(_drawable(_title(result), missing), loc="left", fontsize=11, parse_math=False)
        handles, names = above.get_legend_handles_labels()
        part.legend(
            handles,
            [_drawable(name, missing) for name in names],
            loc="outside right upper",
            fontsize=9,
            frameon=False,
            reverse=True,
        )
    return figure


def _title(result: Result) -> str:
    model = result.model
    best = sorted(result.overall.items(), key=lambda pair: -pair[1])[:3]
    overall = ", ".join(f"{label} {value:.2f}" for label, value in best) or "no utterance could be scored"
    trained = "" if model.trained else "  UNTRAINED WEIGHTS: THIS MEANS NOTHING"
    path = printable(str(result.source["path"]))
    path = path if len(path) <= 90 else f"...{path[-87:]}"
    return f"{path}\noverall: {overall}   (model {model.name} {model.sha256[:12]}){trained}"


def _draw_stacks(
    axes: "Axes",
    filled: Sequence[Sequence[UtteranceResult | LostUtterance]],
    tones: Mapping[str, str],
    top: float,
    edge: float,
) -> None:
    """Stacked bars with edges of `edge` points; lanes of utterances that overlap stand above each other."""
    for label, tone in tones.items():
        axes.bar([0], [0], color=tone, label=label)  # for the legend, also where no utterance has the label
    for number, lane in enumerate(filled):
        scored = [each for each in lane if isinstance(each, UtteranceResult)]
        starts, widths = [each.start_s for each in scored], [each.duration_s for each in scored]
        bottoms = [number * top] * len(scored)
        for label in tones if scored else ():
            heights = [each.probabilities[label] for each in scored]
            shades = [(tones[label], 1.0 if each.is_clear else _PALENESS) for each in scored]
            axes.bar(starts, heights, widths, bottoms, align="edge", color=shades, edgecolor="white", linewidth=edge)
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
        lost = [each for each in lane if isinstance(each, LostUtterance)]
        axes.bar(
            [each.start_s for each in lost],
            top,
            [each.end_s - each.start_s for each in lost],
            number * top,
            align="edge",
            facecolor=_PALE,
            edgecolor=_ALARM,
            hatch="//",
            linewidth=0,
        )
    num_lanes = max(len(filled), 1)
    axes.set_ylim(0, num_lanes * top)
    axes.set_facecolor("#f6f7f9")
    shares = (0.0, 0.5, 1.0) if num_lanes == 1 else (0.0, 1.0)
    axes.set_yticks(
        [lane * top + share for lane in range(num_lanes) for share in shares],
        [f"{each:g}" for _ in range(num_lanes) for each in shares],
    )
    axes.set_ylabel("probability (stacked)", color=_FAINT, fontsize=9)


def _draw_presence(axes: "Axes", items: Sequence[UtteranceResult | LostUtterance], edge: float) -> None:
    for place, name in enumerate(MODALITIES):
        there = [each for each in items if isinstance(each, UtteranceResult) and each.modalities[name].present]
        shares = [{"visual": each.face_share, "acoustic": each.speech_share}.get(name) for each in there]
        axes.barh(
            [place] * len(there),
            [each.duration_s for each in there],
            0.6,
            [each.start_s for each in there],
            color=[(_FAINT, 1.0 if share is None else 0.25 + 0.75 * share) for share in shares],
            edgecolor="white",
            linewidth=edge,
        )
    axes.set_yticks(range(len(MODALITIES)), [_ROWS[name] for name in MODALITIES])
    axes.set_ylim(len(MODALITIES) - 0.5, -0.5)


def _write_words(axes: "Axes", result: Result, missing: set[str]) -> None:
    """The words inside the stacks' foot, if every utterance has room; lines are broken by width, wide characters count double."""
    start_s, end_s = result.extent_s
    inches = _WIDTH_IN * 0.8 / (end_s - start_s)
    spoken = [each for each in result.utterances if each.text]
    if any(each.duration_s * inches < _LEAST_ROOM_IN for each in spoken) or len(lanes(result.items)) > 1:
        return
    for each in spoken:
        lines = _broken(_drawable(printable(each.text), missing), each.duration_s * inches * _CHARACTERS_PER_IN)
        axes.text(
            each.start_s + each.duration_s / 2,
            0.03 * result.stack_top,
            "\n".join(lines),
            ha="center",
            va="bottom",
            fontsize=8,
            parse_math=False,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "boxstyle": "round,pad=0.3"},
        )


def _broken(text: str, room: float) -> list[str]:
    """The text in lines of about `room` narrow characters, at most four; broken at spaces, inside words that are too long."""
    lines, used = [""], 0
    for word in text.split(" "):
        for piece in _pieces(word, room):
            width = _width(piece)
            if used and used + 1 + width > room:
                lines.append("")
                used = 0
            lines[-1] += f" {piece}" if used else piece
            used += width + (1 if used else 0)
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1]} ..."]


def _pieces(word: str, room: float) -> list[str]:
    pieces = [""]
    for each in word:
        if pieces[-1] and _width(pieces[-1]) + _width(each) > room:
            pieces.append("")
        pieces[-1] += each
    return pieces


def _width(text: str) -> int:
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text)


def _characters(results: Iterable[Result]) -> set[str]:
    texts = [
        text
        for each in results
        for text in (printable(str(each.source["path"])), *each.model.labels, *(own.text for own in each.utterances))
    ]
    return {each for text in texts for each in printable(text) if not each.isspace()}


def _drawable(text: str, missing: set[str]) -> str:
    stand_in = "?" if "\ufffd" in missing else "\ufffd"
    return "".join(stand_in if each in missing else each for each in text)


def _families(wanted: set[str]) -> tuple[list[str], set[str]]:
    """Font families that together have the wanted characters, the usual one first; and the characters that none has.

    Fonts of coloured bitmaps (emoji) can't be drawn by matplotlib, and one of last resort has nothing but boxes: neither counts.
    """
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    families = ["DejaVu Sans"]
    missing = {each for each in wanted if ord(each) > 0x7E}
    fonts = sorted(
        fontManager.ttflist,
        key=lambda font: (font.name != families[0], font.style != "normal", font.weight != 400, font.name),
    )
    seen: set[str] = set()
    for font in fonts:
        if not missing:
            break
        if font.name in seen or font.name.startswith("Last Resort") or not os.path.exists(font.fname):  # noqa: PTH110 - hundreds of names
            continue
        seen.add(font.name)
        try:
            own = FT2Font(font.fname)
        except (RuntimeError, OSError):
            continue
        covered = {each for each in missing if own.get_char_index(ord(each))}
        if covered and own.scalable:
            families.append(font.name)
            missing -= covered
    return list(dict.fromkeys(families)), missing


logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns of fonts that it can't find by weight
