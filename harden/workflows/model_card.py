"""What the model card of an export says: read from the run, its audits, and the proof of the files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harden.audit.metrics import Proportion, wilson
from harden.audit.result import AuditResult, ImageOrigin
from harden.data import name_of
from harden.export import EXPORTERS, PRECISIONS
from harden.export.any_size import OTHER_SIZE
from harden.export.card import CARD, Card, Figure
from harden.export.sample import Sample
from harden.files import write_whole
from harden.models.classifier import Classifier
from harden.report import document
from harden.report.beliefs import failures
from harden.report.ending import EndCause, Ending, EndStatus
from harden.report.figures import counted, threat, with_interval
from harden.report.report import SCHEMA, Report
from harden.workflows.defaults import eps_text
from harden.workflows.ending import ending_of
from harden.workflows.export_description import without_folders
from harden.workflows.prove import SQUARE, WHITE_BOX
from harden.workflows.run_files import read_run_file
from harden.workflows.run_folder import RunFolder

_WHAT = {
    EXPORTERS["safetensors"]: "weights (safetensors)",
    PRECISIONS["fp32"]: "ONNX, 32-bit floats, normalisation inside",
    PRECISIONS["fp16"]: "ONNX, 16-bit floats, normalisation inside",
    PRECISIONS["int8"]: "ONNX, 8-bit integers, normalisation inside",
}


def write_card(
    folder: Path,
    classifier: Classifier,
    run: RunFolder | None,
    metadata: Mapping[str, Any],
    models: Sequence[str],
    standing: Mapping[str, Mapping[str, int]],
    sample: Sample,
    proven_on: str,
    *,
    name: str,
    for_timm: bool,
) -> Path:
    """Write README.md into the folder of an export.

    Args:
        folder: where the export is made.
        classifier: the model.
        run: where it was trained; None where nothing is known of that.
        metadata: of the export.
        models: the files of the model.
        standing: per file, what was found of it on the sample.
        sample: the images beside it.
        proven_on: the data that these are of.
        name: what to call the model.
        for_timm: whether timm loads the weights by their config.json.

    Raises:
        RunFolderError: it cannot be written.
    """
    report = _audit_of(run) if run is not None else None
    config = run.read_config() if run is not None else {}
    training = config.get("training", {})
    ending = ending_of(run) if run is not None else None
    figures = _figures(report.subject) if report else _own_figures(standing["model"], sample)
    data = name_of(training["data"] if training else proven_on)
    card = Card(
        name=name,
        library="timm" if for_timm else "pytorch",
        dataset=data if report else name_of(proven_on),
        summary=_summary(classifier, training, data, ending),
        training=_training(classifier, training, metadata, report),
        headline=_headline(report, sample, data if report else name_of(proven_on)),
        figures=figures,
        limits=_limits(report, models, sample, ending),
        files=tuple((file, _WHAT[file], _found(standing.get(file), len(sample))) for file in models),
        loading=_loading(models, for_timm, "any_size" in metadata["input"]),
        reproduce=(
            f"# harden {metadata['harden']}; recipe.toml of the run has SHA-256 {metadata['recipe_sha256']}",
            *_command(config),
            "harden verify .     # in this folder",
        )
        if run is not None
        else ("harden verify .     # in this folder",),
    )
    return write_whole(folder / CARD, card.markdown())


def _command(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the line that trained the run, without the folders of this machine; none where it is not known."""
    typed = str(config.get("command", ""))
    try:
        words = shlex.split(typed)
    except ValueError:  # nobody's shell took this line
        words = typed.split()
    return (shlex.join(map(without_folders, words)),) if words else ()


def _audit_of(run: RunFolder) -> Report | None:
    """Return the report to quote: on test images of the run's own data, at its own eps; None without any.

    Of several it is the one of the most images, and of these the one in which the fewest stand.
    """
    training = run.read_config().get("training", {})
    found: list[Report] = []
    for path in [*sorted(run.path.glob("audit*/report.json")), run.path / "report.json"]:
        report = read_run_file(path, _of_this_version) if path.exists() else None
        if report is None:
            continue
        subject = report.subject
        outcomes = subject.outcomes
        if (
            outcomes
            and outcomes[0].norm == "linf"
            and outcomes[0].eps == training.get("eps")
            and subject.differentiable
            and _is_of_run(subject.origin, training.get("data"), own=path.parent == run.path)
        ):
            found.append(report)
    return min(found, key=lambda report: (-len(report.subject), report.subject.worst_case().value), default=None)


