"""What can be wrong with labelled data. The root is the client's: `fv2es.Fv2esError`."""

from collections.abc import Sequence
from pathlib import Path

from fv2es import Fv2esError


class DataError(Fv2esError):
    """Labelled data can't be used. `path` says which."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


class DataNotFound(DataError):
    """There is no such file or folder, or it can't be opened for reading."""


class WrongFormat(DataError):
    """The data are not of the form that the branch is measured with."""


class EmptyData(DataError):
    """No row is left to ask the model about."""


class UnknownLabels(DataError):
    """The model does not have labels of the data. `labels` are those, as the data name them."""

    def __init__(self, path: Path, labels: Sequence[str], known: Sequence[str]) -> None:
        self.labels = tuple(labels)
        super().__init__(
            path,
            f"the model has no label for {', '.join(labels)} (it has: {', '.join(known)}); "
            "serve a model with these labels, or leave their rows out of the data",
        )


class RepeatedLabels(DataError):
    """Label names of the data mean the same label. `labels` are those, as the data name them."""

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        super().__init__(
            path,
            f"of its label names {', '.join(labels)} each means the same as another; "
            "put the rows of one label under one name",
        )


class AllLost(DataError):
    """Not one row was answered by the branch. `reason` is that of the first."""

    def __init__(self, path: Path, *, num_rows: int, reason: str) -> None:
        self.reason = reason
        super().__init__(path, f"all {num_rows} rows were lost, the first because: {reason}")
