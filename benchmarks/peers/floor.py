"""What no peer can go below on this machine, see `benchmarks.floor`, as if it were a peer that scores nothing."""

from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floor import decode_floor, product_floor
from benchmarks.peers.answer import Answer, Step
from benchmarks.peers.media import check_streams, opened
from benchmarks.peers.weights import preset_of
from fv2es.source import probe
from fv2es_builders.modules.model import empty_model
from fv2es_pipelines.constants import HOP_LENGTH, PIECE_FRAMES, SAMPLE_RATE_HZ

_PIECES_PER_S: Final = SAMPLE_RATE_HZ / (PIECE_FRAMES * HOP_LENGTH)


def gflop_per_s(repository: Path) -> float:
    """Operations of the acoustic net for a second of sound, 10^9, multiplications and additions counted."""
    counter: Any = FlopCounterMode(display=False)
    with torch.no_grad(), torch.device("meta"), counter:  # shapes alone: nothing is computed
        empty_model(preset_of(repository)).acoustic.eval()(torch.zeros(1, 4, 32, 32))
    return float(counter.get_total_flops()) * 1e-9 * _PIECES_PER_S


def analyse(film: Path, acoustic_gflop_per_s: float) -> Answer:
    """Decode a film, and multiply as much as its sound needs; no utterance is scored.

    Raises:
        FilmUnusable: it can't be read.
    """
    check_streams(film)
    duration_s = probe(film).duration_s
    found: dict[str, Any] = {}
    with opened(film) as container:
        kinds = {stream.type for stream in container.streams}
    if "video" in kinds:
        found |= decode_floor(film, duration_s)
    if "audio" in kinds:
        found |= product_floor(acoustic_gflop_per_s)
    steps = {
        step: Step(
            wall_s=found[f"floor_{name}_wall_s_per_s"] * duration_s,
            cpu_s=found[f"floor_{name}_cpu_s_per_s"] * duration_s,
        )
        for step, name in (("decode", "decode"), ("acoustic", "product"))
        if f"floor_{name}_wall_s_per_s" in found
    }
    return Answer(
        utterances=(),
        steps=steps,
        notes=tuple(str(found[key]) for key in ("floor_decode_with", "floor_product_with") if key in found),
    )
