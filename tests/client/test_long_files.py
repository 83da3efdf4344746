"""Length costs no memory: an hour of small pictures, made by repeating packets, is cut in a process of its own."""

import json
import subprocess
import sys
from fractions import Fraction

import av
import pytest

import nasty_media

CUT = """
import json, sys
from fv2es.cutting import cut
from fv2es.source import probe
from fv2es.utterances import UtteranceRule, plan_utterances

def held_kb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

info = probe(sys.argv[1])
held, utterances = [], []
for clip in cut(info, plan_utterances(info, None, UtteranceRule()).utterances):
    held.append(held_kb())
    utterances += [each.index for each in clip.utterances]
print(json.dumps({"held_kb": held, "utterances": utterances, "duration_s": info.duration_s}))
"""


@pytest.mark.parametrize("ending", ["ts", "mp4"])
def test_memory_does_not_grow_with_length(tmp_path, ending):
    part = nasty_media.write_media(
        tmp_path / "part.mp4", duration_s=60.0, size=(64, 36), fps=Fraction(10), gop=20, options={"bf": "0", "qp": "45"}
    )
    path = tmp_path / f"hour.{ending}"
    with av.open(part) as read, av.open(path, "w") as written:
        streams = [written.add_stream_from_template(each) for each in read.streams]
        packets = [(each, each.pts, each.dts, each.stream_index) for each in read.demux() if each.size]
        for repeat in range(60):
            for packet, pts, dts, index in packets:
                packet.stream = streams[index]
                packet.time_base = read.streams[index].time_base
                shift = round(repeat * 60.2 / packet.time_base)
                packet.pts, packet.dts = pts + shift, dts + shift
                written.mux_one(packet)
    result = subprocess.run([sys.executable, "-c", CUT, str(path)], capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert found["duration_s"] == pytest.approx(60 * 60.2, abs=1.0)
    assert found["utterances"] == list(range(len(found["utterances"])))
    assert len(found["utterances"]) >= 720
    tenth = len(found["held_kb"]) // 10
    assert max(found["held_kb"]) - max(found["held_kb"][:tenth]) < 4_000
