"""Nets on ONNX Runtime."""

import onnxruntime
import pytest

from fv2es_pipelines.engine import exact_int8

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
