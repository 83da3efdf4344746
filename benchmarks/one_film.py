"""One film through the client in a process of its own, so that its time and memory are nobody else's.

    python -m benchmarks.one_film FILM --server HOST:PORT [--transcript FILE | --no-speech]

Prints JSON: times, the client's processor time, how many utterances, and a digest of what came out.
"""

import argparse
import hashlib
import json
import struct
import sys
import time
from pathlib import Path

from fv2es import Client, Fv2esError, SpeechRule
from fv2es.result import LostUtterance


def main() -> int:
    """Analyse, and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_film")
    parser.add_argument("film", type=Path)
    parser.add_argument("--server", required=True)
    parser.add_argument("--transcript", type=Path)
    parser.add_argument("--no-speech", action="store_true")
    options = parser.parse_args()
    try:
        sys.stdout.write(json.dumps(_measured(options)) + "\n")
    except Fv2esError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _measured(options: argparse.Namespace) -> dict[str, float | int | str | None]:
    rule = SpeechRule(recognise=False) if options.no_speech else SpeechRule()
    cpu_before_s, start_s = time.process_time(), time.perf_counter()
    first_s = None
    scored = lost = 0
    scored_s = 0.0
    logits = hashlib.sha256()
    sums: dict[str, float] = {}
    with Client(options.server, speech_rule=rule) as client:
        for item in client.stream(options.film, transcript=options.transcript):
            if isinstance(item, LostUtterance):
                lost += 1
                continue
            first_s = time.perf_counter() - start_s if first_s is None else first_s
            scored += 1
            scored_s += item.duration_s
            logits.update(struct.pack(f"<2d{len(item.logits)}f", item.start_s, item.end_s, *item.logits.values()))
            for label, probability in item.probabilities.items():
                sums[label] = sums.get(label, 0.0) + probability
    return {
        "wall_s": time.perf_counter() - start_s,
        "first_utterance_s": first_s,
        "client_start_cpu_s": cpu_before_s,
        "client_cpu_s": time.process_time() - cpu_before_s,
        "utterances": scored,
        "utterances_lost": lost,
        "scored_s": scored_s,
        "logits_sha256": logits.hexdigest(),
    } | {f"mean_{label}": total / scored for label, total in sums.items()}


if __name__ == "__main__":
    sys.exit(main())
