"""Nets on ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from fv2es_builders.golden import load_golden
from fv2es_pipelines.adapter import ModelFolder, trim_heap
from fv2es_pipelines.engine import Engine, exact_int8, load_engine
from fv2es_pipelines.rows import distinct_rows, row_lengths, shares
from fv2es_pipelines.specification import model
from fv2es_pipelines.tokens import Tokenizer

SLOW_AND_EXACT = "session.x64quantprecision"


@pytest.mark.parametrize(
    ("processor", "slow"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        ("flags\t\t: fpu avx2 avx_vnni\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\n", True),
        ("Features\t: fp asimd asimddp\n", False),
    ],
    ids=["VNNI", "VNNI of 256 bits", "none", "ARM"],
)
def test_int8_is_exact(tmp_path, processor, slow):
    """The slow way only where the fast one saturates."""
    (tmp_path / "cpuinfo").write_text(processor)
    options = onnxruntime.SessionOptions()
    exact_int8(options, tmp_path / "cpuinfo")
    if slow:
        assert options.get_session_config_entry(SLOW_AND_EXACT) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(SLOW_AND_EXACT)


def real_batches(repository):
    """Inputs of each net as requests have them: faces, speech with silence in it, lines of very different length, one absent."""
    golden = load_golden()
    silence = np.zeros((3, *golden.pieces.shape[1:]), np.float32)
    words = [golden.words[0], "", " ".join(golden.words), *golden.words[1:20], ""]
    tokens = Tokenizer(repository / "tokenizer" / "1" / "tokenizer.json")(words).to_arrays()
    return {
        "visual": {"FACES": np.concatenate([golden.faces, golden.faces[:2], np.zeros_like(golden.faces[:1])])},
        "acoustic": {"PIECES": np.concatenate([silence[:1], golden.pieces, silence, golden.pieces[:4]])},
        "text": {name: tokens[name] for name in ("INPUT_IDS", "ATTENTION_MASK")},
    }


def plain_run(path, inputs):
    """ONNX Runtime as it comes: the whole batch at once, with all of its padding."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.mark.parametrize("name", ["visual", "acoustic", "text"])
def test_served_as_plainly(repository, name):
    """Divided, sorted, cut and with repeated rows left out, the nets answer as in one plain run; requests get their own rows back."""
    batch = real_batches(repository)[name]
    served = model(name)
    folder = ModelFolder(
        path=repository / name / "1", parameters={**served.parameters, "num_threads": "2"}, batched=True
    )
    (output,) = (each.name for each in served.outputs)
    cut = len(next(iter(batch.values()))) // 3
    requests = [{key: array[:cut] for key, array in batch.items()}, {key: array[cut:] for key, array in batch.items()}]
    found = [answer[output] for answer in load_engine(folder)(requests)]
    expected = plain_run(repository / name / "1" / "model.onnx", batch)
    assert [len(each) for each in found] == [cut, len(expected) - cut]
    assert np.abs(np.concatenate(found) - expected).max() <= 1e-5
    assert np.ptp(expected, axis=0).max() > 0.1  # the order of rows shows


def resident_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def test_freed_memory_goes_back():
    """Small blocks that were freed stay with the C library until it is told."""
    blocks = [bytes(50_000) for _ in range(2_000)]  # below the size that is mapped by itself
    kept, full = blocks[-1], resident_mb()
    del blocks
    assert trim_heap()
    assert full - resident_mb() > 50
    assert not any(kept)


@pytest.fixture
def noisy_net(tmp_path):
    """A net that adds noise of its own: rows that were computed twice differ."""
    shape = ["R", 3]
    graph = helper.make_graph(
        [
            helper.make_node("RandomNormalLike", ["X"], ["NOISE"]),
            helper.make_node("Add", ["X", "NOISE"], ["Y"]),
        ],
        "noisy",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )
    return path


def test_equal_rows_are_computed_once(noisy_net):
    engine = Engine(noisy_net, num_threads=2, rows_per_run=2)
    rows = np.array([[1, 2, 3], [4, 5, 6], [1, 2, 3], [7, 8, 9], [1, 2, 3]], np.float32)
    found = engine.run({"X": rows})["Y"]
    assert (found[2] == found[0]).all()
    assert (found[4] == found[0]).all()
    assert len(np.unique(found - rows, axis=0)) == 3  # as many noises as different rows
    assert not (engine.run({"X": rows})["Y"][0] == found[0]).all()  # nothing is kept from one request to the next


def test_zeros_are_known_from_the_warm_up(noisy_net):
    """Digital silence, the piece that stands in for no sound, the face that stands in for none."""
    engine = Engine(noisy_net, num_threads=1, rows_per_run=8)
    engine.warm_up()
    rows = np.array([[0, 0, 0], [1, 2, 3], [0, 0, 0]], np.float32)
    first, second = (engine.run({"X": each})["Y"] for each in (rows, rows[:1]))
    assert (first[0] == first[2]).all()
    assert (first[0] == second[0]).all()


def test_distinct_rows_look_at_all_inputs():
    inputs = {"A": np.array([[1], [1], [1]]), "B": np.array([[2], [3], [2]])}
    distinct = distinct_rows(inputs)
    assert distinct.firsts.tolist() == [0, 1]
    assert [distinct.places()[key] for key in distinct.keys] == [0, 1, 0]
    assert distinct_rows(inputs, known={distinct.keys[0]}).firsts.tolist() == [1]


def test_negative_zero_is_another_number():
    """Bytes are compared, so nothing is taken for equal that an engine could tell apart."""
    assert len(distinct_rows({"A": np.array([[0.0], [-0.0]], np.float32)}).firsts) == 2


def test_row_lengths():
    mask = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert row_lengths(mask).tolist() == [2, 3, 1, 4]


@pytest.mark.parametrize(
    ("num_rows", "rows_per_run", "num_threads", "lengths"),
    [
        (13, 8, 2, [7, 6]),
        (52, 8, 2, [7, 7, 7, 7, 6, 6, 6, 6]),
        (17, 8, 2, [5, 4, 4, 4]),
        (3, 8, 4, [1, 1, 1]),
        (9, 8, 1, [5, 4]),
        (1, 8, 2, [1]),
        (0, 8, 2, []),
    ],
)
def test_shares(num_rows, rows_per_run, num_threads, lengths):
    """No thread waits for another one's longer run."""
    parts = list(shares(np.arange(num_rows), rows_per_run=rows_per_run, num_threads=num_threads))
    assert [len(part) for part in parts] == lengths
    assert [row for part in parts for row in part] == list(range(num_rows))
