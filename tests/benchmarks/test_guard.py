"""Regression guard: operations and ratios of processor time against the committed baseline, see benchmarks/README.md.

Counts are the same on every machine but for what hangs on the last bits of floats (candidates for faces). Seconds are never compared.
"""

import json
from collections.abc import Mapping

import pytest
from asked import asked
from work import BASELINE, REQUESTS, Work

from fv2es import EmbeddedServer

BASE = json.loads(BASELINE.read_text())
MORE, LESS = 1.03, 0.90
"""How much a count may differ from the baseline."""
CANDIDATES = ("rnet_rows", "rnet_elements", "onet_rows", "onet_elements")
MORE_CANDIDATES, LESS_CANDIDATES = 1.25, 0.75
"""The same for what the face detector's first net proposes: the last bits of floats decide about a few."""
MORE_RATIO = 2.0
"""Ratios of processor time vary by some 30% on busy machines, and between processors."""
REMEDY = "if it is meant, run `make bench-baseline` and say why in the commit"


@pytest.fixture(scope="module")
def work() -> Work:
    return Work()


@pytest.fixture(scope="module")
def counts(work: Work) -> dict[str, dict[str, int]]:
    return work.counts()


def compare(found: Mapping[str, int], base: Mapping[str, int]) -> list[str]:
    """What is wrong, a line each."""
    wrong = [f"{key}: counted now, not in the baseline" for key in found.keys() - base.keys()]
    wrong += [f"{key}: {base[key]} in the baseline, not counted any more" for key in base.keys() - found.keys()]
    for key in found.keys() & base.keys():
        value, before = found[key], base[key]
        more, less = (MORE_CANDIDATES, LESS_CANDIDATES) if key in CANDIDATES else (MORE, LESS)
        if value > before * more:
            wrong.append(f"{key}: {value}, more than the baseline's {before}: work that was saved is done again")
        elif value < before * less:
            wrong.append(
                f"{key}: {value}, less than the baseline's {before}: a gain that isn't written down can be lost unseen"
            )
    return sorted(wrong)


@pytest.mark.parametrize("name", REQUESTS)
def test_no_more_operations(name: str, counts: dict[str, dict[str, int]]) -> None:
    wrong = compare(counts[name], BASE["counts"][name])
    assert not wrong, "\n".join([f"{name}:", *wrong, REMEDY])


@pytest.mark.server
def test_no_more_requests(server: EmbeddedServer) -> None:
    wrong = compare(asked(server.address), BASE["counts"]["client"])
    assert not wrong, "\n".join([*wrong, REMEDY])


def test_no_dearer_than_the_bare_reference(work: Work) -> None:
    ratios = work.ratios()
    assert ratios.keys() == BASE["ratios"].keys()
    wrong = [
        f"{name}: {value:.2f}, more than {MORE_RATIO:g} times the baseline's {BASE['ratios'][name]:.2f}"
        for name, value in ratios.items()
        if not value <= MORE_RATIO * BASE["ratios"][name]
    ]
    assert not wrong, "\n".join([*wrong, REMEDY])


def test_the_guard_sees_what_it_is_for() -> None:
    base = {"text_flop": 1000, "rnet_rows": 1384}
    assert compare(base, base) == compare({"text_flop": 1000, "rnet_rows": 1386}, base) == []
    assert "work that was saved" in compare({"text_flop": 1100, "rnet_rows": 1384}, base)[0]
    assert "a gain" in compare({"text_flop": 500, "rnet_rows": 1384}, base)[0]
    assert "rnet_rows" in compare({"text_flop": 1000, "rnet_rows": 3000}, base)[0]
    assert len(compare({"pnet_rows": 1}, base)) == 3
