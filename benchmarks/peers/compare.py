"""How far a peer's numbers are from those of fv2es, on the same utterances."""

from benchmarks.peers.answer import Answer, Box, Scored


def differences(answer: Answer, reference: Answer) -> dict[str, float | int | None]:
    """Largest differences over the utterances that both have, as flat figures; none where the peer computes something else.

    Labels that only one of them has are left out. `least_face_overlap` is the smallest intersection over union of two boxes
    of one picture; `num_other_faces` counts pictures in which only one of both found a face.
    """
    theirs = {(each.start_s, each.end_s): each for each in reference.utterances}
    pairs = [
        (each, theirs[each.start_s, each.end_s]) for each in answer.utterances if (each.start_s, each.end_s) in theirs
    ]
    found: dict[str, float | int | None] = {"num_compared": len(pairs)}
    found["max_difference_probability"] = _largest(
        [
            abs(value - other.probabilities[label])
            for own, other in pairs
            for label, value in own.probabilities.items()
            if label in other.probabilities
        ]
    )
    for modality in ("text", "visual", "acoustic"):
        found[f"max_difference_{modality}_logit"] = _largest(
            [
                abs(value - other.modality_logits[modality][label])
                for own, other in pairs
                if modality in own.modality_logits and modality in other.modality_logits
                for label, value in own.modality_logits[modality].items()
                if label in other.modality_logits[modality]
            ]
        )
    found["num_other_modalities"] = sum(
        own.modality_logits.keys() != other.modality_logits.keys() for own, other in pairs
    )
    boxes = [boxes for own, other in pairs for boxes in _boxes(own, other)]
    found["num_pictures_compared"] = len(boxes)
    found["num_other_faces"] = sum((own is None) != (other is None) for own, other in boxes)
    overlaps = [_overlap(own, other) for own, other in boxes if own is not None and other is not None]
    found["least_face_overlap"] = min(overlaps, default=None)
    return found


def _largest(values: list[float]) -> float | None:
    return max(values, default=None)


def _boxes(own: Scored, other: Scored) -> list[tuple[Box | None, Box | None]]:
    """Boxes of the pictures that both looked at."""
    theirs = {round(each.time_s * 1000): each.box_px for each in other.samples}
    return [
        (each.box_px, theirs[round(each.time_s * 1000)]) for each in own.samples if round(each.time_s * 1000) in theirs
    ]


def _overlap(first: Box, second: Box) -> float:
    """Intersection over union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return common / max(sum(areas) - common, 1e-9)
