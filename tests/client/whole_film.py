"""What step by step must come to: the same decisions with everything known, written down plainly."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from fv2es.seams import Stretch, _in_order, _joined_two
from fv2es.source import SourceInfo
from fv2es.utterances import Span, Utterance, UtteranceRule, merged, share_of
from fv2es.words import Word, divided


def joined(stretches: Sequence[Stretch]) -> Stretch:
    """All stretches as one."""
    heard = [_in_order(each) for each in stretches if not each.failure]
    whole = heard[0] if heard else Stretch(start_s=0.0, end_s=0.0)
    for each in heard[1:]:
        whole = _joined_two(whole, each)
    return whole


def utterances(
    info: SourceInfo, words: Sequence[Word], rule: UtteranceRule, speech_s: Sequence[Span], unheard_s: Sequence[Span]
) -> list[Utterance]:
    """The utterances of a film all of whose words are known."""
    speech_s = merged(speech_s)
    if not words and not speech_s:
        return numbered(plain_windows(info.start_s, info.end_s, rule), speech_s, unheard_s)
    longest_s = max(rule.max_length_s - 2 * rule.margin_s, rule.max_length_s / 2)
    runs = divided(words, pause_s=rule.pause_s, max_length_s=longest_s, min_length_s=rule.min_length_s)
    found, at_s = [], info.start_s
    for index, run in enumerate(runs):
        start_s, end_s = run[0].start_s, run[-1].end_s
        before_s = start_s - runs[index - 1][-1].end_s if index else 2 * (start_s - info.start_s)
        after_s = runs[index + 1][0].start_s - end_s if index + 1 < len(runs) else 2 * (info.end_s - end_s)
        start_s -= min(max(before_s, 0.0) / 2, rule.margin_s)
        end_s += min(max(after_s, 0.0) / 2, rule.margin_s) if after_s >= 0 else after_s
        end_s = max(min(end_s, start_s + rule.max_length_s), start_s + 0.02)
        found += silence(at_s, start_s, rule, speech_s)
        found.append(Utterance(index=0, start_s=start_s, end_s=end_s, text=" ".join(each.text for each in run)))
        at_s = max(at_s, end_s)
    return numbered([*found, *silence(at_s, info.end_s, rule, speech_s)], speech_s, unheard_s)


def numbered(found: Sequence[Utterance], speech_s: Sequence[Span], unheard_s: Sequence[Span]) -> list[Utterance]:
    return [
        replace(
            each,
            index=index,
            speech_share=None
            if any(a < each.end_s and b > each.start_s for a, b in unheard_s)
            else share_of(each, speech_s),
        )
        for index, each in enumerate(found)
    ]


def silence(low_s: float, high_s: float, rule: UtteranceRule, speech_s: Sequence[Span]) -> list[Utterance]:
    """Windows over a time without words."""
    if high_s - low_s < rule.min_silence_s:
        return []
    edges_s = [low_s]
    for edge_s in sorted(edge_s for span in speech_s for edge_s in span):
        if min(edge_s - edges_s[-1], high_s - edge_s) >= rule.min_silence_s:
            edges_s.append(edge_s)
    found = []
    for start_s, end_s in pairwise([*edges_s, high_s]):
        marks_s = [start_s]
        while end_s - marks_s[-1] > max(2 * rule.window_s, rule.window_s + rule.min_silence_s):
            marks_s.append(marks_s[-1] + rule.window_s)
        at_s, rest_s = marks_s[-1], end_s - marks_s[-1]
        count = max(math.ceil(rest_s / rule.window_s - 1e-9), 1)
        marks_s += [*(at_s + rest_s * part / count for part in range(1, count)), end_s]
        found += [Utterance(index=0, start_s=a, end_s=b) for a, b in pairwise(marks_s)]
    return found


def plain_windows(low_s: float, high_s: float, rule: UtteranceRule) -> list[Utterance]:
    """Windows over a film in which nobody speaks."""
    marks_s = [low_s]
    while high_s - (marks_s[-1] + rule.window_s) >= max(rule.min_tail_s, 1e-9):
        marks_s.append(marks_s[-1] + rule.window_s)
    return [Utterance(index=0, start_s=a, end_s=b) for a, b in pairwise([*marks_s, high_s])]
