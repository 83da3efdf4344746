"""From records of measurements to tables, pictures and the README's table.

python -m benchmarks.report                                    # of what `make bench` measured: build/bench/*.json
python -m benchmarks.report benchmarks/results --output benchmarks/results --readme README.md   # `make bench-report`
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.material import ROOT
from benchmarks.plots import draw
from benchmarks.record import RecordError, read_record
from benchmarks.tables import Record, readme_table, report
from fv2es import Fv2esError
from fv2es.errors import UsageError
from fv2es.files import write_whole

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
RESULTS = ROOT / "benchmarks" / "results"
"""Records that are committed; the README's table is made from them."""
MEASURED = ROOT / "build" / "bench"


def records_in(paths: Sequence[Path]) -> list[Record]:
    """All records among files and in folders (not below them).

    Raises:
        RecordError: a file is none.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    return [read_record(file) for file in files]


def with_table(text: str, made: str, *, place: str = "README") -> str:
    """The text with what stands between the markers replaced.

    Raises:
        RecordError: the markers are not there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise RecordError(f"{place}: needs one line `{BEGIN}` and after it one line `{END}`")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report.

    Returns:
        0 done, 1 a record can't be read or nothing can be written, 2 bad usage.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description="Make tables and pictures from records."
    )
    parser.add_argument("records", type=Path, nargs="*", default=[MEASURED], help="JSON files, or folders of them")
    parser.add_argument(
        "--output", type=Path, default=MEASURED / "report", metavar="DIR", help="for report.md and pictures"
    )
    parser.add_argument("--readme", type=Path, metavar="FILE", help="also replace the table between its markers")
    options = parser.parse_args(argv)
    try:
        if missing := [path for path in options.records if not path.exists()]:
            raise UsageError(f"{missing[0]}: no such file or folder; measure first: make bench")
        records = records_in(options.records)
        options.output.mkdir(parents=True, exist_ok=True)
        pictures = draw(records, options.output)
        write_whole(options.output / "report.md", report(records, pictures).encode())
        if options.readme:
            text = options.readme.read_text(encoding="utf-8")
            write_whole(options.readme, with_table(text, readme_table(records), place=options.readme.name).encode())
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (Fv2esError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{options.output / 'report.md'}: {len(records)} records, {len(pictures)} pictures\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
