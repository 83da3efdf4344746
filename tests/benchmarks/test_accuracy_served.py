"""Through a real server, and the same input another way: the same logits; and the whole command."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.accuracy.cli import main
from benchmarks.accuracy.data import read_comments, read_faces, read_speech
from benchmarks.accuracy.served import Answers, Served, ask_all
from fv2es import Client, EmbeddedServer, SpeechRule, UtteranceRule
from fv2es.cli import BAD_USAGE, DONE, FAILED, SOME_LOST
from fv2es.console import UNTRAINED
from fv2es.errors import ServerUnreachable
from fv2es.result import MODALITIES
from fv2es_pipelines.engine import Engine
from fv2es_pipelines.tokens import Tokenizer

INTERRUPTIBLE = ("env", "--default-signal=INT", sys.executable)
"""Python that SIGINT reaches, also where a shell runs these tests in the background and has it ignored."""

LOGIT_ATOL = 1e-4
"""The same files on the same runtime in batches of other sizes."""


def manifest_of(repository: Path) -> dict[str, Any]:
    return json.loads((repository / "manifest" / "1" / "manifest.json").read_text())


def fused(repository: Path, rows: int, branch: str, **inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a branch and probabilities [U, C] by the file of `fusion`, one utterance at a time."""
    engine = Engine(repository / "fusion" / "1" / "model.onnx")
    num_labels = len(manifest_of(repository)["labels"])
    logits, probabilities = [], []
    for row in range(rows):
        absent = np.zeros((1, 1), bool)
        arrays = {
            "VISUAL": np.zeros((1, 64), np.float32),
            "FACE_INDEX": np.zeros((1, 1), np.int64),
            "FACE_MASK": absent,
            "ACOUSTIC": np.zeros((1, 64), np.float32),
            "PIECE_INDEX": np.zeros((1, 1), np.int64),
            "PIECE_MASK": absent,
            "TEXT": np.zeros((1, num_labels), np.float32),
            "WORDS_MASK": absent[0],
        }
        answer = engine.run(arrays | {name: array[row : row + 1] for name, array in inputs.items()})
        logits.append(answer["MODALITY_LOGITS"][0, MODALITIES.index(branch)])
        probabilities.append(answer["PROBABILITIES"][0])
    return np.array(logits), np.array(probabilities)


def visual_in_process(repository: Path, path: Path, address: str) -> tuple[np.ndarray, np.ndarray]:
    faces = np.repeat(np.load(path)["images"][..., None], 3, axis=-1)
    features = Engine(repository / "visual" / "1" / "model.onnx").run({"FACES": faces})["VISUAL"]
    return fused(repository, len(faces), "visual", VISUAL=features, FACE_MASK=np.ones((len(faces), 1), bool))


def text_in_process(repository: Path, path: Path, address: str) -> tuple[np.ndarray, np.ndarray]:
    texts = [line.split("\t")[0] for line in path.read_text().splitlines()]
    tokenizer = Tokenizer(repository / "tokenizer" / "1" / "tokenizer.json")
    engine = Engine(repository / "text" / "1" / "model.onnx")
    logits = []
    for text in texts:
        tokens = tokenizer([text])
        arrays = {"INPUT_IDS": tokens.input_ids, "ATTENTION_MASK": tokens.attention_mask}
        logits.append(engine.run(arrays)["TEXT"][0])
    present = np.array([bool(text) for text in texts])
    return fused(repository, len(texts), "text", TEXT=np.array(logits), WORDS_MASK=present)


def acoustic_by_the_client(repository: Path, path: Path, address: str) -> tuple[np.ndarray, np.ndarray]:
    labels, logits, probabilities = manifest_of(repository)["labels"], [], []
    whole = UtteranceRule(window_s=30, max_length_s=30)
    with Client(address, utterance_rule=whole, speech_rule=SpeechRule(recognise=False)) as client:
        for file in read_speech(path).rows:
            (utterance,) = client.analyze(file).utterances
            said = utterance.modalities["acoustic"].logits  # of the labels that the branch knows; the others' are 0
            logits.append([said.get(label, 0.0) for label in labels])
            probabilities.append(list(utterance.probabilities.values()))
    return np.array(logits), np.array(probabilities)


