"""One JSON form for all measurements: what was measured, on what machine, with which versions, on which films."""

import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import av

from benchmarks.material import ROOT, Material
from fv2es import Fv2esError
from fv2es.files import write_whole

SCHEMA_VERSION = 1

PACKAGES = (
    "fv2es",
    "av",
    "numpy",
    "tritonclient",
    "grpcio",
    "nvidia-pytriton",
    "nvidia-dali-cuda130",
    "onnxruntime",
    "faster-whisper",
    "torch",
    "locust",
)
"""Whose versions are written down where they are installed. What a remote server runs, its own record has to say."""

Value = str | int | float | bool | None | Sequence[str | int | float]
"""Of a measurement: flat, lists only as series over time."""


class RecordError(Fv2esError, ValueError):
    """A record is not of the form that is written and read here."""


def machine() -> dict[str, Any]:
    """The machine that this process runs on: processor, cores that it may use, memory, kernel, how busy it was."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
    return {
        "processor": facts.get("model name", platform.processor() or platform.machine()),
        "instruction_sets": [each for each in wanted if each in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": platform.system(),
        "load_average_1min": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Versions of what takes part, and the revision of this project where git knows it."""
    found = {"python": platform.python_version(), "ffmpeg": ".".join(map(str, av.library_versions["libavcodec"]))}
    found["ffmpeg"] = f"libavcodec {found['ffmpeg']}"
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if revision := _revision():
        found["revision"] = revision
    return found


def _revision() -> str:
    """Such as `8a22b52`, with `+` where files differ from it; empty without git."""
    git = shutil.which("git")
    if git is None:
        return ""
    command = (git, "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def write_record(
    path: Path,
    *,
    kind: str,
    settings: Mapping[str, Any],
    materials: Sequence[Material],
    measurements: Sequence[Mapping[str, Value]],
) -> None:
    """Write one file of measurements.

    Args:
        path: ends in `.json`; its folder is made.
        kind: which script measured: `long_video`, `peers`, `load`...
        settings: what was asked for; anything that JSON holds.
        materials: the films, each once.
        measurements: flat: numbers, names, and lists of them as series; keys have units. The film of a measurement is named by
            `material`, its `Material.name`.

    Raises:
        RecordError: a measurement is not flat, or a number in it is not finite.
    """
    for index, each in enumerate(measurements):
        for key, value in each.items():
            parts = value if isinstance(value, list | tuple) else (value,)
            for part in parts:
                if not isinstance(part, str | int | float | bool | None):
                    raise RecordError(
                        f"measurements[{index}][{key!r}] is {value!r}; only numbers, names and lists of them fit"
                    )
                if isinstance(part, float) and not math.isfinite(part):
                    raise RecordError(
                        f"measurements[{index}][{key!r}]={part} is not finite; leave it out, or write None"
                    )
    record = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(_as_typed(sys.orig_argv)),
        "machine": machine(),
        "versions": versions(),
        "settings": dict(settings),
        "materials": [asdict(each) | {"path": each.path.name, "name": each.name} for each in materials],
        "measurements": [dict(each) for each in measurements],
    }
    text = json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def _as_typed(arguments: Sequence[str]) -> list[str]:
    """The command without the folder that it was run in."""
    here = f"{Path.cwd()}{os.sep}"
    return [each.replace(here, "") for each in arguments]


def read_record(path: Path) -> dict[str, Any]:
    """A file that `write_record` wrote.

    Raises:
        RecordError: it is no such file, or of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["schema_version"]
        missing = {"kind", "date", "machine", "versions", "settings", "materials", "measurements"} - record.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path}: not a record of measurements ({error!r}); give a file of `write_record`") from error
    if version != SCHEMA_VERSION or missing:
        raise RecordError(
            f"{path}: schema_version {version} without {sorted(missing)}; this reads version {SCHEMA_VERSION}; measure again"
        )
    return dict(record)
