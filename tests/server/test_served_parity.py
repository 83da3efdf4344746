"""Through Triton and in one process: the torch modules on the same frames, sound and words say the same.

On untrained weights of a seed, which both can be made of; those that are committed have no modules.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fv2es import Client, EmbeddedServer
from fv2es.console import UNTRAINED, plain_lines
from fv2es_builders.build import BuildRequest, build
from fv2es_builders.presets import preset_by_name
from fv2es_builders.reference import Reference, load_reference
from served import assert_agrees

pytestmark = [pytest.mark.server, pytest.mark.timeout(400)]  # a whole build

PROBABILITY_ATOL = 1e-3
"""Allowed by the contract; float32 in another order of operations makes about 1e-6."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    output = tmp_path_factory.mktemp("untrained")
    build(BuildRequest(preset=preset_by_name("starter"), output=output, cache=tmp_path_factory.mktemp("cache"), seed=0))
    with EmbeddedServer(output) as running:
        yield running


@pytest.fixture(scope="module")
def reference() -> Reference:
    return load_reference("starter", seed=0)


def test_random_numbers_are_called_so(astronaut: Path, server: EmbeddedServer):
    with Client(server.address) as client:
        assert UNTRAINED in list(plain_lines(client.analyze(astronaut)))[1]


def test_film_with_words(astronaut: Path, astronaut_srt: Path, server: EmbeddedServer, reference: Reference):
    assert_agrees(astronaut, astronaut_srt, server, reference, atol=PROBABILITY_ATOL)


@pytest.mark.parametrize(
    "name", ["WDA_KatieHill_000.mp4", "WolfgangLanger_Pexels.mp4", "single_face.mp4", "no_face.mp4"]
)
def test_real_films(name: str, shared_media: Path, server: EmbeddedServer, reference: Reference):
    assert_agrees(shared_media / name, None, server, reference, atol=PROBABILITY_ATOL)
