"""What several areas of the tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from fv2es import EmbeddedServer
from fv2es_pipelines.gpu import Gpu, NoGpu, find_gpu

ROOT = Path(__file__).resolve().parents[1]
SCHEDULING = os.sched_getscheduler(0), os.sched_getparam(0)
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Real material beside the project; tests that use it skip where it is absent."""

hypothesis.settings.register_profile("fv2es", deadline=None)  # its 200 ms are of the clock, and a machine may be busy
hypothesis.settings.load_profile("fv2es")


@pytest.fixture(autouse=True)
def _same_scheduling() -> Iterator[None]:
    """SVT-AV1, opened by root, moves this thread, and so all processes that later tests start, into the class of real time."""
    os.sched_setscheduler(0, *SCHEDULING)  # fixtures of modules encode too
    yield
    os.sched_setscheduler(0, *SCHEDULING)


@pytest.fixture(scope="session")
def astronaut() -> Path:
    """12 s of 640x360 H.264 + AAC: a face, then none, then the face again; speech. See media/make_astronaut.py."""
    return ROOT / "tests" / "media" / "astronaut.mp4"


@pytest.fixture(scope="session")
def astronaut_srt() -> Path:
    return ROOT / "tests" / "media" / "astronaut.srt"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The model repository with trained weights, as it is committed."""
    return ROOT / "model_repository"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real material beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is absent")
    return SHARED_DATA


@pytest.fixture(scope="session")
def shared_media(shared_data: Path) -> Path:
    return shared_data / "media"


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[EmbeddedServer]:
    """A running embedded Triton; tests that use it carry the mark `server`."""
    with EmbeddedServer(repository) as running:
        yield running


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """This machine's GPU. Tests that need one skip without it, and fail where it must be there (FV2ES_REQUIRE_GPU=1)."""
    try:
        return find_gpu()
    except NoGpu as error:
        if os.environ.get("FV2ES_REQUIRE_GPU") == "1":
            pytest.fail(f"FV2ES_REQUIRE_GPU=1, but: {error}")
        pytest.skip(str(error))
