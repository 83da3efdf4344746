"""Each peer on the 12 s film: the same numbers wherever the same thing is computed, and errors that a user understands."""

import dataclasses
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import onnxruntime
import pytest
import torch
import uvicorn

from benchmarks.floor import decode_floor
from benchmarks.peers import cli, floor, onnx_loop, original, service
from benchmarks.peers.answer import Answer, Sample, Scored, Step
from benchmarks.peers.compare import differences
from benchmarks.peers.errors import FilmUnusable, PeerFailed, RepositoryUnusable, TooLittleMemory
from benchmarks.peers.media import all_frames, check_memory, need_bytes, rgb_of, shortened, whole_sound
from benchmarks.peers.mtcnn import Cascade, SumsShrinker, TorchShrinker
from benchmarks.peers.onnx_nets import OnnxNets
from benchmarks.peers.plan import Span, planned, read_plan, write_plan
from benchmarks.peers.schedule import FACE_PYTHON, Settings, measure
from benchmarks.peers.spectrum import pieces_of
from benchmarks.peers.torch_nets import TorchNets
from benchmarks.peers.weights import modules_of
from benchmarks.record import read_record
from fv2es import EmbeddedServer
from fv2es_builders.assets import encoder_weights
from fv2es_builders.modules.model import seeded_model, weights_sha256
from fv2es_builders.presets import preset_by_name
from fv2es_pipelines.mel import MelPipeline
from fv2es_pipelines.mtcnn import ArrayPicture, Detector

pytestmark = [
    pytest.mark.xdist_group("peers"),  # what the original says is found once
    pytest.mark.timeout(
        600
    ),  # some 15 s of processor time before the first test: minutes on a machine with much else to do
]

SAME = 1e-4
"""In probability: the same weights, pictures and sound, through PyTorch or ONNX Runtime; 1e-5 was measured."""
SAME_AS_FV2ES = 1e-3
"""In probability: fv2es decodes clips and searches faces coarse to fine."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small operations: where other processes share the cores, waiting for a second thread takes a hundred times longer."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def torch_nets(repository: Path) -> TorchNets:
    return TorchNets(repository, num_threads=1)


@pytest.fixture(scope="module")
def onnx_nets(repository: Path) -> OnnxNets:
    return OnnxNets(repository)


@pytest.fixture(scope="module")
def spans(astronaut: Path, astronaut_srt: Path) -> tuple[Span, ...]:
    return planned(astronaut, astronaut_srt)


@pytest.fixture(scope="module")
def answer(astronaut: Path, spans: tuple[Span, ...], torch_nets: TorchNets) -> Answer:
    """What the original's algorithm says."""
    torch.set_num_threads(1)
    return original.analyse(astronaut, spans, torch_nets)


def only(film: Path, kind: str, target: Path) -> Path:
    """A copy of the film with its pictures or its sound alone."""
    with av.open(str(film)) as source, av.open(str(target), "w") as writer:
        stream = next(each for each in source.streams if each.type == kind)
        copy = writer.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                writer.mux(packet)
    return target


