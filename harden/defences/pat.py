"""PAT: SAT from PGD examples (the paper's section 4.5), the multi-step baseline."""

from __future__ import annotations

from harden.defences.sat import SAT


class PAT(SAT):
    """CE(clean) + CE(adversarial), the examples being those of PGD-20 unless another source attack is named."""
