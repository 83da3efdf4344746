"""What a manifest says of one branch: which labels it knows, and how its logits become probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fv2es.errors import ModelUnavailable

BranchName = Literal["visual", "acoustic", "text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """One branch of a served model with C labels."""

    name: BranchName
    labels: tuple[str, ...]
    """C, of the model."""
    known: npt.NDArray[np.bool_]
    """[C], labels that the branch has learnt; of the others it says nothing."""
    base_rates: npt.NDArray[np.float64]
    """[C] in (0, 1), how often each label held in the data the branch was calibrated on."""
    thresholds: npt.NDArray[np.float64]
    """[C] in (0, 1), probability from which on a label is called, where several may hold."""
    from_manifest: bool
    """False: the manifest says nothing of it, so every label is known, every rate and threshold 0.5."""

    @property
    def known_labels(self) -> tuple[str, ...]:
        """Those that are measured, in the model's order."""
        return tuple(label for label, known in zip(self.labels, self.known, strict=True) if known)

    def probabilities(self, evidence: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The branch's own probability of each label: sigmoid(evidence + ln(r / (1 - r))) with base rate r.

        Args:
            evidence: [N, C], logits as served: 0 where nothing is learnt from the row.

        Returns:
            [N, C] in [0, 1].
        """
        log_odds = evidence + np.log(self.base_rates / (1 - self.base_rates))
        result: npt.NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -log_odds.astype(np.float64)))
        return result


def branch_from_manifest(manifest: Mapping[str, Any], name: BranchName, *, address: str) -> Branch:
    """The branch `name` of the model that a server at `address` names.

    Raises:
        ModelUnavailable: what the manifest says does not fit its labels, or fewer than two are known.
    """
    labels = tuple(manifest["labels"])
    own = (manifest.get("branches") or {}).get(name)
    known, rates, thresholds = (True,) * len(labels), (0.5,) * len(labels), (0.5,) * len(labels)
    if own is not None:
        try:
            known, rates, thresholds = (tuple(own[key]) for key in ("known", "base_rates", "thresholds"))
            fits = all(len(each) == len(labels) for each in (known, rates, thresholds))
            fits = fits and all(isinstance(each, bool) for each in known)
            fits = fits and all(0 < each < 1 for each in (*rates, *thresholds))
        except (KeyError, TypeError):
            fits = False
        if not fits:
            raise ModelUnavailable(
                address,
                f"its manifest says of branch {name}: {own!r}; expected known, base_rates and thresholds of {len(labels)} labels, "
                "rates and thresholds above 0 and below 1; build the repository anew",
            )
    branch = Branch(
        name=name,
        labels=labels,
        known=np.array(known, np.bool_),
        base_rates=np.array(rates, np.float64),
        thresholds=np.array(thresholds, np.float64),
        from_manifest=own is not None,
    )
    if len(branch.known_labels) < 2:
        raise ModelUnavailable(
            address,
            f"branch {name} knows {len(branch.known_labels)} labels; with fewer than two nothing can be mistaken",
        )
    return branch
