"""What no peer can go below on this machine: all pictures decoded and thrown away, and the acoustic net as one bare matrix product."""

from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.answer import Answer, Clock
from benchmarks.peers.media import check_streams, opened, video_of, whole_sound
from benchmarks.peers.plan import Span
from benchmarks.peers.spectrum import pieces_of
from benchmarks.peers.weights import modules_of

_SIDE: Final = 1024
"""Of the square matrices: large enough for the processor's best, small enough for its cache."""


def piece_flop(repository: Path) -> int:
    """Floating-point operations of the acoustic net on one piece, additions and multiplications counted."""
    counter: Any = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        modules_of(repository)["acoustic"](torch.zeros(1, 4, 32, 32))
    return int(counter.get_total_flops())


def analyse(film: Path, spans: tuple[Span, ...], flop_per_piece: int) -> Answer:
    """Decode a film, and multiply as much as its sound needs; no utterance is scored.

    Raises:
        FilmUnusable: it can't be read.
    """
    clock = Clock()
    check_streams(film)
    with clock.step("decode"), opened(film) as container:
        stream = video_of(container)
        if stream is not None:
            stream.thread_type = "AUTO"
            for _ in container.decode(stream):
                pass
    sound = whole_sound(film)
    pieces = [] if sound is None else [pieces_of(sound.of(span)) for span in spans]
    flop = flop_per_piece * sum(len(each) for each in pieces if each is not None)
    matrix, out = torch.rand(_SIDE, _SIDE), torch.empty(_SIDE, _SIDE)
    with clock.step("acoustic"), torch.no_grad():
        for _ in range(round(flop / (2 * _SIDE**3))):
            torch.mm(matrix, matrix, out=out)
    return Answer(utterances=(), steps=clock.steps)
