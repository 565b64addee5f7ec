"""The sections of the HTML page, in the order in which they are read; the keys are their ids on the page."""

from __future__ import annotations

from harden.report.section import SectionWriter
from harden.report.sections.accuracy import accuracy
from harden.report.sections.attacks import attacks
from harden.report.sections.believe import believe
from harden.report.sections.cautions import caution_list
from harden.report.sections.classes import classes
from harden.report.sections.confusions import confusions
from harden.report.sections.costs import costs
from harden.report.sections.definitions import definitions
from harden.report.sections.distances import distances
from harden.report.sections.domains import domains
from harden.report.sections.facts import facts
from harden.report.sections.gallery import gallery
from harden.report.sections.queries import queries
from harden.report.sections.reach import reach
from harden.report.sections.representation import representation
from harden.report.sections.shifts import shifts
from harden.report.sections.training import training
from harden.report.sections.verdict import verdict

SECTIONS: dict[str, SectionWriter] = {
    "verdict": verdict,
    "cautions": caution_list,
    "accuracy": accuracy,
    "believe": believe,
    "attacks": attacks,
    "queries": queries,
    "reach": reach,
    "distances": distances,
    "shifts": shifts,
    "gallery": gallery,
    "classes": classes,
    "confusions": confusions,
    "representation": representation,
    "training": training,
    "domains": domains,
    "definitions": definitions,
    "costs": costs,
    "facts": facts,
}
