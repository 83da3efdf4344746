"""Odd and broken files against a running server: a typed error or a result that names what was missing; it goes on serving."""

from collections.abc import Callable
from pathlib import Path

import pytest

import nasty_media
from fv2es import Client, EmbeddedServer, Result
from fv2es.errors import (
    NotMedia,
    SourceError,
    SourceNotFound,
    TranscriptError,
    UnsupportedMedia,
)

pytestmark = pytest.mark.server


@pytest.fixture
def client(server: EmbeddedServer):
    with Client(server.address) as each:
        yield each


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (nasty_media.zero_bytes, NotMedia),
        (nasty_media.text_file, NotMedia),
        (nasty_media.random_bytes, NotMedia),
        (nasty_media.truncated_mp4, NotMedia),
        (nasty_media.still_image, UnsupportedMedia),
        (lambda path: path, SourceNotFound),
        (lambda path: path.parent, SourceError),
    ],
)
def test_unusable_files(make: Callable[[Path], Path], error: type[SourceError], client: Client, tmp_path: Path):
    path = make(tmp_path / "film.mp4")
    with pytest.raises(error) as caught:
        client.analyze(path)
    assert caught.value.source == str(path)
    assert str(path) in str(caught.value)


def modalities(result: Result) -> set[str]:
    return {name for each in result.utterances for name, modality in each.modalities.items() if modality.present}


SOUND, NOTHING = {"acoustic"}, set()
ODD = [
    # writer, file name, modalities: none of these shows a face or comes with words
    (nasty_media.sound_only, "sound.mp4", SOUND),
    (nasty_media.pictures_only, "pictures.mp4", NOTHING),
    (nasty_media.one_frame, "one.mp4", NOTHING),
    (nasty_media.variable_rate, "variable.mp4", SOUND),
    (nasty_media.rotated, "rotated.mp4", SOUND),
    (nasty_media.odd_size, "odd.webm", SOUND),
    (nasty_media.late_start, "late.ts", SOUND),
    (nasty_media.late_start, "late.mkv", SOUND),
    (nasty_media.jump_forward, "ahead.mkv", SOUND),
    (nasty_media.jump_back, "back.ts", SOUND),
    (nasty_media.keyless_start, "keyless.ts", SOUND),
    (nasty_media.damaged_middle, "damaged.ts", SOUND),
    (nasty_media.cut_off_mkv, "cut.mkv", SOUND),
    (nasty_media.cut_off_mp4, "cut.mp4", SOUND),
    (nasty_media.single_key, "one key.mp4", SOUND),
    (nasty_media.audio_ends_early, "short sound.mp4", SOUND),
    (nasty_media.cover_art, "cover.mp4", SOUND),
]


@pytest.mark.parametrize(("make", "name", "expected"), ODD, ids=[each[1] for each in ODD])
def test_odd_files_give_a_result(
    make: Callable[[Path], Path], name: str, expected: set, client: Client, tmp_path: Path
):
    result = client.analyze(make(tmp_path / name))
    assert modalities(result) == expected
    assert result.utterances
    for utterance in result.utterances:
        assert all(0 <= value <= 1 for value in utterance.probabilities.values())
        assert utterance.num_faces == 0
    spans = sorted([*result.utterances, *result.lost], key=lambda each: each.index)
    assert [each.index for each in spans] == list(range(len(spans)))
    assert any(each.frames for each in result.utterances) == (
        make not in (nasty_media.sound_only, nasty_media.cover_art)
    )


def test_damage_is_told(client: Client, tmp_path: Path):
    result = client.analyze(nasty_media.damaged_middle(tmp_path / "damaged.ts"))
    assert any("damaged" in note or "could not be" in note for note in result.notes), result.notes


def test_utterances_inside_a_jump_are_lost_by_name(client: Client, tmp_path: Path):
    result = client.analyze(nasty_media.jump_forward(tmp_path / "ahead.mkv"))
    assert result.lost
    assert {each.error for each in result.lost} == {"NoMedia"}
    assert result.to_dict()["lost"][0]["reason"]


SRT = "1\n00:00:01,000 --> 00:00:04,000\nFirst.\n\n2\n00:00:03,000 --> 00:00:06,000\nSecond.\n\n"


@pytest.mark.parametrize(
    ("name", "text", "spans", "note"),
    [
        ("overlap.srt", SRT, [(1, 4), (3, 6)], "before the one before them ends"),
        ("unsorted.tsv", "6\t8\tLast.\n1\t3\tFirst.\n", [(1, 3), (6, 8)], "not in the order of time"),
        ("long.tsv", "10\t99\tBeyond the end.\n", [(10, 12)], "reaches beyond the source"),
        ("vtt.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\nHello.\n", [(1, 2)], None),
        ("empty cue.tsv", "1\t2\tHere.\n3\t4\t \n", [(1, 2)], "left out"),
    ],
)
def test_transcripts(
    name: str, text: str, spans: list, note: str | None, client: Client, tmp_path: Path, astronaut: Path
):
    path = tmp_path / name
    path.write_text(text)
    result = client.analyze(astronaut, transcript=path)
    spoken = [each for each in result.utterances if each.text]
    assert [(each.start_s, each.end_s) for each in spoken] == spans
    assert all(each.modalities["text"].present == bool(each.text) for each in result.utterances)
    assert any(note in each for each in result.notes) if note else not result.notes


@pytest.mark.parametrize("text", ["", "no times here\n", "1\t2\n", "20\t30\tAll beyond the end.\n"])
def test_unusable_transcripts(text: str, client: Client, tmp_path: Path, astronaut: Path):
    path = tmp_path / "words.tsv"
    path.write_text(text)
    with pytest.raises(TranscriptError, match=r"words\.tsv"):
        client.analyze(astronaut, transcript=path)


def test_real_films(client: Client, shared_media: Path):
    found = {path.name: client.analyze(path) for path in sorted(shared_media.glob("*.mp4"))}
    assert len(found) == 4
    assert modalities(found["no_face.mp4"]) == {"acoustic"}
    for name in ("WolfgangLanger_Pexels.mp4", "WDA_KatieHill_000.mp4", "single_face.mp4"):
        result = found[name]
        assert modalities(result) - {"text"} == {"visual", "acoustic"}
        assert ("text" in modalities(result)) == (name == "WDA_KatieHill_000.mp4")  # nobody speaks in the others
        frames = sum(len(each.frames) for each in result.utterances)
        assert sum(each.num_faces for each in result.utterances) >= 0.8 * frames
        assert not result.lost