def _of_this_version(path: Path) -> Report | None:
    """Return the report at `path`; None if another version of the program wrote it."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, dict) and data.get("schema", SCHEMA) != SCHEMA:
        return None
    return document.read(path)


def _is_of_run(origin: ImageOrigin | None, data: str | None, *, own: bool) -> bool:
    """Whether a report is on test images of a run's data; its own report is, also one that does not say so."""
    if data is None:
        return False
    if origin is None:  # of an earlier version
        return own
    return origin.split == "test" and (origin.data == data or Path(origin.data).resolve() == Path(data).resolve())


def _which(result: AuditResult) -> str:
    """Say which images an audit is of: "100 of 10000 test images of the run"."""
    if result.origin is None:
        return f"{len(result)} test images"
    return f"{len(result)} of {result.origin.available} {result.origin.which}"


def _figures(result: AuditResult) -> tuple[Figure, ...]:
    """Return the worst case, every attack that had all images, the strongest first, and clean accuracy."""
    alone = [
        _figure(f"under {outcome.name}", outcome.exposure.value, result.robust_accuracy(outcome))
        for outcome in result.outcomes
        if outcome.complete
    ]
    worst = _figure(
        f"under the worst of {counted(len(result.outcomes), 'attack')}, image by image", "", result.worst_case()
    )
    clean = _figure("clean", "", result.clean_accuracy())
    return (worst, *sorted(alone, key=lambda figure: figure.value), clean)


def _own_figures(standing: Mapping[str, int], sample: Sample) -> tuple[Figure, ...]:
    """Return what was found on the way, of a model that was never audited here."""
    names = {WHITE_BOX: "under PGD-10", SQUARE: "under Square", "clean": "clean"}
    figures = [_figure(name, "", wilson(standing[kind], len(sample))) for kind, name in names.items()]
    return tuple(sorted(figures, key=lambda figure: figure.value))


def _figure(name: str, remark: str, found: Proportion) -> Figure:
    return Figure(name, remark, found.value, found.low, found.high, found.total)


def _summary(classifier: Classifier, training: Mapping[str, Any], data: str, ending: Ending | None) -> tuple[str, ...]:
    origin = classifier.origin
    network = origin.reference.rpartition("/")[2] if origin.kind == "factory" else f"{origin.kind} {origin.reference}"
    channels, height, width = classifier.input_size
    what = f"An image classifier ({network}) of {len(classifier.classes)} classes"
    takes = f"It takes {'gray' if channels == 1 else 'RGB'} images of {height} x {width} pixels, as floats in [0, 1]."
    if not training or ending is None:
        return (f"{what}. Nothing is known here of its training. {takes}",)
    if ending.cause is EndCause.BASELINE:
        return (f"{what}, trained on clean images of {data}. It was not hardened against attacks. {takes}",)
    attacks = " and ".join(training.get("source_attacks", ())) or "no attack"
    how = (
        f"against adversarial perturbations of {data} by {training['method']} with training examples of {attacks}, "
        f"l_inf eps {eps_text(training['eps'])} on the [0, 1] scale"
    )
    if ending.status is EndStatus.HARDENED:
        return (f"{what}, hardened {how}. {takes}",)
    return (f"{what}, trained {how}. {takes}", *_warned(ending))


def _warned(ending: Ending) -> tuple[str, ...]:
    """Return what the card says at its top of a model that is not known to be hardened."""
    if ending.status.is_failure:
        return (f"**This model was not hardened.** The run ended so: {ending.sentence()}",)
    return (f"It is not known what the training gained: {ending.reason}.",)


