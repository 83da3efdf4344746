"""What a model that must not fail hands on instead."""

import numpy as np
import pytest

from fv2es_pipelines.errors import InvalidUtterances, PipelineError, Refused
from fv2es_pipelines.refusal import INTERNAL, Refusal, num_rows, raise_refusals, refusing, usable_utterances


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, Refusal()),
        (InvalidUtterances("ü is no time"), Refusal(code="INVALID_ARG", reason="ü is no time")),
        (MemoryError("no room"), Refusal(code=INTERNAL, reason="MemoryError: no room")),
    ],
    ids=["fine", "refused", "a fault of ours"],
)
def test_errors_become_outputs(error: Exception | None, expected: Refusal):
    def answer(request):
        if error is not None:
            raise error
        return {"ROWS": request["UTTERANCES"]}

    work = refusing(answer, lambda _: {"ROWS": np.zeros((1, 2))}, output="REFUSAL")
    (found,) = work([{"UTTERANCES": np.ones((3, 2))}])
    assert Refusal.from_array(found["REFUSAL"]) == expected
    assert found["ROWS"].shape == ((3, 2) if error is None else (1, 2))
    if error is None:
        raise_refusals(found, "REFUSAL")
    else:
        with pytest.raises(Refused, match=expected.reason) as caught:
            raise_refusals(found, "REFUSAL")
        assert caught.value.code == expected.code
        assert isinstance(caught.value, PipelineError)


@pytest.mark.parametrize(("given", "rows"), [(0, 1), (1, 1), (512, 512), (600, 512)])
def test_stand_ins_agree_on_their_rows(given: int, rows: int):
    backwards = np.array([[2.0, 1.0]] * given).reshape(-1, 2)
    assert num_rows(backwards) == len(usable_utterances(backwards)) == rows


def test_usable_utterances_stay_as_they_are():
    assert usable_utterances(np.array([[1.0, 2.5]])).tolist() == [[1.0, 2.5]]
