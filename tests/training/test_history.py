"""Records of epochs: facts are fields, and files of earlier versions are still read."""

from __future__ import annotations

import pickle

from harden.training.canary import Collapse
from harden.training.history import EpochRecord, History
from harden.workflows.audit import overfitted

OLD = {"epoch": 2, "seconds": 1.0, "scalars": {}, "rolled_back": True, "passes": 7}


def test_a_record_reads_back_and_holds_plain_values() -> None:
    record = EpochRecord(1, 1.0, ("fgsm", "mim"), {"lr": 0.1}, True, "undone", 5, Collapse.TO_CHANCE)
    assert EpochRecord.from_json(record.to_json()) == record
    assert record.sources == "fgsm + mim"
    plain = pickle.dumps(record.to_json())
    assert b"harden" not in plain  # checkpoints are read without running code


def test_records_of_earlier_versions_are_read() -> None:
    event = "collapse to chance on held-out images; rolled back"
    found = EpochRecord.from_json({**OLD, "source_attack": "fgsm + mim", "event": event})
    assert found.source_attacks == ("fgsm", "mim")
    assert found.collapse is Collapse.NOT_RECORDED
    quiet = EpochRecord.from_json({**OLD, "source_attack": "", "event": ""})
    assert (quiet.source_attacks, quiet.collapse) == ((), Collapse.NONE)


def test_what_collapsed_is_read_from_the_field_and_never_from_the_words() -> None:
    """The words may be in any language."""
    caught = EpochRecord(2, 1.0, ("fgsm",), {}, True, "überangepasst", collapse=Collapse.CATASTROPHIC_OVERFITTING)
    named = EpochRecord(2, 1.0, ("fgsm",), {}, True, "no catastrophic overfitting here", collapse=Collapse.TO_CHANCE)
    assert "epoch 2" in overfitted(History((caught,)))[0]
    assert overfitted(History((named,))) == ()
    old = EpochRecord.from_json({**OLD, "source_attack": "fgsm", "event": "something"})
    assert "epoch 2" in overfitted(History((old,)))[0]
