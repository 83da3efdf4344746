"""Servers other than ours."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from fv2es.embedded import find_installation


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that nobody listens on; it stays bound during the test, so that nobody will."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


@pytest.fixture
def empty_triton(tmp_path: Path) -> Iterator[str]:
    """A real Triton that serves nothing; gives its address."""
    installation = find_installation()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(installation.server),
        f"--model-repository={tmp_path}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
    ]
    environment = os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(map(str, installation.libraries))}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(timeout=30)
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()
