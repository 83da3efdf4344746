"""What can go wrong with a peer. The root is the client's: `fv2es.Fv2esError`."""

from pathlib import Path

from fv2es import Fv2esError


class PeerError(Fv2esError):
    """A peer can't do its work."""


class FilmUnusable(PeerError):
    """The film can't be read. `path` says which."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


class TooLittleMemory(PeerError):
    """The film as whole pictures does not fit into memory. Attributes: bytes and seconds."""

    def __init__(self, path: Path, *, needed_bytes: int, available_bytes: int, fitting_s: float) -> None:
        self.path, self.needed_bytes, self.available_bytes, self.fitting_s = (
            path,
            needed_bytes,
            available_bytes,
            fitting_s,
        )
        super().__init__(
            f"{path}: all its pictures in memory need {needed_bytes / 2**30:.1f} GiB, and {available_bytes / 2**30:.1f} GiB are available; "
            f"give at most {fitting_s:.0f} s of it, or a machine with more memory"
        )


class RepositoryUnusable(PeerError):
    """The weights of a model repository can't be put into PyTorch modules. `path` says which repository or graph."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


class PeerMissing(PeerError):
    """A peer is not installed. `peer` is its name."""

    def __init__(self, peer: str, *, missing: str, remedy: str) -> None:
        self.peer, self.missing = peer, missing
        super().__init__(f"{peer} needs {missing}; {remedy}")


class PeerFailed(PeerError):
    """A peer's process or server ended, or refused, without an answer. `peer` is its name."""

    def __init__(self, peer: str, message: str) -> None:
        self.peer = peer
        super().__init__(f"{peer}: {message}")
