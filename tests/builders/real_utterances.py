"""Utterances put together from FER2013, EmoDB and GoEmotions, and starter graphs whose heads are fitted to such utterances.

Untrained heads answer nearly the same to everything, so that no rounding could change a label.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fv2es_builders import assets
from fv2es_builders.parity import onnx_runner, session_of
from fv2es_builders.utterances import Utterance, graph_inputs, requests
from fv2es_pipelines.mel import MelGraph

LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
EMODB = dict(zip("WEAFTN", ("anger", "disgust", "fear", "happiness", "sadness", "neutral"), strict=True))
OTHER_NAMES = {"angry": "anger", "happy": "happiness", "sad": "sadness", "joy": "happiness"}
SOUND_S = 0.78
"""Two pieces."""
RIDGE = 100.0
"""Weight of the heads' size, in units of a feature's variance: with less they rest on features that hardly vary, and answer worse on others."""
SPREAD = 1.5
"""Standard deviation of fitted logits."""
HEADS = {"text": ("out",), "fusion": ("visual_out", "acoustic_out")}
"""Layers that are fitted, by graph."""


def compose(data: Path, count: int, *, skip: int = 0) -> tuple[list[Utterance], np.ndarray]:
    """`count` utterances whose modalities agree in their label, and their labels [count]. Those of another `skip` share nothing with them."""
    waves, faces, words = _waves(data / "emodb"), _faces(data / "fer2013"), _words(data / "goemotions_ekman")
    chosen, labels, sounds = [], [], []
    rng = np.random.default_rng(skip)
    for number in range(skip, skip + count):
        label, turn = LABELS[number % len(LABELS)], number // len(LABELS)
        files = waves.get(label) or waves["neutral"][::-1]  # nobody is surprised in EmoDB
        sounds.append(_wave(files[turn % len(files)]))
        num_faces = int(rng.integers(1, 5))
        absent = int(rng.integers(12))  # one in twelve lacks faces, sound, or words
        pictures = faces[label][turn * 4 : turn * 4 + num_faces]
        chosen.append(
            Utterance(
                name=f"{label} {turn}",
                faces=pictures[:0] if absent == 0 else pictures,
                pieces=np.zeros((0 if absent == 1 else 1, 4, 32, 32), np.float32),
                words="" if absent == 2 else words[label][turn],
            )
        )
        labels.append(number % len(LABELS))
    pieces = MelGraph()(sounds)
    return [_with_pieces(each, spectrum) for each, spectrum in zip(chosen, pieces, strict=True)], np.array(labels)


def _with_pieces(utterance: Utterance, pieces: np.ndarray) -> Utterance:
    return Utterance(
        name=utterance.name,
        faces=utterance.faces,
        pieces=pieces if len(utterance.pieces) else utterance.pieces,
        words=utterance.words,
    )


def _waves(folder: Path) -> dict[str, list[Path]]:
    """Files by label, speakers mixed."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.flac"), key=lambda path: path.stem[::-1]):
        if path.stem[5] in EMODB:
            found.setdefault(EMODB[path.stem[5]], []).append(path)
    return found


def _wave(path: Path) -> np.ndarray:
    """[n] float32 at 16 kHz, from the loudest half of the file on."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
        frames = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    wave = np.concatenate(frames)
    length = int(SOUND_S * 16000)
    start = max(0, (len(wave) - length) // 2)
    return wave[start : start + length].astype(np.float32)


def _faces(folder: Path) -> dict[str, np.ndarray]:
    """[n, 48, 48, 3] by label."""
    with np.load(folder / "public_test.npz") as archive:
        images, labels = archive["images"], archive["labels"]
        names = [OTHER_NAMES.get(str(name), str(name)) for name in archive["label_names"]]
    return {name: np.repeat(images[labels == place][..., None], 3, axis=3) for place, name in enumerate(names)}


def _words(folder: Path) -> dict[str, list[str]]:
    names = [OTHER_NAMES.get(name, name) for name in (folder / "labels.txt").read_text().split()]
    found: dict[str, list[str]] = {name: [] for name in names}
    for line in (folder / "dev.tsv").read_text().splitlines():
        text, labels, _ = line.split("\t")
        if "," not in labels:
            found[names[int(labels)]].append(text)
    return found


def fitted_graphs(
    graphs: Mapping[str, Path], tokenizer: Path, utterances: Sequence[Utterance], labels: np.ndarray, folder: Path
) -> dict[str, Path]:
    """Copies of graphs with heads fitted by ridge regression, in a folder."""
    inputs, present = _head_inputs(graphs, tokenizer, utterances)
    wanted = np.eye(len(LABELS))[labels] - 1 / len(LABELS)  # [U, labels]
    heads = {}
    for name, column in (("out", 0), ("visual_out", 1), ("acoustic_out", 2)):
        features, targets = inputs[name][present[:, column]], wanted[present[:, column]]
        mean = features.mean(axis=0)
        centred = (features - mean).astype(np.float64)
        penalty = RIDGE * np.square(centred).mean() * len(centred)
        weight = np.linalg.solve(centred.T @ centred + penalty * np.eye(len(mean)), centred.T @ targets)
        weight *= SPREAD / (centred @ weight).std()  # [features, labels]
        heads[f"{name}.weight"] = weight.T.astype(np.float32)
        heads[f"{name}.bias"] = (-1 - mean @ weight).astype(np.float32)
    found = {}
    for model, path in graphs.items():
        found[model] = folder / model / "1" / "model.onnx"
        found[model].parent.mkdir(parents=True)
        graph = onnx.load(str(path))
        for tensor in graph.graph.initializer:
            if tensor.name in heads:
                assert tuple(tensor.dims) == heads[tensor.name].shape
                tensor.CopyFrom(numpy_helper.from_array(heads[tensor.name], tensor.name))
        onnx.save(graph, str(found[model]))
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    return found


def _head_inputs(
    graphs: Mapping[str, Path], tokenizer: Path, utterances: Sequence[Utterance]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What each head reads, [U, features] by its name, and which modality is there, [U, 3]."""
    runners = {model: onnx_runner(graphs[model]) for model in ("visual", "acoustic")}
    reads: dict[str, str] = {}
    for model, names in HEADS.items():
        graph = onnx.load(str(graphs[model]))
        for name in names:
            (reads[name],) = (node.input[0] for node in graph.graph.node if f"{name}.weight" in node.input)
        outputs = [helper.make_tensor_value_info(reads[name], TensorProto.FLOAT, None) for name in names]
        graph.graph.output.extend(outputs)
        runners[model] = session_of(graph)
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*reads, "PRESENT")}
    for request in requests(utterances, assets.read_tokenizer(tokenizer)):
        for model, arrays in graph_inputs(request, runners):
            if model in HEADS:
                wanted = {value: array for value, array in arrays.items() if value not in reads.values()}
                outputs = runners[model](wanted)
                for name in (*HEADS[model], *(["PRESENT"] if model == "fusion" else [])):
                    found[name].append(outputs[reads.get(name, name)])
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    return joined, joined.pop("PRESENT")
