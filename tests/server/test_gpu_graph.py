"""The `gpu` profile's ensemble, executed here on the CPU, says what the `cpu` profile says."""

from pathlib import Path

import numpy as np
import pytest

import gpu_profile
import nasty_media
from fv2es_pipelines.errors import NotMedia

SPANS_S = [(0.0, 2.5), (2.0, 4.0), (4.0, 6.0), (20.0, 22.0)]
WORDS = ["What a fine day.", "", "Where did he go?", "Nobody is here."]


@pytest.fixture(scope="module")
def on_cpu(repository: Path):
    return gpu_profile.Ensemble("cpu", repository)


@pytest.fixture(scope="module")
def on_gpu(repository: Path):
    return gpu_profile.Ensemble("gpu", repository)


@pytest.mark.parametrize("codec", ["libvpx-vp9", "mjpeg"])
def test_the_same_answer(codec: str, on_cpu, on_gpu, astronaut: Path, tmp_path: Path):
    inputs = gpu_profile.request(gpu_profile.recoded(astronaut, tmp_path / "film.mkv", codec=codec), SPANS_S, WORDS)
    expected, found = on_cpu(**inputs), on_gpu(**inputs)
    for n in ("FRAME_BOXES", "FRAME_SCORES", "FACES", "PIECES", "VISUAL", "LOGITS", "PROBABILITIES"):
        print(
            n, np.abs(expected[n].astype(float) - found[n]).max(), np.abs(expected[n].astype(float) - found[n]).mean()
        )
    print(expected["FRAME_SCORES"])
