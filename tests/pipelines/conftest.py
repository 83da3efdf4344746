"""What the tests of the pipelines share."""

from pathlib import Path

import pytest

from fv2es_pipelines.mtcnn import Detector

FACES_FOLDER = Path(__file__).resolve().parents[2] / "model_repository" / "faces" / "1"


@pytest.fixture(scope="session")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector's three nets: those of the model repository, else made on the spot."""
    names = ("pnet", "rnet", "onet")
    if all((FACES_FOLDER / f"{name}.onnx").is_file() for name in names):
        return FACES_FOLDER
    from fv2es_builders.detector import onnx_from_detector

    folder = tmp_path_factory.mktemp("detector")
    for name in names:
        onnx_from_detector(name, folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="session")
def detector(detector_folder: Path) -> Detector:
    return Detector(detector_folder, threads=2)
