"""Segments like RTTM's (NIST Rich Transcription 2009), with the emotion in place of the speaker."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from fv2es.plain import printable
from fv2es.result import LostUtterance, Result

_SPACE = re.compile(r"\s+")
UNCLEAR = "unclear"
"""Name of a segment with too little evidence for any label."""


def rttm_bytes(results: Sequence[Result]) -> bytes:
    """One line of ten fields an utterance: SPEAKER file 1 start duration <NA> <NA> label confidence <NA>; seconds.

    The type is SPEAKER, since that is what programs read. An utterance that is not clear is named `unclear`; one that could
    not be scored is a NOSCORE region. The file is named by its stem, by its whole path where two share a stem.
    """
    paths = [printable(str(each.source["path"])) for each in results]
    stems = [PurePosixPath(path).stem for path in paths]
    count = Counter(stems)
    lines = []
    for path, stem, result in zip(paths, stems, results, strict=True):
        name = _word(stem if count[stem] == 1 else path)
        for each in result.items:
            duration_s = each.end_s - each.start_s
            if isinstance(each, LostUtterance):
                kind, label, confidence = "NOSCORE", "<NA>", "<NA>"
            else:
                label = _word(each.top_label) if each.is_clear else UNCLEAR
                kind, confidence = "SPEAKER", f"{each.confidence:.6f}"
            lines.append(f"{kind} {name} 1 {each.start_s:.3f} {duration_s:.3f} <NA> <NA> {label} {confidence} <NA>\n")
    return "".join(lines).encode()


def _word(text: str) -> str:
    """RTTM's fields are parted by spaces."""
    return _SPACE.sub("_", printable(text)) or "_"
