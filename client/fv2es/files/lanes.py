"""Utterances that overlap, laid beside each other."""

from collections.abc import Iterable

from fv2es.result import LostUtterance, UtteranceResult


def lanes(
    items: Iterable[UtteranceResult | LostUtterance],
) -> list[list[UtteranceResult | LostUtterance]]:
    """The utterances in as few lanes as possible, so that none overlaps another of its lane; each lane in order of time."""
    filled: list[list[UtteranceResult | LostUtterance]] = []
    for each in sorted(items, key=lambda item: (item.start_s, item.end_s, item.index)):
        free = next((lane for lane in filled if lane[-1].end_s <= each.start_s), None)
        if free is None:
            filled.append([each])
        else:
            free.append(each)
    return filled