@pytest.fixture(scope="module")
def mute(astronaut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return only(astronaut, "video", tmp_path_factory.mktemp("films") / "mute.mp4")


@pytest.fixture(scope="module")
def blind(astronaut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return only(astronaut, "audio", tmp_path_factory.mktemp("films") / "blind.mp4")


@pytest.fixture
def no_media(tmp_path: Path) -> Path:
    path = tmp_path / "notes.mp4"
    path.write_text("no film at all\n" * 100)
    return path


def modalities(answer: Answer) -> list[set[str]]:
    return [set(each.modality_logits) for each in answer.utterances]


def test_the_loop_says_what_the_original_says(astronaut, spans, answer, onnx_nets):
    loop = onnx_loop.analyse(astronaut, spans, onnx_nets)
    found = differences(loop, answer)
    assert found["num_compared"] == len(spans) == 3
    assert found["num_pictures_compared"] == sum(len(each.samples) for each in answer.utterances) > 20
    assert found["max_difference_probability"] < SAME
    assert found["num_other_faces"] == found["num_other_modalities"] == 0
    assert found["least_face_overlap"] > 0.999
    assert set(loop.steps) == set(answer.steps) == {"decode", "faces", "visual", "sound", "acoustic", "text", "fusion"}
    assert all(step.wall_s > 0 for step in loop.steps.values())


def test_known_faces_are_not_looked_for(astronaut, spans, answer, onnx_nets):
    boxes = {onnx_loop.milliseconds(each.time_s): each.box_px for own in answer.utterances for each in own.samples}
    missed = next(time for time, box in boxes.items() if box is not None)
    found = differences(onnx_loop.analyse(astronaut, spans, onnx_nets, boxes=boxes | {missed: None}), answer)
    assert found["num_other_faces"] == 1
    assert found["max_difference_visual_logit"] > SAME
    assert found["max_difference_acoustic_logit"] < 1e-3


def test_what_is_missing_is_masked_out(answer, mute, blind, spans, torch_nets, onnx_nets):
    assert modalities(answer) == [{"text", "visual", "acoustic"}, {"text", "acoustic"}, {"text", "visual", "acoustic"}]
    silent = tuple(dataclasses.replace(each, text=" ") for each in spans)
    for analyse, nets in ((original.analyse, torch_nets), (onnx_loop.analyse, onnx_nets)):
        assert modalities(analyse(mute, silent, nets)) == [{"visual"}, set(), {"visual"}]
        unseen = analyse(blind, silent, nets)
        assert modalities(unseen) == [{"acoustic"}] * 3
        assert all(not each.samples for each in unseen.utterances)


@pytest.mark.parametrize("peer", ["original", "onnx-loop"])
def test_films_that_cannot_be_read(peer, spans, no_media, tmp_path, torch_nets, onnx_nets):
    analyse, nets = (original.analyse, torch_nets) if peer == "original" else (onnx_loop.analyse, onnx_nets)
    with pytest.raises(FilmUnusable, match=r"nowhere\.mp4: can't be read \(No such file"):
        analyse(tmp_path / "nowhere.mp4", spans, nets)
    with pytest.raises(FilmUnusable, match=r"notes\.mp4: can't be read \(Invalid data"):
        analyse(no_media, spans, nets)


def test_the_original_refuses_what_does_not_fit(astronaut):
    needed, duration_s = need_bytes(astronaut)
    assert needed == 2 * 300 * 640 * 360 * 3  # 12 s at 25 Hz, as a list and as an array
    check_memory(astronaut, 2 * 2**30 + needed)
    with pytest.raises(TooLittleMemory, match="give at most 3 s of it") as caught:
        check_memory(astronaut, 2 * 2**30 + int(needed * 3.5 / duration_s))
    assert caught.value.fitting_s == 3


def test_a_shortened_film_is_the_beginning_of_the_whole(astronaut, astronaut_srt, spans, tmp_path, answer, onnx_nets):
    short = shortened(astronaut, tmp_path / "short.mp4", until_s=5.0)
    own = planned(short, astronaut_srt)
    assert own[0] == spans[0]
    assert own[-1].end_s < 5.2
    found = differences(onnx_loop.analyse(short, own[:1], onnx_nets), answer)
    assert found["num_compared"] == 1
    assert found["max_difference_probability"] < SAME


def test_both_ways_to_shrink_give_the_detector_of_fv2es(astronaut, repository, torch_nets, onnx_nets):
    detector = Detector(repository / "faces" / "1", threads=1)
    for number, (frame, _) in enumerate(all_frames(astronaut)):
        if number % 100:
            continue
        rgb = rgb_of(frame)
        expected = next((face.box for face in detector.all_faces(ArrayPicture(rgb))), None)
        for nets, shrinker in ((torch_nets, TorchShrinker), (onnx_nets, SumsShrinker)):
            box = Cascade(nets.detector, shrinker)(rgb)
            assert (box is None) == (expected is None)
            if box is not None:
                np.testing.assert_allclose(box, expected, atol=0.01)


def test_the_spectrum_is_that_of_fv2es(astronaut):
    span = Span(start_s=1.0, end_s=3.3, text="")
    expected = MelPipeline()(astronaut.read_bytes(), [[span.start_s, span.end_s]]).pieces
    sound = whole_sound(astronaut)
    pieces = pieces_of(sound.of(span)).numpy()
    assert pieces.shape == expected.shape == (6, 4, 32, 32)
    np.testing.assert_allclose(pieces, expected, rtol=1e-3, atol=1e-5 * expected.max())
    assert sound.of(Span(start_s=20.0, end_s=21.0, text="")) is None
    assert pieces_of(np.zeros(200, np.float32)) is None


def test_modules_hold_the_weights_of_the_graphs(repository):
    modules = modules_of(repository)
    rng = np.random.default_rng(0)
    inputs = {
        "visual": {"FACES": rng.integers(0, 256, (3, 48, 48, 3)).astype(np.uint8)},
        "acoustic": {"PIECES": rng.exponential(1.0, (2, 4, 32, 32)).astype(np.float32)},
        "text": {"INPUT_IDS": rng.integers(1000, 20000, (2, 9)), "ATTENTION_MASK": np.ones((2, 9), np.int64)},
    }
    for name, feeds in inputs.items():
        session = onnxruntime.InferenceSession(str(repository / name / "1" / "model.onnx"))
        with torch.no_grad():
            own = modules[name](*(torch.from_numpy(each) for each in feeds.values())).numpy()
        np.testing.assert_allclose(own, session.run(None, feeds)[0], rtol=1e-4, atol=1e-3)
        assert own.std() > 0.01


def test_untrained_weights_come_from_their_seed(repository, tmp_path):
    target = tmp_path / "manifest" / "1" / "manifest.json"
    target.parent.mkdir(parents=True)
    manifest = json.loads((repository / "manifest" / "1" / "manifest.json").read_text())
    target.write_text(json.dumps(manifest | {"source": {"kind": "seed", "seed": 3}}))
    preset = preset_by_name("starter")
    expected = seeded_model(preset, 3, encoder_weights(preset.text))
    assert weights_sha256(modules_of(tmp_path)["text"]) == weights_sha256(expected.text)
    target.write_text(json.dumps(manifest | {"precision": "int8"}))
    with pytest.raises(RepositoryUnusable, match="cpu in int8; peers need profile cpu in fp32 or fp16"):
        modules_of(tmp_path)
    target.unlink()
    with pytest.raises(RepositoryUnusable, match=r"has no readable manifest/1/manifest\.json"):
        modules_of(tmp_path)


@pytest.mark.parametrize(("preset", "gflop_per_s"), [("starter", 0.243), ("fv2es-mosei", 28.0)])
def test_operations_are_those_of_the_preset(repository, tmp_path, preset, gflop_per_s):
    target = tmp_path / "manifest" / "1" / "manifest.json"
    target.parent.mkdir(parents=True)
    manifest = json.loads((repository / "manifest" / "1" / "manifest.json").read_text())
    target.write_text(json.dumps(manifest | {"preset": preset}))
    assert floor.gflop_per_s(tmp_path) == pytest.approx(gflop_per_s, rel=0.01)


def test_a_floor_is_of_what_the_film_has(mute, blind):
    assert floor.analyse(mute, 0.385).steps.keys() == {"decode"}
    heard = floor.analyse(blind, 0.385)
    assert heard.steps.keys() == {"acoustic"}
    assert 0 < heard.steps["acoustic"].wall_s < 12


def test_sound_alone_has_a_floor_too(blind, monkeypatch):
    monkeypatch.setenv("PATH", "")  # so that PyAV decodes
    found = decode_floor(blind, 12.0)
    assert found["floor_decode_with"] == "PyAV"
    assert found["floor_decode_wall_s_per_s"] > 0


def test_a_graph_of_other_weights_is_refused(repository, tmp_path):
    shutil.copytree(repository, tmp_path / "other")
    shutil.copy(repository / "visual" / "1" / "model.onnx", tmp_path / "other" / "acoustic" / "1" / "model.onnx")
    with pytest.raises(RepositoryUnusable, match=r"holds nothing for trunk\.0\.positions"):
        modules_of(tmp_path / "other")


@pytest.fixture(scope="module")
def address(torch_nets: TorchNets) -> Iterator[str]:
    """A running service."""
    server = uvicorn.Server(uvicorn.Config(service.service(torch_nets), port=0, log_level="error"))
    socket = server.config.bind_socket()
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    yield f"127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    socket.close()


def test_the_service_says_what_the_original_says(address, astronaut, spans, answer):
    served = service.ask(address, astronaut, spans)
    assert differences(served, answer)["max_difference_probability"] < SAME
    assert served.steps["faces"].cpu_s > 0


def test_the_service_refuses_what_it_cannot_read(address, no_media, spans, tmp_path, nobody):
    with pytest.raises(PeerFailed, match=r"status 422: .*can't be read \(Invalid data"):
        service.ask(address, no_media, spans)
    with pytest.raises(FilmUnusable, match=r"nowhere\.mp4: can't be read \(No such file"):
        service.ask(address, tmp_path / "nowhere.mp4", spans)
    with pytest.raises(PeerFailed, match=f"{nobody} gave no answer"):
        service.ask(nobody, no_media, spans)


def face_only(film: Path, spans: tuple[Span, ...], folder: Path) -> dict:
    """The outcome of the face-only peer."""
    if not FACE_PYTHON.is_file():
        pytest.skip(f"{FACE_PYTHON} is absent; benchmarks/README.md says how to make it")
    write_plan(folder / "plan.json", spans)
    script = Path(cli.__file__).with_name("face_only.py")
    command = (str(FACE_PYTHON), str(script), str(film), str(folder / "plan.json"), str(folder / "outcome.json"))
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((folder / "outcome.json").read_text())


def test_the_face_only_peer_sees_the_smile(astronaut, spans, tmp_path):
    outcome = face_only(astronaut, spans, tmp_path)
    first, second, third = Answer.from_dict(outcome["answer"]).utterances
    assert max(first.probabilities, key=first.probabilities.get) == "happy"
    assert max(third.probabilities, key=third.probabilities.get) == "happy"
    assert not second.probabilities  # there is nobody
    assert len(second.samples) == 7


def test_the_face_only_peer_names_what_it_cannot_read(no_media, blind, spans, tmp_path):
    for film in (no_media, blind):
        assert "OpenCV finds no pictures in it" in face_only(film, spans, tmp_path)["message"]
    assert "no such file" in face_only(tmp_path / "nowhere.mp4", spans, tmp_path)["message"]


def test_a_plan_is_read_as_it_was_written(spans, tmp_path):
    write_plan(tmp_path / "plan.json", spans)
    assert read_plan((tmp_path / "plan.json").read_text()) == spans
    assert [each.text != "" for each in spans] == [True] * 3


def test_an_answer_travels_as_json():
    scored = Scored(
        start_s=0.0,
        end_s=1.0,
        probabilities={"happy": 0.5},
        modality_logits={"text": {"happy": 0.0}},
        samples=(Sample(time_s=0.0, box_px=(1.0, 2.0, 3.0, 4.0)), Sample(time_s=0.5, box_px=None)),
    )
    answer = Answer(utterances=(scored,), steps={"faces": Step(wall_s=1.0, cpu_s=None)}, notes=("a",))
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer


def test_differences_are_of_what_both_have():
    def one(probability: float, box, label: str = "happy", start_s: float = 0.0) -> Answer:
        scored = Scored(
            start_s=start_s,
            end_s=1.0,
            probabilities={label: probability},
            modality_logits={"visual": {label: probability}},
            samples=(Sample(time_s=0.0, box_px=box),),
        )
        return Answer(utterances=(scored,), steps={})

    found = differences(one(0.5, (0.0, 0.0, 10.0, 10.0)), one(0.25, (0.0, 0.0, 10.0, 5.0)))
    assert found["max_difference_probability"] == found["max_difference_visual_logit"] == 0.25
    assert found["least_face_overlap"] == 0.5
    assert found["max_difference_text_logit"] is None
    assert differences(one(0.5, None), one(0.5, (0.0, 0.0, 1.0, 1.0)))["num_other_faces"] == 1
    assert differences(one(0.5, None, "angry"), one(0.5, None))["max_difference_probability"] is None
    assert differences(one(0.5, None, start_s=0.5), one(0.5, None))["num_compared"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["film.mp4", "--peers", "onnx-loop,nobody"], "--peers nobody: no such peer"),
        (["film.mp4", "--peers", "floor,floor"], "name each peer once"),
        (["a.mp4", "b.mp4", "--transcript", "a.srt"], "--transcript belongs to one film, and 2 are given"),
        (["film.mp4", "--repeat", "0"], "--repeat 0 must be at least 1"),
        (["film.mp4", "--output", "record.csv"], ".json"),
    ],
)
def test_bad_usage(arguments, said, capsys):
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_film_that_is_not_there_stops_everything(tmp_path, capsys):
    assert cli.main([str(tmp_path / "nowhere.mp4"), "--peers", "onnx-loop"]) == 1
    assert "nowhere.mp4: " in capsys.readouterr().err


