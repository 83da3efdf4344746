"""What is kept of a run, and what of a damaged journal."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fv2es.cutting import Clip
from fv2es.errors import JournalError, UsageError
from fv2es.journal import Journal, Ledger, Lines
from fv2es.seams import Withheld
from fv2es.speech import SpeechAnswer
from fv2es.utterances import Utterance
from fv2es.wire import ClipAnswer
from fv2es.words import Word


def clip(text: str = "words") -> Clip:
    utterance = Utterance(index=0, start_s=0.1, end_s=2.0, text=text)
    return Clip(index=0, container="mov", data=b"", start_s=0.0, end_s=2.5, utterances=(utterance,))


def answer(sha256: str = "mine") -> ClipAnswer:
    random = np.random.default_rng(0)
    return ClipAnswer(
        logits=random.standard_normal((1, 7), np.float32),
        probabilities=random.random((1, 7), np.float32),
        modality_logits=random.standard_normal((1, 3, 7), np.float32),
        present=np.array([[True, False, True]]),
        frame_times_s=np.array([0.1, 1 / 3]),
        frame_utterance=np.array([0, 0], np.int32),
        frame_boxes_px=np.zeros((2, 4), np.float32),
        frame_scores=np.zeros(2, np.float32),
        num_video_errors=1,
        num_fallback_frames=0,
        num_audio_errors=2,
        manifest={"sha256": sha256},
        features={"TEXT": np.zeros((1, 384), np.float32)},
    )


def heard(missing: str = "", identity: str = "tiny int8") -> SpeechAnswer:
    return SpeechAnswer(
        words=(Word(start_s=0.1, end_s=0.7, text="Grüße"),),
        speech_s=((0.1, 0.8),),
        withheld=(Withheld(start_s=0.7, end_s=0.8, reason="noise"),),
        language="de",
        language_probability=0.1 + 0.2,
        missing=missing,
        model="tiny",
        identity=identity,
    )


def test_answers_come_back_to_the_last_bit(tmp_path: Path):
    path = tmp_path / "clips.jsonl"
    with Journal(path, model_sha256="mine", speech="tiny int8") as journal:
        journal.keep("emotion", clip(), answer(), [{"LOGITS": np.array([1 / 3, 2], np.float32)}])
        journal.keep("speech", clip(), heard())
    with Journal(path, model_sha256="mine", speech="tiny int8") as journal:
        back, further = journal.answer("emotion", clip())
        assert further[0]["LOGITS"].tolist() == np.array([1 / 3, 2], np.float32).tolist()
        assert back.features == {}  # large, and needed no more
        for name in set(ClipAnswer.__slots__) - {"features"}:
            value, expected = getattr(back, name), getattr(answer(), name)
            assert np.array_equal(value, expected), name
            assert getattr(value, "dtype", None) == getattr(expected, "dtype", None)
        assert journal.answer("speech", clip()) == (heard(), [])
        assert journal.answer("emotion", clip("other words")) is None


def test_what_could_change_is_not_kept(tmp_path: Path):
    path = tmp_path / "clips.jsonl"
    with Journal(path, model_sha256="mine", speech="tiny int8") as journal:
        journal.keep("emotion", clip(), answer("of other weights"))
        journal.keep("speech", clip(), heard(missing="no package"))
        assert not journal.is_mixed
        journal.keep("speech", clip(), heard(identity="another"))
        assert journal.is_mixed
    with Journal(path, model_sha256="mine", speech="tiny int8") as journal:
        assert journal.answer("emotion", clip()) is None
        assert journal.answer("speech", clip()) is None


def test_a_torn_line_is_cut_off_wherever_it_is_torn(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    lines = Lines(path)
    lines.add({"a": 1})
    size = path.stat().st_size
    lines.add({"b": "ü"})
    lines.close()
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        torn = Lines(path)
        assert torn.values == ([{"a": 1}] if end >= size else [])
        torn.add({"c": 3})
        torn.close()
        again = Lines(path)
        assert again.values[-1] == {"c": 3}
        again.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"journal": "fv2es", "version": 2}\n', r"it begins with .*not with .*leave out --resume"),
        ("name,key\n", "line 1 is no JSON"),
        ('{"journal": "fv2es", "version": 1}\n[]\n', "line 2 holds no object"),
        ('{"journal": "fv2es", "version": 1}\n{"a\n{}\n', "line 2 is no JSON"),
        ('{"journal": "fv2es", "version": 1}\n{"model": "emotion"}\n', "can't be read"),
    ],
)
def test_another_journal_is_refused_and_left_alone(tmp_path: Path, text: str, message: str):
    path = tmp_path / "clips.jsonl"
    path.write_text(text)
    with pytest.raises(JournalError, match=message) as caught:
        Journal(path, model_sha256="mine", speech="tiny int8")
    assert caught.value.path == str(path)
    assert path.read_text() == text


def test_one_run_at_a_time(tmp_path: Path):
    with Ledger(tmp_path, resume=True) as ledger:
        ledger.add_done("a", "key", {"a.json": "hash"})
        with pytest.raises(UsageError, match="another run writes its results to"):
            Ledger(tmp_path, resume=False)
    with Ledger(tmp_path, resume=True) as ledger:
        assert ledger.done("a", "key") == {"a.json": "hash"}
        assert ledger.done("a", "another key") is None
        ledger.add_done("a", "another key", {})
        assert ledger.done("a", "key") is None
    with Ledger(tmp_path, resume=False) as ledger:
        assert ledger.done("a", "another key") is None


def test_a_full_disk_leaves_a_journal_that_can_be_read(tmp_path: Path):
    program = (
        "import resource, sys, signal; from pathlib import Path; from fv2es.journal import Lines;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "lines = Lines(Path(sys.argv[1])); [lines.add({'n': n}) for n in range(20)]"
    )
    path = tmp_path / "lines.jsonl"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60)
    assert "OSError: [Errno 27] File too large" in done.stderr
    assert path.stat().st_size == 100
    lines = Lines(path)
    assert [each["n"] for each in lines.values] == list(range(len(lines.values)))
    assert len(lines.values) > 3
    lines.close()
