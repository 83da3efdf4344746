"""fv2es itself: the SDK against a Triton."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tritonclient.grpc as triton

from benchmarks.peers.answer import Answer, Sample, Scored, Step
from benchmarks.peers.plan import NO_SPEECH, Span
from benchmarks.peers.processes import server_tree, workers
from benchmarks.processes import cpu_s
from fv2es import Client, Result

_STEP_OF: Final = {
    "faces": "faces",  # decodes the pictures, too
    "visual": "visual",
    "mel": "sound",
    "acoustic": "acoustic",
    "tokenizer": "text",
    "text": "text",
    "fusion": "fusion",
}
"""Steps by served model."""


def analyse(film: Path, transcript: Path | None, spans: tuple[Span, ...], address: str) -> Answer:
    """All utterances of a film.

    Times of steps are Triton's own of its models, which may overlap; processor times are those of the models' workers where they
    run on this machine.

    Raises:
        Fv2esError: as `fv2es.Client.analyze`.
    """
    with Client(address, speech_rule=NO_SPEECH) as client:
        client.model()  # says in the client's own words what is wrong with the server
        before = _used(address)
        result = client.analyze(film, transcript=transcript)
        after = _used(address)
    steps = {name: _difference(after[name], before[name]) for name in after}
    notes = [*result.notes, *(f"lost [{each.start_s:.2f}, {each.end_s:.2f}) s: {each.reason}" for each in result.lost)]
    scored = _scored(result)
    if {(each.start_s, each.end_s) for each in scored} != {(each.start_s, each.end_s) for each in spans}:
        notes.append("its utterances are not those of the plan")
    return Answer(utterances=scored, steps=steps, notes=tuple(notes))


def _used(address: str) -> dict[str, Step]:
    """What each step has taken so far."""
    running = workers(server_tree(address))
    used: dict[str, Step] = {}
    with triton.InferenceServerClient(address) as client:
        for model, step in _STEP_OF.items():
            statistics: Mapping[str, Any] = client.get_inference_statistics(model, as_json=True)
            spent = statistics["model_stats"][0]["inference_stats"].get("compute_infer", {})
            wall_s = int(spent.get("ns", 0)) * 1e-9
            own_s = cpu_s(running[model]) if model in running else None
            if step in used:
                wall_s += used[step].wall_s or 0.0
                own_s = None if own_s is None else own_s + (used[step].cpu_s or 0.0)
            used[step] = Step(wall_s=wall_s, cpu_s=own_s)
    return used


def _difference(after: Step, before: Step) -> Step:
    cpu = None if after.cpu_s is None or before.cpu_s is None else after.cpu_s - before.cpu_s
    return Step(wall_s=(after.wall_s or 0.0) - (before.wall_s or 0.0), cpu_s=cpu)


def _scored(result: Result) -> tuple[Scored, ...]:
    return tuple(
        Scored(
            start_s=each.start_s,
            end_s=each.end_s,
            probabilities=each.probabilities,
            modality_logits={
                name: modality.logits for name, modality in each.modalities.items() if modality.logits is not None
            },
            samples=tuple(Sample(time_s=frame.time_s, box_px=frame.box_px) for frame in each.frames),
        )
        for each in result.utterances
    )
