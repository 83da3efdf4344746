"""Whole builds: the starter once, by the command, and a tiny preset for what may go wrong."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from checkpoints import published

from fv2es_builders import cli
from fv2es_builders.assets import file_sha256
from fv2es_builders.build import BuildRequest, build, place
from fv2es_builders.cases import token_arrays
from fv2es_builders.errors import (
    AssetError,
    BuildUsageError,
    DiskFull,
    LabelMismatch,
    OutputBusy,
    ParityError,
    UnknownSize,
)
from fv2es_builders.export import served_parts
from fv2es_builders.graphs import ModelSource
from fv2es_builders.manifest import MANIFEST_PATH, content_sha256, read_current
from fv2es_builders.modules.model import seeded_model, weights_sha256
from fv2es_builders.parity import ATOL, accept, case_from_module, onnx_runner
from fv2es_builders.presets import preset_by_name
from fv2es_builders.reference import analyse_in_process
from fv2es_pipelines import constants

pytestmark = pytest.mark.timeout(400)  # whole builds, beside other tests on two cores

COMMITTED = Path(__file__).resolve().parents[2] / "model_repository"
FILES = {
    "visual/1/model.onnx",
    "acoustic/1/model.onnx",
    "text/1/model.onnx",
    "fusion/1/model.onnx",
    "faces/1/pnet.onnx",
    "faces/1/rnet.onnx",
    "faces/1/onet.onnx",
    "tokenizer/1/tokenizer.json",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def starter_repository(tmp_path_factory, cache) -> Path:
    """Built where a file of somebody else lies, an unreadable manifest, and what a killed build left."""
    output = tmp_path_factory.mktemp("starter")
    left_over = output / Path(MANIFEST_PATH).parent / ".build" / "visual" / "1"
    left_over.mkdir(parents=True)
    (left_over / "model.onnx").touch()
    (output / MANIFEST_PATH).write_text("{")
    (output / "own.txt").write_text("stays")
    assert cli.main(["--preset", "starter", "--seed", "0", "--output", str(output), "--cache", str(cache)]) == 0
    return output


@pytest.fixture(scope="module")
def manifest(starter_repository) -> dict:
    return json.loads((starter_repository / MANIFEST_PATH).read_text())


@pytest.fixture(scope="module")
def runners(starter_repository):
    return {
        name: onnx_runner(starter_repository / name / "1" / "model.onnx")
        for name in ("visual", "acoustic", "text", "fusion")
    }


def files_of(repository: Path) -> set[str]:
    return {str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()}


def test_files(starter_repository):
    """The repository is whole: what was built, and what is rendered, as in the one that is committed."""
    rendered = {
        str(path.relative_to(COMMITTED))
        for path in COMMITTED.rglob("*")
        if path.name in ("config.pbtxt", "model.py", ".gitkeep")
    }
    assert files_of(starter_repository) == {*FILES, *rendered, MANIFEST_PATH, "own.txt"}


def test_manifest(manifest, starter):
    assert manifest["name"] == manifest["preset"] == "starter"
    assert manifest["labels"] == list(preset_by_name("starter").labels)
    assert manifest["trained"] is False
    assert manifest["source"] == {"kind": "seed", "seed": 0}
    assert (manifest["profile"], manifest["precision"], manifest["server_version"]) == ("cpu", "fp32", "2.51")
    assert len(manifest["sha256"]) == 64
    assert manifest["pos_weight"] == [1.0] * 7
    assert manifest["modality_weights"] == dict(
        zip(("text", "visual", "acoustic"), starter.weighted_fusion.weight[0].tolist(), strict=True)
    )
    assert manifest["branches"] == {}
    assert manifest["preprocessing"]["visual_mean_rgb"] == list(constants.VISUAL_MEAN_RGB)
    assert manifest["preprocessing"]["max_tokens"] == constants.MAX_TOKENS
    assert set(manifest["build"]["files"]) == FILES
    assert set(manifest["parity"]["graphs"]) == {"visual", "acoustic", "text", "fusion", "pnet", "rnet", "onet"}
    assert manifest["parity"]["engines"] == {}
    for figures in manifest["parity"]["graphs"].values():
        assert 0 < figures["max_abs"] <= figures["atol"] <= 1e-4
        assert figures["num_cases"] >= 3
    assert {"detector", "text"} <= set(manifest["licences"])


def test_graphs(starter_repository, starter):
    """Names, types and dynamic axes of the served tensors; nothing of this machine in the files."""
    found = {}
    for name in ("visual", "acoustic", "text", "fusion"):
        model = onnx.load(starter_repository / name / "1" / "model.onnx")
        assert [opset.version for opset in model.opset_import if opset.domain == ""] == [20]
        assert str(Path.home()).encode() not in model.SerializeToString()
        assert b"site-packages" not in model.SerializeToString()
        for value in (*model.graph.input, *model.graph.output):
            tensor = value.type.tensor_type
            axes = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
            found[value.name] = (onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, axes)
    assert found == {
        "FACES": ("uint8", ["F", 48, 48, 3]),
        "VISUAL": ("float32", ["F", 64]),
        "PIECES": ("float32", ["P", 4, 32, 32]),
        "ACOUSTIC": ("float32", ["P", 64]),
        "INPUT_IDS": ("int64", ["U", "L"]),
        "ATTENTION_MASK": ("int64", ["U", "L"]),
        "FACE_INDEX": ("int64", ["U", "N"]),
        "FACE_MASK": ("bool", ["U", "N"]),
        "PIECE_INDEX": ("int64", ["U", "M"]),
        "PIECE_MASK": ("bool", ["U", "M"]),
        "TEXT": ("float32", ["U", 7]),
        "WORDS_MASK": ("bool", ["U"]),
        "LOGITS": ("float32", ["U", 7]),
        "PROBABILITIES": ("float32", ["U", 7]),
        "MODALITY_LOGITS": ("float32", ["U", 3, 7]),
        "PRESENT": ("bool", ["U", 3]),
    }


def test_parity_on_real_data(starter_repository, starter, reference, shared_data, runners):
    """Beyond what the build itself tried: FER2013 faces, Reddit comments."""
    with np.load(shared_data / "fer2013" / "public_test.npz") as archive:
        grey = archive["images"][:24].reshape(-1, 48, 48)
    lines = (shared_data / "goemotions_ekman" / "dev.tsv").read_text(encoding="utf-8").splitlines()[:16]
    inputs = {
        "visual": {"FACES": np.repeat(grey[..., None], 3, axis=-1)},
        "text": token_arrays(reference.tokenizer, [line.split("\t")[0] for line in lines]),
    }
    for module, _, spec in served_parts(starter):
        if spec.name in inputs:
            case = case_from_module("shared", module, inputs[spec.name], spec.outputs)
            assert case.outputs[spec.outputs[0]].std() > 1e-4
            accept(starter_repository / spec.name, runners[spec.name], cases=[case], atol=ATOL["export"])


def test_graphs_equal_the_reference(runners, reference, golden):
    """Three utterances, flat, gathered and masked through the four graphs, against one process without any of that."""
    faces = [golden.faces[:2], golden.faces[:0], golden.faces[2:6]]
    pieces = [golden.pieces[:5], golden.pieces[5:6], golden.pieces[:0]]
    words = [golden.words[0], "", golden.words[2]]
    expected = analyse_in_process(reference, faces=faces, pieces=pieces, words=words)
    assert expected.present.tolist() == [[True, True, True], [False, False, True], [True, True, False]]

    found = runners["fusion"](
        {
            "VISUAL": runners["visual"]({"FACES": np.concatenate(faces)})["VISUAL"],
            "FACE_INDEX": np.array([[0, 1, 0, 0], [0, 0, 0, 0], [2, 3, 4, 5]]),
            "FACE_MASK": np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool),
            "ACOUSTIC": runners["acoustic"]({"PIECES": np.concatenate(pieces)})["ACOUSTIC"],
            "PIECE_INDEX": np.array([[0, 1, 2, 3, 4], [5, 0, 0, 0, 0], [0, 0, 0, 0, 0]]),
            "PIECE_MASK": np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=bool),
            "TEXT": runners["text"](token_arrays(reference.tokenizer, words))["TEXT"],
            "WORDS_MASK": np.array([True, False, True]),
        }
    )
    np.testing.assert_allclose(found["MODALITY_LOGITS"], expected.modality_logits, atol=1e-4)
    np.testing.assert_allclose(found["LOGITS"], expected.logits, atol=1e-4)
    np.testing.assert_allclose(found["PROBABILITIES"], expected.probabilities, atol=1e-4)
    np.testing.assert_array_equal(found["PRESENT"], expected.present)
    assert np.ptp(expected.logits, axis=0).min() > 1e-3  # the utterances differ, so the rows can't be mixed up


def test_second_run_does_nothing(starter_repository, cache, capsys):
    before = {name: (starter_repository / name).stat().st_mtime_ns for name in files_of(starter_repository)}
    assert cli.main(["--seed", "0", "--output", str(starter_repository), "--cache", str(cache)]) == 0
    assert {name: (starter_repository / name).stat().st_mtime_ns for name in before} == before
    out = capsys.readouterr().out
    assert "up to date" in out
    assert "NOT TRAINED" in out


@pytest.mark.parametrize("same_output", [True, False], ids=["up to date", "from the cache"])
def test_second_build_needs_no_torch(starter_repository, cache, tmp_path, same_output):
    """It takes moments: PyTorch is not even imported."""
    output = starter_repository if same_output else tmp_path
    code = (
        "import sys; from fv2es_builders.cli import main;"
        f"status = main(['--seed', '0', '--output', {str(output)!r}, '--cache', {str(cache)!r}]);"
        "sys.exit(status if 'torch' not in sys.modules else 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (output / MANIFEST_PATH).read_text() == (starter_repository / MANIFEST_PATH).read_text()
    assert {name: file_sha256(output / name) for name in FILES} == {
        name: file_sha256(starter_repository / name) for name in FILES
    }


def test_what_is_up_to_date(starter_repository, manifest, tmp_path):
    """Other inputs, a damaged or missing file, an unreadable manifest: each means that a build is due."""
    inputs = manifest["build"]["inputs_sha256"]
    assert read_current(starter_repository, inputs) == manifest
    assert read_current(starter_repository, "0" * 64) is None
    assert read_current(tmp_path, inputs) is None
    repository = tmp_path / "copy"
    shutil.copytree(starter_repository, repository)
    net = repository / "faces" / "1" / "pnet.onnx"
    intact = net.read_bytes()
    net.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    assert read_current(repository, inputs) is None
    net.unlink()
    assert read_current(repository, inputs) is None
    net.write_bytes(intact)
    assert read_current(repository, inputs) == manifest
    (repository / MANIFEST_PATH).write_text("[]")
    assert read_current(repository, inputs) is None


def test_key_of_a_source(tiny, tokenizer_folder, tmp_path):
    """Seed, preset, checkpoint and tokenizer decide whether graphs are made anew."""
    tokenizer = tokenizer_folder / "tokenizer.json"
    source = ModelSource(preset=tiny, tokenizer=tokenizer)
    (tmp_path / "a.pt").write_bytes(b"a")
    (tmp_path / "b.pt").write_bytes(b"b")
    others = [
        replace(source, seed=1),
        replace(source, preset=replace(tiny, pos_weight=(1.0, 2.0))),
        replace(source, tokenizer=tokenizer_folder / "vocab.txt"),
        replace(source, checkpoint=tmp_path / "a.pt"),
        replace(source, checkpoint=tmp_path / "b.pt"),
    ]
    assert source.key() == replace(source).key()
    assert len({each.key() for each in (source, *others)}) == 6


def test_seed_decides(tiny):
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    first, again, other = (weights_sha256(seeded_model(tiny, seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not seeded_model(tiny, 0).training


def test_content_hash(manifest, starter, tiny, tokenizer_folder):
    """It names weights, preset and tokenizer, not the place, the time or the bytes of the graphs."""
    tokenizer = tokenizer_folder / "tokenizer.json"
    weights = weights_sha256(starter)
    assert content_sha256(starter.preset, weights=weights, tokenizer=tokenizer) == manifest["sha256"]
    assert content_sha256(starter.preset, weights="0" * 64, tokenizer=tokenizer) != manifest["sha256"]
    assert content_sha256(tiny, weights=weights, tokenizer=tokenizer) != manifest["sha256"]
    assert content_sha256(starter.preset, weights=weights, tokenizer=Path(__file__)) != manifest["sha256"]


def test_killed_build(tmp_path, tiny, tokenizer_folder):
    """A build that is killed leaves no manifest and no file in place; while it runs, no other may write beside it."""
    output, cache = tmp_path / "repository", tmp_path / "cache"
    arguments = ["--seed", "0", "--output", str(output), "--cache", str(cache)]
    process = subprocess.Popen(
        [sys.executable, "-uc", f"from fv2es_builders.cli import main; main({arguments!r})"],
        stdout=subprocess.PIPE,
        text=True,
    )
    request = BuildRequest(preset=tiny, output=output, cache=cache, tokenizer=tokenizer_folder)
    with process:
        for line in process.stdout:
            if "exporting" in line:
                break
        with pytest.raises(OutputBusy, match="another build is writing here; wait for it, or choose another --output"):
            build(request)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not files_of(output)
    assert all(".part" in path.name for path in cache.iterdir())  # nothing there is taken for whole

    assert build(request).made == ("graphs",)


def test_failure_while_moving(tmp_path):
    """The old manifest is gone before the first new file appears, and the new one comes after the last."""
    output, made = tmp_path / "repository", tmp_path / "made"
    names = ["a/1/model.onnx", "b/1/model.onnx", MANIFEST_PATH]
    for folder, names_there in ((output, names), (made, names[:2])):
        for name in names_there:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(folder.name)
    obstacle = output / "b/1/model.onnx"
    obstacle.unlink()
    obstacle.mkdir()
    files = {name: made / name for name in names[:2]}

    def render(folder: Path) -> None:
        assert not (folder / MANIFEST_PATH).exists()
        (folder / "config.pbtxt").write_text("rendered")

    with pytest.raises(OSError, match="directory"):
        place(files, {"name": "new"}, output, render=render)
    assert (output / "a/1/model.onnx").read_text() == "made"
    assert not (output / MANIFEST_PATH).exists()
    assert not (output / "manifest/1/.build").exists()

    obstacle.rmdir()
    place(files, {"name": "new"}, output, render=render)
    assert json.loads((output / MANIFEST_PATH).read_text()) == {"name": "new"}
    assert files_of(output) == {*names, "config.pbtxt"}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("where", ["output", "cache"])
def test_full_disk(tmp_path, small_disk, tiny, tokenizer_folder, where):
    """Nothing looks complete, and what was there before is still whole."""
    folders = {"output": tmp_path / "output", "cache": tmp_path / "cache", where: small_disk}
    request = BuildRequest(preset=tiny, tokenizer=tokenizer_folder, **folders)
    with pytest.raises(DiskFull, match=r"no space left on this disk .* make room, or name another disk") as caught:
        build(request)
    assert caught.value.folder == small_disk
    assert not files_of(folders["output"])
    if where == "cache":
        assert not list(small_disk.iterdir())


def test_failed_parity_stays_for_replay(tmp_path, tiny, tokenizer_folder, monkeypatch):
    monkeypatch.setitem(ATOL, "export", 0.0)
    request = BuildRequest(
        preset=tiny, output=tmp_path / "output", cache=tmp_path / "cache", tokenizer=tokenizer_folder
    )
    with pytest.raises(ParityError, match=r"model.onnx: \|error\| .* > 0 in VISUAL\[.*\] on .* inputs") as caught:
        build(request)
    assert caught.value.candidate.is_file()
    assert not files_of(request.output)
    monkeypatch.undo()
    assert build(request).made == ("graphs",)
    assert not caught.value.candidate.exists()


def test_no_tokenizer(tmp_path, capsys):
    """The paper's tokenizer comes with no package, and no hub is asked."""
    arguments = ["--seed", "0", "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert cli.main(["--preset", "fv2es-iemocap", *arguments]) == 1
    assert "give --tokenizer DIR with its tokenizer.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_tokenizer(tmp_path, tiny, tokenizer_folder):
    out, cache = tmp_path / "out", tmp_path / "cache"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(AssetError, match="not a tokenizer"):
        build(BuildRequest(preset=tiny, output=out, cache=cache, tokenizer=tmp_path))
    small = replace(tiny, text=replace(tiny.text, config={**tiny.text.config, "vocab_size": 100}))
    with pytest.raises(AssetError, match="has 30522 tokens, but the encoder has embeddings for 100"):
        build(BuildRequest(preset=small, output=out, cache=cache, tokenizer=tokenizer_folder))
    with pytest.raises(AssetError, match=r"holds no tokenizer.json; name one that does"):
        build(BuildRequest(preset=small, output=out, cache=cache, tokenizer=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output"),
        (["--output", "x", "--preset", "large"], "choose one of"),
        (["--output", "x", "--seed", "-1"], "seed -1 must be >= 0"),
        (["--output", __file__], "is a file; name a folder"),
        (["--output", "x", "--seed", "one"], "invalid int"),
        (["--output", "x", "--labels", "a,,b"], "must be different names with commas between them"),
        (["--output", "x", "--labels", "a,a"], "must be different names with commas between them"),
        (["--output", "x", "--precision", "bf16"], "can't be served on profile cpu"),
        (["--output", "x", "--precision", "fp8"], "invalid choice: 'fp8'"),
        (["--output", "x", "--profile", "gpu", "--server-version", "new"], "is no version such as 2.75"),
        (["--output", "x", "--server-version", "2.40"], "older than 2.51"),
    ],
)
def test_bad_usage(arguments, message, capsys):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("labels", [("one",), ("one", "two", "three")])
def test_labels_of_another_number(tmp_path, tiny, tokenizer_folder, labels):
    """Said before anything is written."""
    checkpoint = tmp_path / "tiny.pt"
    torch.save(published(seeded_model(tiny, 0)), checkpoint)
    request = BuildRequest(
        preset=replace(tiny, labels=labels, pos_weight=(1.0,) * len(labels)),
        output=tmp_path / "output",
        cache=tmp_path / "cache",
        checkpoint=checkpoint,
        tokenizer=tokenizer_folder,
    )
    with pytest.raises(LabelMismatch, match=rf"answers with 2 labels .* has {len(labels)}: one"):
        build(request)
    assert not files_of(request.output)


def test_width_of_features_that_is_not_served(tmp_path, tiny, tokenizer_folder):
    wide = replace(tiny, temporal=replace(tiny.temporal, dim=128))
    checkpoint = tmp_path / "wide.pt"
    torch.save(published(seeded_model(wide, 0)), checkpoint)
    request = BuildRequest(
        preset=tiny,
        output=tmp_path / "output",
        cache=tmp_path / "cache",
        checkpoint=checkpoint,
        tokenizer=tokenizer_folder,
    )
    with pytest.raises(UnknownSize, match=r"128 wide \(trans_dim\), and what is served is 64"):
        build(request)


def test_help(capsys):
    assert cli.main(["--help"]) == 0
    assert "--tokenizer" in capsys.readouterr().out


def test_request_rules(tiny, tmp_path):
    with pytest.raises(BuildUsageError, match="seed -3 must be >= 0"):
        ModelSource(preset=tiny, tokenizer=tmp_path, seed=-3)
    with pytest.raises(BuildUsageError, match="a checkpoint is given; leave one out"):
        BuildRequest(preset=tiny, output=tmp_path, cache=tmp_path, seed=3, checkpoint=tmp_path)