@pytest.mark.server
@pytest.mark.parametrize(
    ("branch", "read", "other_way", "lost"),
    [
        ("visual", read_faces, visual_in_process, 0),
        ("acoustic", read_speech, acoustic_by_the_client, 0),
        ("text", read_comments, text_in_process, 1),
    ],
)
def test_same_as_another_way(
    branch: str,
    read: Callable,
    other_way: Callable,
    lost: int,
    server: EmbeddedServer,
    request: pytest.FixtureRequest,
):
    fixture = {"visual": "faces_file", "acoustic": "speech_folder", "text": "comments_file"}[branch]
    path = request.getfixturevalue(fixture)
    rows, num_labels = read(path).rows, len(manifest_of(server.repository)["labels"])
    with Served(server.address) as served:
        ask = {"visual": served.faces, "acoustic": served.sounds, "text": served.comments}[branch]
        answers = ask(rows, num_labels=num_labels)
    logits, probabilities = other_way(server.repository, path, server.address)
    assert np.abs(answers.evidence - logits).max() <= LOGIT_ATOL
    assert np.abs(answers.fused - probabilities).max() <= LOGIT_ATOL
    assert np.ptp(logits, axis=0).max() > 10 * LOGIT_ATOL  # a constant would agree with anything
    assert [bool(why) for why in answers.lost] == [False] * (len(rows) - lost) + [True] * lost


KEYS = [
    *("schema_version", "branch", "model", "data", "lost", "calibration", "n", "accuracy", "uar", "macro_f1", "ece"),
    *("ece_by_chance", "ece_labels", "labels", "labels_unknown_to_branch", "labels_without_rows", "even"),
    *("baseline", "fused", "confusion", "reliability", "timing"),
]


