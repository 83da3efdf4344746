"""One colour for each label, the same in all pictures. Tones that can be told apart on white and on black."""

from collections.abc import Sequence

NAMED = {
    "anger": "#d1495b",
    "disgust": "#7a9e3f",
    "fear": "#8e5ea2",
    "happiness": "#f0b429",
    "sadness": "#3f7cbf",
    "surprise": "#2a9d8f",
    "neutral": "#9aa0a6",
    "excitement": "#ef7f45",
    "frustration": "#9c5a3c",
}
ALIASES = {
    "ang": "anger",
    "dis": "disgust",
    "fea": "fear",
    "hap": "happiness",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "sur": "surprise",
    "neu": "neutral",
    "exc": "excitement",
    "excited": "excitement",
    "fru": "frustration",
    "frustrated": "frustration",
}
"""Names of the published models (IEMOCAP, CMU-MOSEI) and others in use."""
OTHERS = ("#c77dba", "#5b6ee1", "#4fb3d9", "#6d8764", "#b0a04f", "#7d5a5a", "#51a37d", "#d98880")


def colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour (#rrggbb) by label. Labels without a colour of their own take one by their place, again after eight."""
    chosen: dict[str, str] = {}
    num_others = 0
    for label in labels:
        name = label.casefold()
        named = NAMED.get(ALIASES.get(name, name))
        if named is None or named in chosen.values():
            named = OTHERS[num_others % len(OTHERS)]
            num_others += 1
        chosen[label] = named
    return chosen