def _training(
    classifier: Classifier, training: Mapping[str, Any], metadata: Mapping[str, Any], report: Report | None
) -> tuple[tuple[str, str], ...]:
    if not training:
        return (("training", "not known"),)
    images = metadata["data"]["images"]
    weights = classifier.origin.weights
    rows = [
        ("method", str(training["method"])),
        ("attacks that training examples came from", ", ".join(training.get("source_attacks", ())) or "none"),
        ("attacks that the epoch was selected by", ", ".join(training.get("selection_attacks", ())) or "none"),
        ("perturbations", f"l_inf, eps {eps_text(training['eps'])}"),
        ("data", f"{name_of(training['data'])}: {images['train']} images trained on, {images['val']} selected on"),
        ("held out for the figures above", _which(report.subject))
        if report
        else ("held out", f"{images['test']} test images, which were not audited"),
        ("started from", weights.rpartition("/")[2] if weights else "random weights"),
        ("epochs", f"{training.get('epochs', '?')}, of which number {training.get('chosen_epoch', '?')} was chosen"),
        ("names and labels of the images, SHA-256", metadata["data"]["names_and_labels_sha256"]),
    ]
    return tuple(rows)


def _headline(report: Report | None, sample: Sample, data: str) -> str:
    if report is None:
        return (
            f"It was not audited; these figures are of the {len(sample)} images of {data} that the files "
            f"were compared on, at l_inf eps {eps_text(sample.eps)}."
        )
    subject = report.subject
    alone = [outcome.name for outcome in subject.all_strongest()]
    strongest = f" The strongest single attack is {alone[0]}." if len(alone) == 1 else ""
    if len(alone) > 1:
        strongest = f" No single attack leaves less than {', '.join(alone[:-1])} and {alone[-1]}."
    return (
        f"**{with_interval(subject.worst_case())} of {len(subject):,} images ({data}, {_which(subject)}) "
        f"withstand {_all_of(len(subject.outcomes))} at {threat(subject.outcomes)}**; clean accuracy is "
        f"{with_interval(subject.clean_accuracy())}.{strongest} An accuracy under attack is what these attacks left: "
        "a stronger one may leave less."
    )


def _all_of(attacks: int) -> str:
    return "the one attack" if attacks == 1 else f"every one of {attacks} attacks"


def _limits(report: Report | None, models: Sequence[str], sample: Sample, ending: Ending | None) -> tuple[str, ...]:
    limits = [
        f"Perturbations larger than l_inf eps {eps_text(sample.eps)}, and perturbations in other norms (l_2, l_1), "
        "patches, rotations or shifts: it was not trained for them.",
        "Attacks that were not tried. The figures are no certificate.",
        "Images of another kind than those it was trained on, and what happens to photographs (noise, blur, weather).",
    ]
    if ending is not None and ending.status.is_failure:
        limits.insert(0, f"The perturbations that it was trained on. {ending.sentence()}")
    if report is not None:
        limits += [
            f"Under {outcome.name} at {outcome.norm} eps {outcome.eps:g}, "
            f"{with_interval(report.subject.robust_accuracy(outcome))} of the images stand."
            for outcome in report.subject.shifts
        ]
        limits += [*report.caveats, *(f"{check.name}: {check.finding}" for check in failures(report.subject))]
    reduced = [file for file in (PRECISIONS["fp16"], PRECISIONS["int8"]) if file in models]
    if reduced:
        limits.append(
            f"{' and '.join(reduced)}: the audit above is of the model in 32-bit floats. These files met its "
            "adversarial examples and Square only."
        )
    return tuple(limits)


def _found(counts: Mapping[str, int] | None, total: int) -> str:
    if counts is None:
        return ""
    names = {"clean": "clean", "adversarial": "adversarial", SQUARE: "under Square", OTHER_SIZE: OTHER_SIZE}
    return ", ".join(f"{names[kind]} {count}" for kind, count in counts.items()) + f" of {total}"


def _loading(models: Sequence[str], for_timm: bool, any_size: bool) -> tuple[str, ...]:
    lines: list[str] = []
    for file in (file for file in PRECISIONS.values() if file in models):
        lines = [
            "import onnxruntime",
            f'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
            '(scores,) = session.run(None, {"images": images})     # (N, C, H, W) float32 in [0, 1]'
            + (", any H and W" if any_size else ""),
        ]
        break
    if EXPORTERS["safetensors"] in models:
        if for_timm:
            lines += ["import timm", 'network = timm.create_model("local-dir:.", pretrained=True).eval()']
        else:
            lines += [
                "from safetensors.torch import load_file",
                'network.load_state_dict(load_file("model.safetensors"))',
            ]
        lines.append('# it takes (images - mean) / std: see "normalisation" in config.json')
    return tuple(lines)
