"""Whether the model was audited under the normalisation that it was trained with; in another, eps is another."""

from __future__ import annotations

from functools import partial

from harden.audit.believe import Check, Status
from harden.audit.checks.evidence import Evidence
from harden.models.classifier import Basis
from harden.models.normalisations import changes_eps, flags, what_to_type, why_in_doubt

_KNOWN = {
    Basis.GIVEN: "Mean and std were given",
    Basis.STATED: "The model's own files state mean and std",
    Basis.INSIDE: "The model normalises its images by itself",
    Basis.TRAINED: "The model was trained with this normalisation here",
    Basis.FOUND: "The normalisation was found on labelled images, and nothing speaks for another",
}


def normalisation(evidence: Evidence) -> Check:
    """Whether the normalisation is known, or was found without a doubt.

    Fails where the same eps means something else under another one that may be the right one, warns where only the
    order of the channels may be another.
    """
    said = partial(Check, "normalisation")
    used = evidence.classifier.normalisation
    if used.doubt is not None:
        moved = any(changes_eps(used, rival) for rival in used.doubt.rivals)
        consequence = "The same eps means something else there." if moved else "The same eps means the same there."
        return said(
            Status.FAIL if moved else Status.WARN,
            f"{why_in_doubt(used)}. {consequence}",
            f"{what_to_type(used)}.",
        )
    if used.basis is None:
        return said(
            Status.SKIP,
            "Nothing says how the normalisation came to be known.",
            "Give what the model was trained with (--mean, --std), or make sure that it normalises by itself.",
        )
    return said(Status.PASS, f"{_KNOWN[used.basis]}: {flags(used)}.")
