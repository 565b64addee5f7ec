"""An audit that several processes share: whoever attacks which images, it is the audit of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harden.attacks import APGD, FGSM, MIM, PGD, Attack, Examples, Norm, Planned, Square
from harden.audit.exhibits import Gallery
from harden.audit.keeping import Keeping
from harden.audit.other_norms import audit_other_norms
from harden.audit.result import AuditResult
from harden.audit.runner import audit
from harden.audit.sweep import sweep
from harden.data.dataset import ImageSet
from harden.distributed import ALONE, Processes
from harden.errors import ProcessLostError
from harden.models.black_box import BlackBox, Program
from harden.models.classifier import Normalisation
from harden.models.layout import lay_out
from tests.attacks.nets import DIGITS, as_classifier, digits, trained_cnn
from tests.forks import FORKED, in_processes

pytestmark = pytest.mark.filterwarnings(FORKED)

EPS = 0.1
PLANNED = (
    Planned(FGSM(eps=EPS)),
    Planned(PGD(eps=EPS, iterations=5, random_start=True)),
    Planned(APGD(eps=EPS, iterations=10), member=True),
    Planned(Square(eps=EPS, queries=40), member=True),
)


@pytest.fixture(scope="module", autouse=True)
def _small_batches() -> Any:
    """So that few images are many batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harden.audit.runner.LARGEST_BATCH", 16)
        yield


@pytest.fixture(scope="module")
def images() -> ImageSet:
    pixels, labels = digits()
    lay_out(as_classifier(trained_cnn()))  # which is tried once, in passes that are nobody's
    return ImageSet(
        pixels[1500:1620].mul(255).round().to(torch.uint8), labels[1500:1620], tuple(f"{i}.png" for i in range(120))
    )


def audit_of(images: ImageSet, subject: Any = None, planned: Any = PLANNED, **options: Any) -> AuditResult:
    """Audit `subject`, or the trained network."""
    subject = as_classifier(trained_cnn()) if subject is None else subject
    return audit(subject, images, planned, model="net", dataset="digits", exposures={}, **options)


def audited(images: ImageSet, processes: Processes = ALONE, module: Any = None, **options: Any) -> dict[str, Any]:
    """Return everything that an audit says but its seconds, with what each process spent."""
    gallery, spent = Gallery(images), Spent()
    watched = module or nn.Sequential(spent, trained_cnn())
    subject = watched if isinstance(watched, BlackBox) else as_classifier(watched)
    result = audit_of(images, subject, witness=gallery, processes=processes, **options)
    shown = [exhibit.to_json() for exhibit in gallery.exhibits()]
    return {"result": without_seconds(result), "gallery": shown, "asked": spent.images}


def without_seconds(result: AuditResult) -> str:
    said = result.to_json()
    for part in (said, *said["outcomes"]):
        del part["seconds"]
    return json.dumps(said)


class Spent(nn.Module):
    """Counts the images that pass."""

    images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return images


@pytest.mark.parametrize("size", [2, 3])
def test_outcomes_passes_and_gallery_are_those_of_one_process_bit_for_bit(images: ImageSet, size: int) -> None:
    expected = audited(images)
    answers = in_processes(size, lambda processes: audited(images, processes))
    for answer in answers:
        assert answer["result"] == expected["result"]
        assert answer["gallery"] == expected["gallery"]
    assert sum(answer["asked"] for answer in answers) == expected["asked"]
    assert min(answer["asked"] for answer in answers) > 0


def box() -> BlackBox:
    program = Program("box", "function", lambda images: trained_cnn()(images).detach(), "box")
    plain = Normalisation("plain", (0.0,), (1.0,))
    return BlackBox(program, normalisation=plain, classes=DIGITS, input_size=(1, 8, 8), probabilities=False)


def test_a_black_box_is_shared_as_well(images: ImageSet) -> None:
    planned = (Planned(Square(eps=EPS, queries=30)),)
    expected = audited(images, module=box(), planned=planned)
    answers = in_processes(2, lambda processes: audited(images, processes, module=box(), planned=planned))
    assert answers == [expected] * 2


