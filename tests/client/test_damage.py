"""A damaged stretch in the middle of a film costs that stretch, which is named, and nothing else: all other utterances show and sound the same."""

from pathlib import Path

import av
import numpy as np
import pytest

from fv2es.cutting import ClipRule, CutReport, cut
from fv2es.source import probe
from fv2es.utterances import UtteranceRule, plan_utterances
from fv2es_pipelines.audio import read_sound
from fv2es_pipelines.clip import open_clip
from fv2es_pipelines.faces import wanted_times
from fv2es_pipelines.video import PictureReader

REPEAT_S = 12.2  # of the film of 12.1 s
NUM_REPEATS = 4
DAMAGE_BYTES = 200_000  # about 7 s of it
KEY_S = 10.0  # the film's key pictures are less than this apart
FORMATS = {"mp4": "mp4", "mkv": "matroska", "ts": "mpegts"}


@pytest.fixture(scope="module")
def films(tmp_path_factory, astronaut: Path) -> dict[str, Path]:
    """The same 49 s in three containers, by stream copy."""
    folder = tmp_path_factory.mktemp("films")
    for ending, name in FORMATS.items():
        with av.open(folder / f"film.{ending}", "w", format=name) as output:
            with av.open(astronaut) as film:
                streams = [output.add_stream_from_template(stream) for stream in film.streams]
            for repeat in range(NUM_REPEATS):
                with av.open(astronaut) as film:
                    for packet in film.demux():
                        if packet.size:
                            shift = round(repeat * REPEAT_S / packet.time_base)
                            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                            packet.stream = streams[packet.stream_index]
                            output.mux(packet)
    return {ending: folder / f"film.{ending}" for ending in FORMATS}


def seen_and_heard(path: Path):
    """What each utterance is scored by, by its number; how often decoders stumbled, by clip; and the report."""
    info, report = probe(path), CutReport()
    rule = ClipRule(target_length_s=4.0, first_length_s=4.0)
    utterances = plan_utterances(info, None, UtteranceRule(window_s=2.0)).utterances
    found, errors = {}, []
    for clip in cut(info, utterances, rule, report):
        spans_s = np.array([(each.start_s, each.end_s) for each in clip.utterances])
        times_s, owners = wanted_times(spans_s)
        with open_clip(clip.data) as opened:
            reader = PictureReader(opened, times_s)
            pictures = {at: one.picture.scaled(64, 36) for one in reader for at in one.positions}
        with open_clip(clip.data) as opened:
            sound = read_sound(opened, spans_s)
        if reader.errors or sound.audio_errors:
            errors.append((clip.start_s, clip.end_s))
        for row, each in enumerate(clip.utterances):
            own = [pictures.get(at) for at in np.flatnonzero(owners == row)]
            found[each.index] = (each.start_s, own, sound.waves[row])
    return found, errors, report


def is_same(one, other) -> bool:
    pictures = zip(one[1], other[1], strict=True)
    waves = one[2], other[2]
    return all((a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in [*pictures, waves])


def damaged(data: bytes, kind: str) -> bytes:
    first = (len(data) - DAMAGE_BYTES) // 2
    middle = {
        "noise": np.random.default_rng(11).integers(0, 256, DAMAGE_BYTES, dtype=np.uint8).tobytes(),
        "zeros": bytes(DAMAGE_BYTES),
        "cut out": b"",
    }[kind]
    return data[:first] + middle + data[first + DAMAGE_BYTES :]


@pytest.mark.parametrize("ending", FORMATS)
def test_only_the_damaged_stretch_is_lost_and_it_is_named(ending, films, tmp_path):
    whole, errors, report = seen_and_heard(films[ending])
    assert (errors, report.losses) == ([], ())
    size = films[ending].stat().st_size
    end_s = NUM_REPEATS * REPEAT_S
    # what the bytes hold, from the first of them to the key picture behind the last, with a margin for uneven bit rates
    low_s, high_s = ((size + sign * DAMAGE_BYTES) / 2 / size * end_s for sign in (-1, 1))
    margin_s = 4.0
    for kind in ("noise", "zeros", "cut out"):
        if (ending, kind) == ("mp4", "cut out"):
            continue  # its index stands behind the cut and can't be found: refused as a whole
        path = tmp_path / f"{kind}.{ending}"
        path.write_bytes(damaged(films[ending].read_bytes(), kind))
        found, errors, report = seen_and_heard(path)
        lost = {loss.utterance.index for loss in report.losses}
        assert found.keys() | lost == whole.keys(), kind
        changed = [index for index in whole if index in lost or not is_same(whole[index], found[index])]
        assert changed, "the damage is real"
        starts_s = [whole[index][0] for index in changed]
        assert low_s - margin_s - 2.0 <= min(starts_s), kind
        assert max(starts_s) <= high_s + margin_s + KEY_S, kind
        in_middle = [pair for pair in errors if pair[0] < high_s and pair[1] > low_s]
        gaps = [note for note in report.notes if note.startswith("the file holds no")]
        assert in_middle == errors, "decoders stumble nowhere else"
        assert in_middle or gaps, f"{kind}: nothing names the damage"


def test_an_hour_of_zeros_in_a_transport_stream_ends_nothing(films, tmp_path):
    data = films["ts"].read_bytes()
    half = len(data) // 2 // 188 * 188
    path = tmp_path / "hole.ts"
    path.write_bytes(data[:half] + bytes(20_000_000) + data[half:])
    found, _, report = seen_and_heard(path)
    whole, _, _ = seen_and_heard(films["ts"])
    assert found.keys() == whole.keys()
    changed = [index for index in whole if not is_same(whole[index], found[index])]
    assert len(changed) <= 1 + KEY_S / 2.0
    assert any("times the file could not be read on at once" in note for note in report.notes)
    assert not any("what follows is missing" in note for note in report.notes)
