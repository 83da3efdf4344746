"""A real Triton does not start on a gpu repository whose plans were not made."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fv2es.embedded import find_installation

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"

pytestmark = pytest.mark.server


def test_no_start_without_plans(tmp_path):
    """The client's own server refuses this profile by itself, so Triton is started without it, on the model `manifest` alone."""
    repository, backend = tmp_path / "repository", tmp_path / "backends" / "python"
    backend.mkdir(parents=True)
    installation = find_installation()
    for part in (*installation.backend.glob("*.*"), installation.stub):
        (backend / part.name).symlink_to(part)
    model = repository / "manifest"
    (model / "1").mkdir(parents=True)
    for name in ("config.pbtxt", "1/model.py"):
        shutil.copyfile(REPOSITORY / "manifest" / name, model / name)
    (model / "1" / "manifest.json").write_text(json.dumps({"profile": "gpu", "plans": None}))
    command = [
        str(installation.server),
        f"--model-repository={repository}",
        f"--backend-directory={backend.parent}",
        f"--backend-config=python,shm-region-prefix-name=fv2es-{os.getpid()}-no-plans-",
        "--allow-http=false",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, installation.libraries)),
    }
    done = subprocess.run(
        command, check=False, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    assert done.returncode == 1
    message = (
        f"NoPlans: {repository} has no plans yet (visual, acoustic, text, fusion); run on this machine: fv2es plans"
    )
    assert message in done.stdout