@pytest.mark.server
def test_whole_command(
    server: EmbeddedServer,
    faces_file: Path,
    speech_folder: Path,
    comments_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    sounds = Path(shutil.copytree(speech_folder, tmp_path / "sounds"))
    (sounds / "08a03Ta.wav").write_bytes(b"no sound")
    manifest = manifest_of(server.repository)
    for branch, path, num_rows, num_lost in (
        ("visual", faces_file, 6, 0),
        ("acoustic", sounds, 3, 1),
        ("text", comments_file, 4, 1),
    ):
        output, plot = tmp_path / f"{branch}.json", tmp_path / f"{branch}.png"
        status = main([branch, str(path), "--server", server.address, "--output", str(output), "--plot", str(plot)])
        assert status == (SOME_LOST if num_lost else DONE)
        written = capsys.readouterr()
        report = json.loads(output.read_text())
        assert json.loads(written.out) == report
        assert sorted(report) == sorted(KEYS + ["macro_f1_likeliest"] * (branch == "text"))
        assert (report["n"], len(report["lost"])) == (num_rows, num_lost)
        assert report["model"]["sha256"] == manifest["sha256"]
        assert (UNTRAINED in written.err) == (not manifest["trained"])
        for each in report["lost"]:
            assert f"lost: {each['row']}: {each['reason']}" in written.err
        counts = np.array(report["confusion"]["rows_true_columns_predicted"])
        assert counts.sum() == num_rows - (branch == "text")  # one comment has two labels
        assert sum(each["rows"] for each in report["labels"].values()) == num_rows + (branch == "text")
        assert sum(each["num_rows"] for each in report["reliability"]) == num_rows
        if branch != "text":
            assert np.trace(counts) / num_rows == pytest.approx(report["accuracy"])
        assert plot.stat().st_size > 10_000
        assert plot.read_bytes().startswith(b"\x89PNG")
    assert report["lost"][0]["row"] == "line 5 (a5)"
    assert "no words" in report["lost"][0]["reason"]


@pytest.mark.server
def test_nothing_but_lost_rows(server: EmbeddedServer, comments_file: Path, capsys: pytest.CaptureFixture[str]):
    blank = comments_file.with_name("blank.tsv")
    blank.write_text(" \t0\tx\n\t3\ty\n")
    assert main(["text", str(blank), "--server", server.address]) == FAILED
    assert "all 2 rows were lost, the first because: no words" in capsys.readouterr().err


def test_nobody_answers(nobody: str, comments_file: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["text", str(comments_file), "--server", nobody]) == FAILED
    assert nobody in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["visual", "gone.npz"], FAILED, "gone.npz: can't be read"),
        (["acoustic", "gone"], FAILED, "no such folder"),
        (["text", "gone.tsv", "--speakers", "03"], BAD_USAGE, "--speakers belongs to acoustic"),
        (["text", "gone.tsv", "--plot", "a.pdf"], BAD_USAGE, "must end in one of .png, .svg"),
        (["text", "gone.tsv", "--output", "a.csv"], BAD_USAGE, "must end in one of .json"),
        (["text", "gone.tsv", "--output", "no/such/a.json"], BAD_USAGE, "no such folder"),
    ],
)
def test_bad_command(arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == status
    assert message in " ".join(capsys.readouterr().err.split())


def test_server_and_repository_exclude_each_other():
    with pytest.raises(SystemExit) as stop:
        main(["text", "dev.tsv", "--server", "a:1", "--repository", "b"])
    assert stop.value.code == BAD_USAGE


def test_interrupted(tmp_path: Path):
    pipe = tmp_path / "dev.tsv"
    os.mkfifo(pipe)
    command = [*INTERRUPTIBLE, "-m", "benchmarks.accuracy", "text", str(pipe), "--output", str(tmp_path / "out.json")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run, pipe.open("wb"):  # it is reading now
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=30) == 128 + signal.SIGINT
        assert run.stderr.read() == "error: interrupted; nothing was written\n"
    assert list(tmp_path.iterdir()) == [pipe]


class Hung(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server that says which model it has and answers nothing else until it is over."""

    MANIFEST: Final = {
        "name": "hung",
        "sha256": "0" * 64,
        "labels": ["joy", "anger"],
        "trained": True,
        "precision": "fp32",
    }

    def __init__(self) -> None:
        self.asked, self.over = threading.Event(), threading.Event()

    def ServerMetadata(self, request: object, context: object) -> object:  # noqa: N802 - the protocol's name
        return service_pb2.ServerMetadataResponse(version="0")

    def ModelInfer(self, request: Any, context: object) -> object:  # noqa: N802 - the protocol's name
        if request.model_name != "manifest":
            self.asked.set()
            self.over.wait()
            return service_pb2.ModelInferResponse()
        text = json.dumps(self.MANIFEST).encode()
        output = service_pb2.ModelInferResponse.InferOutputTensor(name="MANIFEST", datatype="BYTES", shape=[1])
        return service_pb2.ModelInferResponse(
            outputs=[output], raw_output_contents=[len(text).to_bytes(4, "little") + text]
        )

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        """Its address."""
        server = grpc.server(ThreadPoolExecutor(8))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            self.over.set()
            server.stop(grace=None).wait()


def test_interrupted_while_the_server_hangs(tmp_path: Path):
    data, hung = tmp_path / "dev.tsv", Hung()
    data.write_text("\n".join(f"words {row}\t0\tx" for row in range(1000)))
    data.with_name("labels.txt").write_text("joy\nanger")
    with hung.listening() as address:
        command = [*INTERRUPTIBLE, "-m", "benchmarks.accuracy", "text", str(data), "--server", address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
            try:
                assert hung.asked.wait(timeout=60)
                run.send_signal(signal.SIGINT)
                assert run.wait(timeout=20) == 128 + signal.SIGINT
            finally:
                run.kill()
            assert run.stderr.read() == "error: interrupted; nothing was written\n"


def echo(rows: list[int]) -> Answers:
    values = np.array(rows, np.float32)[:, None]
    return Answers(evidence=values, fused=-values, lost=tuple("odd" if row % 2 else "" for row in rows))


def test_answers_come_in_the_order_of_the_rows():
    done: list[int] = []
    batches = [np.array([3, 0]), np.array([2]), np.array([4, 1])]
    answers = ask_all([10, 11, 12, 13, 14], batches, echo, on_rows=done.append)
    assert answers.evidence[:, 0].tolist() == [10, 11, 12, 13, 14]
    assert answers.fused[:, 0].tolist() == [-10, -11, -12, -13, -14]
    assert answers.lost == ("", "odd", "", "odd", "")
    assert done == [2, 1, 2]


def test_no_more_is_asked_after_a_failure():
    asked: list[int] = []

    def fail(rows: list[int]) -> Answers:
        asked.extend(rows)
        raise ServerUnreachable("here", "gone")

    batches = [np.array([row]) for row in range(1000)]
    with pytest.raises(ServerUnreachable, match="gone"):
        ask_all(range(1000), batches, fail, on_rows=lambda rows: None)
    assert len(asked) < 1000


def test_a_failure_does_not_wait_for_other_requests():
    over, answered = threading.Event(), []

    def ask(rows: list[int]) -> Answers:
        if rows == [0]:
            raise ServerUnreachable("here", "gone")
        over.wait(timeout=20)
        answered.extend(rows)
        return echo(rows)

    with pytest.raises(ServerUnreachable, match="gone"):
        ask_all(range(3), [np.array([row]) for row in range(3)], ask, on_rows=lambda rows: None)
    assert not answered
    over.set()
