"""GoEmotions as words and labels: several may hold of one comment."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fv2es_builders.errors import TrainingDataError
from fv2es_builders.training.labels import label_positions


@dataclass(frozen=True, kw_only=True, slots=True)
class Comments:
    """Texts and what they express."""

    texts: tuple[str, ...]
    targets: Tensor
    """[N, C] float32, 1 where the label holds."""

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, index: Sequence[int]) -> "Comments":
        """Some of them."""
        return Comments(texts=tuple(self.texts[row] for row in index), targets=self.targets[list(index)])


def load_comments(path: Path, labels: Sequence[str]) -> Comments:
    """Comments of a .tsv with columns text, label numbers joined by commas, id; `labels.txt` beside it names the numbers.

    Raises:
        TrainingDataError: a file is absent or a line is not like that.
    """
    try:
        names = (path.parent / "labels.txt").read_text(encoding="utf-8").split()
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TrainingDataError(path, f"can't be read ({error}); name the folder that holds it") from error
    positions = label_positions(names, labels, source=path)
    texts, targets = [], torch.zeros(len(lines), len(labels))
    for row, line in enumerate(lines):
        try:
            text, numbers, _ = line.split("\t")
            own = [positions[int(number)] for number in numbers.split(",")]
        except (ValueError, IndexError) as error:
            raise TrainingDataError(
                path, f"line {row + 1} is {line!r}; expected text, numbers below {len(names)}, id, with tabs between"
            ) from error
        texts.append(text)
        targets[row, own] = 1
    return Comments(texts=tuple(texts), targets=targets)


def comment_halves(comments: Comments, *, seed: int) -> tuple[Comments, Comments]:
    """Two disjoint halves: one to choose and calibrate by, one to report."""
    order = torch.randperm(len(comments), generator=torch.Generator().manual_seed(seed)).tolist()
    return comments.rows(sorted(order[::2])), comments.rows(sorted(order[1::2]))
