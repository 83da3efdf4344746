"""An analysis that breaks off lets go of its film at once, whatever still refers to it."""

import json
from pathlib import Path

import pytest

from fv2es.analysis import Analysis
from fv2es.cutting import ClipRule
from fv2es.embedded import default_repository
from fv2es.journal import Journal
from fv2es.planning import Plan, outline
from fv2es.result import ModelInfo
from fv2es.speech import SpeechRule
from fv2es.utterances import UtteranceRule


def times_open(path: Path) -> int:
    """How often this process has a file open."""
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        try:
            found += each.samefile(path)
        except OSError:  # the descriptor of this listing, or no file
            continue
    return found


@pytest.mark.parametrize("journalled", [False, True])
def test_a_film_is_closed(astronaut, tmp_path, journalled):
    manifest = json.loads((default_repository() / "manifest/1/manifest.json").read_text(encoding="utf-8"))
    model = ModelInfo.from_manifest(manifest, server_version="", address="")
    film = tmp_path / "film.mp4"
    film.write_bytes(astronaut.read_bytes())
    outlined = outline(film, None, UtteranceRule(), SpeechRule(first_stretch_s=6.0, stretch_s=6.0))
    journal = Journal(tmp_path / "clips.jsonl", model_sha256=model.sha256) if journalled else None
    analysis = Analysis(Plan(outlined), model, clip_rule=ClipRule(), journal=journal)
    request = analysis.next_request(may_listen=True)
    assert request is not None
    assert request.lane is analysis.lanes[1], "sound comes first, and more of it follows"
    assert times_open(film) == 2, "one pass for sound, one for clips"
    analysis.close()
    assert times_open(film) == 0
    analysis.close()
    if journal is not None:
        journal.__exit__(None, None, None)