def test_a_missing_environment_is_said_first(astronaut, tmp_path, capsys):
    status = cli.main([str(astronaut), "--peers", "face-only", "--face-python", str(tmp_path / "python")])
    assert status == 1
    assert "face-only needs an environment with the package fer" in capsys.readouterr().err


@pytest.mark.server
@pytest.mark.timeout(600)
def test_all_peers_side_by_side(astronaut, astronaut_srt, tmp_path, server: EmbeddedServer, capsys):
    record_path = tmp_path / "record.json"
    arguments = ("--peers", "original,fastapi,onnx-loop,floor,fv2es", "--repeat", "1", "--threads", "1")
    status = cli.main([
        str(astronaut), "--transcript", str(astronaut_srt), "--server", server.address, "--output", str(record_path), *arguments,
    ])  # fmt: skip
    assert status == 0, capsys.readouterr().err
    record = read_record(record_path)
    rows = record["measurements"]
    medians = {row["peer"]: row for row in rows if row["row"] == "median"}
    assert list(medians) == ["original", "fastapi", "onnx-loop", "floor", "fv2es"]
    assert medians["fv2es"]["wall_ratio_to_fv2es"] == 1
    assert medians["floor"]["num_utterances"] == 0
    for peer, own in medians.items():
        assert own["wall_s_per_s"] > 0
        assert own["material"] == record["materials"][0]["name"]
        assert (peer == "floor") == (own["num_utterances"] == 0)
    agreements = {row["peer"]: row for row in rows if row["row"] == "agreement"}
    assert len(agreements) == 4
    for own in agreements.values():
        assert own["num_compared"] == 3
        assert own["num_other_modalities"] == 0
        assert own["max_difference_probability"] < SAME_AS_FV2ES
    assert agreements["onnx-loop with the faces of fv2es"]["max_difference_visual_logit"] < 1e-4


