"""Result files. The ending of the name says the form; each form has a module of its own."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fv2es.errors import MissingPackage, UsageError
from fv2es.files.as_csv import csv_bytes
from fv2es.files.as_eaf import eaf_bytes
from fv2es.files.as_json import json_bytes, read_results
from fv2es.files.as_rttm import rttm_bytes
from fv2es.files.as_subtitles import srt_bytes, vtt_bytes
from fv2es.files.atomic import check_writable, write_whole
from fv2es.plain import printable
from fv2es.result import Result

__all__ = ["FORMATS", "Form", "check_output", "check_writable", "read_results", "write_results", "write_whole"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One form of result file."""

    render: Callable[[Sequence[Result], "Order"], bytes]
    takes_many: bool
    """Whether results of several sources fit into one file."""
    package: str | None = None
    """Module that it needs beyond what the client needs; it comes with the extra `files`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a file is wanted for."""

    target: Path
    """Where it will be."""
    key_frames: bool = False
    """Whether a report shows pictures of the source."""


def _parquet(results: Sequence[Result], order: Order) -> bytes:
    from fv2es.files.as_parquet import parquet_bytes

    del order
    return parquet_bytes(results)


def _html(results: Sequence[Result], order: Order) -> bytes:
    from fv2es.files.as_html import html_bytes

    return html_bytes(results, key_frames=order.key_frames)


FORMATS: Mapping[str, Form] = {
    ".json": Form(render=lambda results, _: json_bytes(results), takes_many=True),
    ".csv": Form(render=lambda results, _: csv_bytes(results), takes_many=True),
    ".parquet": Form(render=_parquet, takes_many=True, package="pyarrow"),
    ".srt": Form(render=lambda results, _: srt_bytes(results), takes_many=False),
    ".vtt": Form(render=lambda results, _: vtt_bytes(results), takes_many=False),
    ".eaf": Form(render=lambda results, order: eaf_bytes(results, order.target), takes_many=False),
    ".rttm": Form(render=lambda results, _: rttm_bytes(results), takes_many=True),
    ".html": Form(render=_html, takes_many=True, package="jinja2"),
}
"""By the ending of the file's name."""


def check_output(path: Path, *, num_sources: int = 1, key_frames: bool = False) -> None:
    """Refuse a result file that could not be written, before work is done for it.

    Args:
        path: the file.
        num_sources: how many results it is to hold.
        key_frames: whether it is to show pictures.

    Raises:
        UsageError: as `check_writable`; the form does not take that many results, or has no pictures.
        MissingPackage: what the form needs is not installed.
    """
    check_writable(path, FORMATS)
    ending = path.suffix.lower()
    form = FORMATS[ending]
    if num_sources != 1 and not form.takes_many:
        many = ", ".join(name for name, each in FORMATS.items() if each.takes_many)
        raise UsageError(
            f"{printable(path)}: a {ending} file belongs to one source, but {num_sources} are given; "
            f"run them one by one, or choose {many}"
        )
    if key_frames and ending != ".html":
        raise UsageError(f"{printable(path)}: key frames are shown in .html files alone; leave them out or name one")
    if form.package and importlib.util.find_spec(form.package) is None:
        raise MissingPackage(f"a {ending} file", package=form.package, extra="files")


def write_results(path: Path | str, results: Sequence[Result], *, key_frames: bool = False) -> None:
    """Write a result file in the form that its name's ending says; an old file is replaced only by a whole new one.

    Args:
        path: the file.
        results: one or several, see `FORMATS`.
        key_frames: show pictures of the sources in an .html report; they must still be where they were.

    Raises:
        UsageError: as `check_output`; or results of models with different labels for .csv and .parquet.
        MissingPackage: as `check_output`.
        OSError: as `write_whole`.
    """
    path = Path(path)
    check_output(path, num_sources=len(results), key_frames=key_frames)
    data = FORMATS[path.suffix.lower()].render(results, Order(target=path, key_frames=key_frames))
    write_whole(path, data)
