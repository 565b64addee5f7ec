"""One small network of every family of timm and torchvision: split, hardened for a few steps, exported.

python -m tests.zoo [--only REGEX | --network NAME ...] [--missing] [--no-export] [--jobs 2] [--table tests/zoo.md]

A family is a module of the library. Of its networks the one with the fewest parameters is taken, with random weights,
at the smallest of a few image sizes that it accepts. It passes where the whole network, saved with torch.save, opens
and gives the same scores, a default split is found that gives features and not scores, a few steps of Adv-4-Adv on one
batch lower the loss by a fiftieth, discriminators and extractor receive gradients, and the ONNX file agrees. Networks
that are named with --network have rows of their own. The table of an earlier run is kept up: rows of families that were
tried are replaced. Each network has its own process, whose memory is limited. The suite tries some of them.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import multiprocessing
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from harden.attacks import CRAFTERS, craft
from harden.defences import Craft
from harden.errors import HardenError, ModelError
from harden.export.parity import compare
from harden.export.runtime import OnnxScorer
from harden.export.to_onnx import save_onnx
from harden.models import load_model
from harden.models.classifier import Classifier, network_scores
from harden.models.layout import laid_out, lay_out, layout_of
from harden.models.loaded import LoadedModel
from harden.models.modes import require_trainable
from harden.models.normalisations import plain
from harden.models.pickled import load_pickled
from harden.models.split import default_split
from harden.models.tap import Tap
from harden.models.timm_models import made_for
from harden.randomness import stream
from harden.training.optimizer import build_optimizer
from harden.vision import import_timm, import_torchvision
from harden.workflows.hardening import build_defence
from harden.workflows.settings import FitSettings

SIZES = (64, 96, 128, 224, 299)
STEPS, MOST_STEPS, IMAGES, CLASSES, EPS = 8, 40, 3, 3, 4 / 255
"""Steps that every network takes and that it may take until its loss has fallen; and the batch."""
RATES = (3e-3, 3e-4, 3e-5)
"""Learning rates of Adam; the next is tried where one does not lower the loss."""
FALL = 0.02
"""Share by which the loss has to fall: what discriminators learn of scores, or of features that training does not
move, is less."""
LARGEST, NOT_TRIED = 150e6, "not tried: too large"
"""Parameters of the largest network that is tried, and what is said of a family without a smaller one."""
MEMORY = 12 * 2**30
"""Bytes that a network may take."""
TABLE = Path(__file__).with_name("zoo.md")


@dataclass(frozen=True)
class Row:
    """What became of one network."""

    family: str
    network: str
    parameters: str = ""
    images: str = ""
    split: str = ""
    features: str = ""
    loss: str = ""
    largest_difference: str = ""
    result: str = "ok"


def families() -> dict[str, list[str]]:
    """Return the networks of each family, as --model takes them."""
    timm = import_timm()
    found: dict[str, list[str]] = {}
    for module in timm.list_modules():
        found[f"timm {module}"] = [f"timm:{name}" for name in timm.list_models(module=module)]
    import torchvision.models as models

    import_torchvision()
    for name in models.list_models(module=models):
        module = models.get_model_builder(name).__module__.rpartition(".")[2]
        found.setdefault(f"torchvision {module}", []).append(f"torchvision:{name}")
    return {family: names for family, names in found.items() if names}


def smallest(names: list[str]) -> tuple[str, int]:
    """Return the network with the fewest parameters, and their number; built without memory where that works."""
    timm, best = import_timm(), ("", sys.maxsize)
    import torchvision.models as models

    for device, name in itertools.product(("meta", "cpu"), names):
        if device == "cpu" and best[0]:
            break
        kind, _, reference = name.partition(":")
        try:
            with torch.device(device):
                net = (
                    timm.create_model(reference, num_classes=CLASSES)
                    if kind == "timm"
                    else models.get_model(reference, weights=None, num_classes=CLASSES)
                )
        except Exception:  # some cannot be built there; others of the family stand for them
            continue
        best = min(best, (name, sum(p.numel() for p in net.parameters())), key=lambda pair: pair[1])
    if not best[0]:
        raise RuntimeError("no network of the family can be built")
    return best


def load_smallest_size(name: str) -> tuple[LoadedModel, int]:
    """Load a network for the smallest image size that it accepts."""
    kind, _, reference = name.partition(":")
    own = made_for(reference) if kind == "timm" else None
    refusal: HardenError = ModelError("no size was tried")
    for size in sorted({*SIZES, *((own[0],) if own else ())}):
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                loaded = load_model(name, classes=CLASSES, in_channels=3, image_size=(size, size))
                require_trainable(as_classifier(loaded, size))
                return loaded, size
        except HardenError as error:
            refusal = error
    raise refusal


def as_classifier(loaded: LoadedModel, size: int) -> Classifier:
    """Return a network as a classifier of square images."""
    return Classifier(
        loaded.module,
        normalisation=plain(3),
        classes=tuple("abc"),
        input_size=(3, size, size),
        origin=loaded.origin,
    )


def gives_scores(classifier: Classifier, layer: str) -> bool:
    """Whether a layer is one of the classifiers that timm names, or a linear layer of as many outputs as classes."""
    module: Any = classifier.module
    if hasattr(module, "get_classifier"):
        heads = module.get_classifier()
        heads = heads if isinstance(heads, (tuple, list)) else (heads,)
        inside = {part for head in heads if isinstance(head, torch.nn.Module) for part in head.modules()}
        return module.get_submodule(layer) in inside
    part = module.get_submodule(layer)
    return isinstance(part, torch.nn.Linear) and part.out_features == CLASSES


def require_same_when_saved(classifier: Classifier) -> None:
    """Return if the network, saved whole, opens without a flag and gives the same scores.

    Raises:
        HardenError: it is refused.
        AssertionError: its scores are others.
    """
    image = torch.rand(1, *classifier.input_size, generator=stream(0, "saved"))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.pt"
        torch.save(classifier.module, path)
        opened = load_pickled(path, trust=False)
        before, after = (network_scores(module.eval(), image) for module in (classifier.module, opened))
    assert torch.equal(before, after), "the network that was saved gives other scores"


def harden_a_little(classifier: Classifier, layer: str, rate: float) -> tuple[float, float]:
    """Take some steps on one batch; return the first loss and the lowest after it.

    Raises:
        AssertionError: discriminators or extractor receive no gradient.
    """
    settings = FitSettings(model="", data="", split=layer)
    job: Any = SimpleNamespace(settings=settings, classifier=classifier, source_attacks=("fgsm",), statics=())
    lay_out(classifier)
    defence, _ = build_defence(job)
    optimizer = build_optimizer(classifier, defence, lr=rate, weight_decay=0.0)
    images = torch.rand(IMAGES, *classifier.input_size, generator=stream(0, "images"))
    images, labels = laid_out(images, classifier), torch.arange(IMAGES) % CLASSES
    noise, losses = stream(0, "noise"), []

    def craft_now(model: torch.nn.Module, clean: Tensor, truth: Tensor | None) -> tuple[Tensor, ...]:
        return (craft(CRAFTERS["fgsm"](EPS), model, clean, truth, generator=noise),)

    with torch.random.fork_rng(), Tap(classifier, layer) as tapped:
        torch.manual_seed(0)
        for step in range(MOST_STEPS):
            if step >= STEPS and _fell(losses[0], min(losses)):
                break
            classifier.train()
            defence.set_progress(1.0)
            result = defence.step_loss(tapped, images, labels, Craft(craft_now), noise)
            optimizer.zero_grad(set_to_none=True)
            result.loss.backward()  # type: ignore[no-untyped-call]
            if step == 0:
                assert any(_moves(p) for p in defence.parameters()), "discriminators receive no gradient"
                first = next(p for p in classifier.parameters() if p.requires_grad)
                assert _moves(first), "the first layer receives no gradient"
            optimizer.step()
            losses.append(float(result.loss))
    return losses[0], min(losses[1:])


def _fell(before: float, after: float) -> bool:
    return after <= (1 - FALL) * before


def _moves(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().max() > 0)


def check(family: str, name: str, parameters: int, *, export: bool) -> Row:
    """Try one network; a failure is a row too."""
    row: dict[str, str] = {"family": family, "network": name, "parameters": f"{parameters / 1e6:.2f} M", "result": "ok"}
    try:
        loaded, size = load_smallest_size(name)
        classifier = as_classifier(loaded, size)
        require_same_when_saved(classifier)
        split = default_split(classifier)
        row |= {"images": str(size), "split": f"`{split.point.layer}`", "features": f"{split.point.width:,}"}
        for rate in RATES:
            before, after = harden_a_little(copy.deepcopy(classifier), split.point.layer, rate)
            if _fell(before, after):
                break
        row["loss"] = f"{before:.2f} to {after:.2f}"
        lay_out(classifier)
        row["images"] += ", channels last" if layout_of(classifier) is torch.channels_last else ""
        if gives_scores(classifier, split.point.layer):
            row["result"] = "split at scores"
        elif not _fell(before, after):
            row["result"] = "the loss hardly falls"
        elif export:
            images = torch.rand(8, *classifier.input_size, generator=stream(0, "export"))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                save_onnx(classifier, path, {})
                with torch.no_grad():
                    parity = compare(classifier.eval(), OnnxScorer(path), images, kind="random")
            row["largest_difference"] = f"{parity.largest_difference:.0e}"
            if not parity.holds:
                row["result"] = "ONNX differs"
    except HardenError as error:
        row["result"] = error.message[:120]
    except Exception as error:  # what fails is what the table is for
        row["result"] = f"defect: {type(error).__name__}: {str(error)[:100]}"
        traceback.print_exc()
    row["result"] = row["result"].replace("|", "/").replace("\n", " ")
    return Row(**row)


# -- the table ---------------------------------------------------------------------------------------------------------


def read_table(path: Path) -> dict[str, Row]:
    """Return the rows of an earlier run."""
    if not path.exists():
        return {}
    lines = [line.strip().strip("|").split("|") for line in path.read_text().splitlines() if line.startswith("| ")]
    rows = [Row(*(cell.strip() for cell in line)) for line in lines[1:] if len(line) == len(fields(Row))]
    return {row.family: row for row in rows}


def write_table(path: Path, rows: dict[str, Row]) -> None:
    """Write all rows, by family."""
    names = [field.name.replace("_", " ") for field in fields(Row)]
    results = [row.result for row in rows.values()]
    tried = len(results) - results.count(NOT_TRIED)
    versions = f"timm {import_timm().__version__}, torchvision {import_torchvision().__version__}"
    head = (
        f"# Families that can be hardened\n\n{results.count('ok')} of {tried} pass"
        f" ({versions}, torch {torch.__version__}).\n"
        "Made by `python -m tests.zoo`, which says what passing means.\n"
    )
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(astuple(rows[family]))} |" for family in sorted(rows)]
    path.write_text(head + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


def try_family(family: str, names: list[str], *, export: bool) -> tuple[Row, float]:
    """Try a family in this process, which is for that alone; return its row, and seconds."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    name, parameters = smallest(names)
    if parameters > LARGEST:
        return Row(family, name, f"{parameters / 1e6:.2f} M", result=NOT_TRIED), 0.0
    return check(family, name, parameters, export=export), time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description="Try a small network of every family.")
    parser.add_argument("--only", default="", help="regular expression on families")
    parser.add_argument("--network", nargs="+", default=[], help="these networks and no others, as --model takes them")
    parser.add_argument("--no-export", action="store_true")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--missing", action="store_true", help="only families that the table has not")
    parser.add_argument("--jobs", type=int, default=1, help="families that are tried at once")
    options = parser.parse_args()
    rows = read_table(options.table)
    wanted = {
        family: names
        for family, names in ({name: [name] for name in options.network} or families()).items()
        if re.search(options.only, family) and not (options.missing and family in rows)
    }
    failed = 0
    fork = multiprocessing.get_context("fork")
    with ThreadPoolExecutor(options.jobs) as threads:

        def alone(family: str) -> tuple[Row, float]:
            with ProcessPoolExecutor(1, fork) as process:
                try:
                    return process.submit(try_family, family, wanted[family], export=not options.no_export).result()
                except BrokenProcessPool:
                    return Row(family, wanted[family][0], result="defect: its process was killed"), 0.0

        for row, seconds in threads.map(alone, wanted):
            failed += row.result not in ("ok", NOT_TRIED)
            rows[row.family] = row
            print(f"{row.family:32} {row.network:44} {row.result}  ({seconds:.0f} s)", flush=True)
            write_table(options.table, rows)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