@pytest.mark.server
@pytest.mark.timeout(300)
def test_what_does_not_fit_is_measured_on_its_beginning(mute, repository, server: EmbeddedServer):
    needed, duration_s = need_bytes(mute)
    settings = Settings(
        peers=("original", "fv2es"),
        repository=repository,
        num_repetitions=1,
        num_threads=1,
        server=server.address,
        available_bytes=2 * 2**30 + int(needed * 5.5 / duration_s),
    )
    outcome = measure([mute], None, settings, lambda line: None)
    assert [row["peer"] for row in outcome.of("note")] == ["original"]
    assert "give at most 5 s of it" in str(outcome.of("note")[0]["message"])
    assert [each.name for each in outcome.materials] == ["mute", "mute-first-5s"]
    medians = [(row["material"], row["peer"]) for row in outcome.of("median")]
    assert medians == [("mute", "fv2es"), ("mute-first-5s", "original"), ("mute-first-5s", "fv2es")]
    beside = outcome.of("median")[1]
    assert beside["cpu_ratio_to_fv2es"] == beside["cpu_s_per_s"] / outcome.of("median")[2]["cpu_s_per_s"]
    agreement = outcome.of("agreement")[0]
    assert agreement["material"] == "mute-first-5s"
    assert agreement["max_difference_probability"] < SAME_AS_FV2ES


@pytest.mark.server
@pytest.mark.timeout(300)
def test_a_peer_that_fails_is_named_and_the_others_go_on(mute, tmp_path, server: EmbeddedServer, nobody, capsys):
    arguments = ("--peers", "onnx-loop,fv2es", "--repeat", "1", "--server", nobody)
    assert cli.main([str(mute), "--output", str(tmp_path / "record.json"), *arguments]) == 3
    assert "fv2es: ServerUnreachable" in capsys.readouterr().err.replace("\n", " ")
    rows = read_record(tmp_path / "record.json")["measurements"]
    assert [row["peer"] for row in rows if row["row"] == "failure"] == ["fv2es"]
    assert [row["peer"] for row in rows if row["row"] == "median"] == ["onnx-loop"]


def test_the_module_runs():
    done = subprocess.run(
        (sys.executable, "-m", "benchmarks.peers", "--help"), capture_output=True, text=True, check=True
    )
    assert "--repository DIR" in done.stdout