def test_the_curve_and_other_norms_are_those_of_one_process(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {
        norm: (APGD(eps=radius, norm=norm, iterations=5), Square(eps=radius, norm=norm, queries=20))
        for norm, radius in ((Norm.L2, 0.5), (Norm.L1, 2.0))
    }
    monkeypatch.setattr("harden.audit.other_norms.other_norm_attacks", lambda *_, gradients: quick)
    few, net = images.subset(torch.arange(60)), as_classifier(trained_cnn())
    result = audit(net, few, PLANNED[:1], model="net", dataset="digits", exposures={})

    def measured(processes: Processes) -> str:
        curve = sweep(net, few, EPS, seed=1, processes=processes)
        shifts = audit_other_norms(net, few, result, eps=EPS, processes=processes)
        return json.dumps([curve.to_json(), *({**outcome.to_json(), "seconds": 0} for outcome in shifts)])

    assert in_processes(2, measured) == [measured(ALONE)] * 2


class TooMany(nn.Module):
    """Runs out of memory for more images than fit."""

    def __init__(self, fit: int) -> None:
        super().__init__()
        self.fit = fit

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.fit:
            raise MemoryError
        return images


def test_memory_that_runs_out_in_one_process_halves_its_own_batches_alone(images: ImageSet) -> None:
    def work(processes: Processes) -> dict[str, Any]:
        fit = 8 if processes.rank == 1 else 100
        return audited(images, processes, module=nn.Sequential(TooMany(fit), trained_cnn()), planned=PLANNED[:2])

    expected = json.loads(audited(images, planned=PLANNED[:2])["result"])
    first, second = (json.loads(answer["result"]) for answer in in_processes(2, work))
    assert first == second
    deterministic, other = first["outcomes"]
    assert deterministic["predictions"] == expected["outcomes"][0]["predictions"]
    assert other["attacked"] == expected["outcomes"][1]["attacked"]


def test_in_one_process_as_in_several_a_part_of_a_batch_has_a_stream_of_its_own(images: ImageSet) -> None:
    def halved(processes: Processes) -> str:
        return str(
            audited(images, processes, module=nn.Sequential(TooMany(8), trained_cnn()), planned=PLANNED[:2])["result"]
        )

    assert in_processes(2, halved) == [halved(ALONE)] * 2


@pytest.mark.parametrize("size", [1, 3])
def test_what_the_leader_has_kept_is_attacked_by_none(images: ImageSet, size: int, tmp_path: Path) -> None:
    """Stopped in two processes, in the third attack; gone on with in one, and in three."""

    def keeping(processes: Processes) -> Keeping | None:
        net = as_classifier(trained_cnn())
        return Keeping(tmp_path, model=net, name="net", images=images, seed=0) if processes.leads else None

    def stopped(processes: Processes) -> str:
        def progress(attack: str, done: int, total: int) -> None:
            processes.require_leader()
            if processes.leads and attack.startswith("APGD"):
                raise KeyboardInterrupt

        try:
            audited(images, processes, module=trained_cnn(), keeping=keeping(processes), progress=progress)
        except KeyboardInterrupt:
            processes.dismiss()
            return "stopped"
        except ProcessLostError as lost:
            return lost.message
        return "ended"

    assert in_processes(2, stopped) == ["stopped", "the leader of this run has ended"]
    assert len(list(tmp_path.glob("*.json"))) == 2
    attacked: list[str] = []

    class Listening(Gallery):
        def __call__(self, attack: Attack, rows: Tensor, batch: Tensor, examples: Examples) -> None:
            attacked.append(attack.name)

    def resumed(processes: Processes) -> tuple[str, list[str]]:
        result = audit_of(images, keeping=keeping(processes), witness=Listening(images), processes=processes)
        return without_seconds(result), attacked

    answers = in_processes(size, resumed) if size > 1 else [resumed(ALONE)]
    assert answers[0][0] == audited(images)["result"]
    for _, names in answers:
        assert set(names) <= {"APGD-CE", "Square-40"} | {entry.attack.name for entry in PLANNED[2:]}


def test_a_process_that_is_killed_in_an_attack_is_told(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harden.distributed.processes.FAREWELL_SECONDS", 0.2)

    class Fatal(Gallery):
        def __call__(self, attack: Attack, rows: Tensor, batch: Tensor, examples: Examples) -> None:
            os._exit(1)

    def work(processes: Processes) -> str:
        witness = Gallery(images) if processes.leads else Fatal(images)
        with pytest.raises(ProcessLostError) as lost:
            audit_of(images, witness=witness, processes=processes)
        return lost.value.message

    assert in_processes(2, work) == ["another process of this run is gone (killed, or out of memory?)", "gone"]


def test_the_meter_takes_the_others_to_do_as_much(images: ImageSet) -> None:
    def work(processes: Processes) -> list[tuple[str, int, int]]:
        heard: list[tuple[str, int, int]] = []
        planned = (Planned(MIM(eps=0.02, iterations=10)),) * 2
        audited(images, processes, planned=planned, progress=lambda *told: heard.append(told))
        return heard

    alone, told = work(ALONE), in_processes(2, work)[0]
    assert all(done <= total for _, done, total in told)
    assert 0.6 < told[0][2] / alone[0][2] < 1.7
    assert 0.6 < told[-1][1] / alone[-1][1] < 1.7
