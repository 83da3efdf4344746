"""A chart of the timeline in characters: one row a label, time from left to right."""

from collections.abc import Iterator

from rich.text import Text

from fv2es.palette import colours
from fv2es.plain import printable
from fv2es.result import LostUtterance, Result, UtteranceResult
from fv2es.ticks import ticks

_BLOCKS, _LINES = "·▁▂▃▄▅▆▇█", "━┄x"
_ASCII_BLOCKS, _ASCII_LINES = ".,:-=+*%#", "=.x"
"""Where the terminal's encoding lacks the others."""
_INDENT = 2
_MOST_NAME = 14
_LEAST_COLUMNS = 10
_TICK_ROOM = 10


def chart(result: Result, *, width: int, encoding: str = "utf-8") -> Iterator[Text]:
    """The chart's lines, none wider than `width` (unless that leaves time fewer than ten columns).

    A block's height is the mean probability in its column of time; blank: no utterance there. The last row says whether there
    is enough evidence (full line), too little (dots) or whether the utterance was lost (x).
    """
    labels = result.model.labels
    name_width = min(max(len(printable(label)) for label in (*labels, "evidence")), _MOST_NAME)
    num_columns = max(width - _INDENT - name_width - 1, _LEAST_COLUMNS)
    start_s, end_s = result.extent_s
    step_s = (end_s - start_s) / num_columns
    columns: list[list[tuple[UtteranceResult | LostUtterance, float]]] = [[] for _ in range(num_columns)]
    for each in result.items:
        first = int((each.start_s - start_s) / step_s)
        last = min(int((each.end_s - start_s) / step_s), num_columns - 1)
        for column in range(first, last + 1):
            left_s = start_s + column * step_s
            shared_s = min(each.end_s, left_s + step_s) - max(each.start_s, left_s)
            if shared_s > 0:
                columns[column].append((each, shared_s))
    blocks, lines = (_BLOCKS, _LINES) if _can_show(_BLOCKS + _LINES, encoding) else (_ASCII_BLOCKS, _ASCII_LINES)
    for label, colour in colours(labels).items():
        cells = "".join(_block(_mean(column, label), blocks) for column in columns)
        yield Text.assemble(_name(label, name_width), (cells, colour))
    yield Text.assemble(_name("evidence", name_width), ("".join(_line(column, lines) for column in columns), "dim"))
    yield Text.assemble(" " * (_INDENT + name_width + 1), (_axis(start_s, end_s, num_columns), "dim"))


def _mean(column: list[tuple[UtteranceResult | LostUtterance, float]], label: str) -> float | None:
    scored = [(each.probabilities[label], shared) for each, shared in column if isinstance(each, UtteranceResult)]
    if not scored:
        return None
    return sum(value * shared for value, shared in scored) / sum(shared for _, shared in scored)


def _block(value: float | None, blocks: str) -> str:
    return " " if value is None else blocks[min(int(value * len(blocks)), len(blocks) - 1)]


def _line(column: list[tuple[UtteranceResult | LostUtterance, float]], lines: str) -> str:
    if not column:
        return " "
    if any(isinstance(each, LostUtterance) for each, _ in column):
        return lines[2]
    return lines[0] if all(isinstance(each, UtteranceResult) and each.is_clear for each, _ in column) else lines[1]


def _axis(start_s: float, end_s: float, num_columns: int) -> str:
    cells = [" "] * num_columns
    free_from = 0
    for time_s, name in ticks(start_s, end_s, max(num_columns // _TICK_ROOM, 1)):
        at = min(round((time_s - start_s) / (end_s - start_s) * num_columns), num_columns - len(name))
        if at >= free_from:
            cells[at : at + len(name)] = name
            free_from = at + len(name) + 1
    return "".join(cells).rstrip()


def _name(label: str, width: int) -> str:
    return f"{' ' * _INDENT}{printable(label)[:width]:{width}} "


def _can_show(characters: str, encoding: str) -> bool:
    try:
        characters.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
