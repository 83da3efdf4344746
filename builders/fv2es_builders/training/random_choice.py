"""Random numbers of one generator, in the forms that augmentation needs."""

import torch
from torch import Generator, Tensor


class Chance:
    """Draws from one generator, so that its state decides everything."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def uniform(self, low: float, high: float) -> float:
        """A number of [low, high)."""
        return low + (high - low) * float(torch.rand(1, generator=self._generator))

    def normal(self, *shape: int) -> Tensor:
        """Numbers of mean 0 and deviation 1."""
        return torch.randn(*shape, generator=self._generator)

    def happens(self, share: float) -> bool:
        """True in this share of calls."""
        return self.uniform(0, 1) < share

    def below(self, end: int) -> int:
        """A whole number of [0, end)."""
        return int(torch.randint(end, (1,), generator=self._generator))
