"""What a worker of `faces` holds at its peak and keeps between requests, in bytes: a film of any length must not make it more."""

import json
import statistics
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest

LENGTH_S = 3
MOST_AT_WORK_BYTES = 130_000_000
"""At its peak, beyond what it has when it starts, median of the requests. Measured: 98 to 114 MB; 136 to 147 with 256 crops at once, 141
to 157 with bands of 250,000 pixels."""
MOST_KEPT_BYTES = 45_000_000
"""Between requests. Measured: 30 to 37 MB, of which the detector's sums are 25; 67 to 70 with the arena."""
MOST_GROWTH_BYTES = 4_000_000
"""Of what is kept, from the second request to the last. Measured: 0.2 MB."""

WORKER = """
import json, os, sys
from pathlib import Path
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # each thread of the decoder holds pictures
import numpy as np
from fv2es_pipelines.adapter import ModelFolder, settle_heap, trim_heap
from fv2es_pipelines.workers import load_faces

def held_bytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

clip, length_s = np.fromfile(sys.argv[1], np.uint8), float(sys.argv[3])
work = load_faces(ModelFolder(path=Path(sys.argv[2]), parameters={}, batched=False))
assert settle_heap() and trim_heap()
before, resident, peaks, kept = held_bytes("RssAnon"), held_bytes("VmRSS"), [], []
for _ in range(5):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    (answer,) = work([{"CLIP": clip, "UTTERANCES": np.array([[0.0, length_s]])}])
    peaks.append(held_bytes("VmHWM") - resident)
    trim_heap()
    kept.append(held_bytes("RssAnon") - before)
print(json.dumps({"peaks": peaks, "kept": kept, "pictures": len(answer["FRAME_TIMES"]), "faces": int((answer["FRAME_SCORES"] > 0).sum())}))
"""


@pytest.fixture(scope="module")
def full_hd(astronaut: Path, tmp_path_factory) -> Path:
    """The part of the astronaut's film without a face, at 1920x1080: everything is searched, down to the smallest faces."""
    path = tmp_path_factory.mktemp("full hd") / "film.mp4"
    with av.open(astronaut) as read, av.open(path, "w") as written:
        pictures = read.streams.video[0]
        encoder = written.add_stream("libx264", rate=pictures.average_rate, options={"preset": "ultrafast", "g": "50"})
        encoder.width, encoder.height, encoder.pix_fmt = 1920, 1080, "yuv420p"
        encoder.time_base = Fraction(1, 1000)
        first_s = None
        for frame in read.decode(pictures):
            if frame.time < 5.0:
                continue
            first_s = frame.time if first_s is None else first_s
            if frame.time - first_s >= LENGTH_S:
                break
            large = frame.reformat(1920, 1080, "yuv420p")
            large.pts, large.time_base = round((frame.time - first_s) * 1000), Fraction(1, 1000)
            large.pict_type = 0
            written.mux(encoder.encode(large))
        written.mux(encoder.encode(None))
    return path


def test_a_worker_that_decodes_is_bounded_and_does_not_grow(full_hd: Path, repository: Path):
    ran = subprocess.run(
        [sys.executable, "-c", WORKER, str(full_hd), str(repository / "faces" / "1"), str(LENGTH_S)],
        check=True,
        capture_output=True,
        text=True,
        env={"MALLOC_ARENA_MAX": "2"},
    )
    held = json.loads(ran.stdout)
    assert held["pictures"] == 2 * LENGTH_S
    assert held["faces"] == 0, "small faces must have been looked for in vain"
    assert statistics.median(held["peaks"]) <= MOST_AT_WORK_BYTES
    assert max(held["kept"]) <= MOST_KEPT_BYTES
    assert held["kept"][-1] - held["kept"][1] <= MOST_GROWTH_BYTES
    assert min(held["kept"]) > 0
