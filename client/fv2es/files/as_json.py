"""JSON: everything that is known, by the schema `schema/result-1.json`."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fv2es.errors import ResultError
from fv2es.plain import printable
from fv2es.result import Result

_SURROGATE = re.compile("[\ud800-\udfff]")


def json_bytes(results: Sequence[Result]) -> bytes:
    """One source gives an object, several an array. UTF-8."""
    values = [each.to_dict() for each in results]
    text = json.dumps(values[0] if len(values) == 1 else values, ensure_ascii=False, indent=1, allow_nan=False)
    return f"{without_surrogates(text)}\n".encode()


def without_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def read_results(path: Path | str) -> tuple[Result, ...]:
    """The results in a JSON file, in its order.

    Raises:
        ResultError: the file can't be read, is no JSON, or holds something else than results.
    """
    name = printable(path)
    try:
        value = json.loads(Path(path).read_bytes(), parse_constant=_refuse)
    except OSError as error:
        raise ResultError(
            name, f"can't be read ({error.strerror}); give a result file that `fv2es analyze` wrote"
        ) from error
    except (ValueError, RecursionError) as error:  # bad JSON and bad UTF-8 are ValueErrors
        raise ResultError(name, f"is no JSON ({error}); give a result file that `fv2es analyze` wrote") from error
    if isinstance(value, list):
        return tuple(Result.from_dict(each, place=f"{name}: [{index}]") for index, each in enumerate(value))
    return (Result.from_dict(value, place=name),)


def source_path(result: Result) -> Path:
    """Where the source was when it was analysed, also if its name is no UTF-8."""
    exact: Any = result.source.get("path_hex")
    return Path(os.fsdecode(bytes.fromhex(exact)) if isinstance(exact, str) else str(result.source["path"]))


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")
