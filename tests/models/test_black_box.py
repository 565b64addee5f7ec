"""Finished programs as black boxes: real files, run by the programs that will run them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from harden.attacks import Square, run_attack
from harden.audit.keeping import Keeping
from harden.data.dataset import ImageSet
from harden.errors import ModelError, UnsafeInputError
from harden.export.to_onnx import save_onnx
from harden.models.black_box import BlackBox, Program, taken_channels
from harden.models.classifier import Normalisation
from harden.models.onnx_program import open_onnx
from harden.models.outputs import are_probabilities
from harden.models.scoring_function import open_function
from harden.models.torchscript import open_torchscript
from tests.attacks.nets import DIGITS, as_classifier, gen, held_out, trained_cnn

PLAIN = Normalisation("inside", (0.0,), (1.0,))


def box_of(program: Program, *, probabilities: bool = False, normalisation: Normalisation = PLAIN) -> BlackBox:
    return BlackBox(
        program,
        normalisation=normalisation,
        classes=DIGITS,
        input_size=(1, 8, 8),
        probabilities=probabilities,
    )


def linear_onnx(
    path: Path, *, taken: list[Any], layout: str = "NCHW", batch: int | None = None, **extra: Any
) -> Tensor:
    """Write softmax(linear(image)) of 8 x 8 gray images to an ONNX file by hand; return the weights (64, 10)."""
    weights = torch.randn(64, 10, generator=gen(5))
    flat = numpy_helper.from_array(np.array([batch or -1, 64]), "flat")
    nodes = [helper.make_node("Reshape", ["x", "flat"], ["rows"]), helper.make_node("MatMul", ["rows", "w"], ["z"])]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [taken[0], 10])]
    if extra.get("softmax"):
        nodes.append(helper.make_node("Softmax", ["z"], ["p"], axis=1))
        outputs = [helper.make_tensor_value_info("p", TensorProto.FLOAT, [taken[0], 10])]
    if extra.get("label_first"):
        nodes.append(helper.make_node("ArgMax", ["z"], ["label"], axis=1, keepdims=0))
        outputs.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, [taken[0]]))
    if extra.get("only_label"):
        nodes.append(helper.make_node("ArgMax", ["z"], ["label"], axis=1, keepdims=0))
        outputs = [helper.make_tensor_value_info("label", TensorProto.INT64, [taken[0]])]
    inputs = [helper.make_tensor_value_info("x", extra.get("dtype", TensorProto.FLOAT), taken)]
    if extra.get("second"):
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, taken))
    graph = helper.make_graph(nodes, "g", inputs, outputs, [flat, numpy_helper.from_array(weights.numpy(), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if extra.get("metadata"):
        entry = model.metadata_props.add()
        entry.key, entry.value = "harden", json.dumps(extra["metadata"])
    onnx.save(model, str(path))
    return weights


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=gen(1))


# -- ONNX --------------------------------------------------------------------------------------------------------------


def test_an_export_of_ours_gives_the_classifiers_scores_and_takes_images_in_the_unit_range(tmp_path: Path) -> None:
    classifier = as_classifier(trained_cnn(), normalisation=Normalisation("0.5/0.5", (0.5,), (0.5,))).eval()
    metadata = {"classes": list(DIGITS), "input": {"range": [0, 1], "size": [1, 8, 8]}}
    save_onnx(classifier, tmp_path / "m.onnx", metadata)
    program = open_onnx(tmp_path / "m.onnx", classes=10, size=None)
    assert program.unit_range
    assert program.classes == DIGITS
    assert (program.channels, program.size) == (1, (8, 8))
    box = box_of(program)
    for count in (1, 7, 300):
        with torch.no_grad():
            expected = classifier(images(count))
        torch.testing.assert_close(box(images(count)), expected, atol=1e-4, rtol=1e-4)
    assert box(images(0)).shape == (0, 10)


@pytest.mark.parametrize("count", [1, 4, 11])
def test_a_fixed_batch_is_asked_in_padded_portions(count: int, tmp_path: Path) -> None:
    weights = linear_onnx(tmp_path / "m.onnx", taken=[4, 1, 8, 8], batch=4)
    program = open_onnx(tmp_path / "m.onnx", classes=10, size=None)
    assert not program.unit_range
    torch.testing.assert_close(box_of(program)(images(count)), images(count).flatten(1) @ weights)


def test_channels_last_are_turned_round_and_the_scores_found_among_the_outputs(tmp_path: Path) -> None:
    weights = linear_onnx(tmp_path / "m.onnx", taken=["n", 8, 8, 1], label_first=True)
    program = open_onnx(tmp_path / "m.onnx", classes=10, size=None)
    assert (program.channels, program.size) == (1, (8, 8))
    torch.testing.assert_close(box_of(program)(images(3)), images(3).flatten(1) @ weights)


@pytest.mark.parametrize(
    ("taken", "extra", "says"),
    [
        (["n", 1, 8, 8], {"second": True}, "takes 2 inputs"),
        (["n", 1, 8, 8], {"only_label": True}, "one number for each image"),
        (["n", 64], {}, "a batch of images as float"),
        (["n", 4, 4, 4], {}, "images of 4 channels"),
        (["n", 1, 8, 9], {}, "cannot take images"),
    ],
)
def test_what_is_no_image_classifier_is_refused(
    taken: list[Any], extra: dict[str, Any], says: str, tmp_path: Path
) -> None:
    linear_onnx(tmp_path / "m.onnx", taken=taken, **extra)
    with pytest.raises(ModelError, match=says) as caught:
        open_onnx(tmp_path / "m.onnx", classes=10, size=None)
    assert "\n" not in caught.value.message


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx", taken=["n", 1, 8, 8])
    (tmp_path / "m.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:200])
    with pytest.raises(ModelError, match="cannot load"):
        open_onnx(tmp_path / "m.onnx", classes=10, size=None)


# -- probabilities -----------------------------------------------------------------------------------------------------


def test_probabilities_become_logits_up_to_a_constant(tmp_path: Path) -> None:
    weights = linear_onnx(tmp_path / "m.onnx", taken=["n", 1, 8, 8], softmax=True)
    program = open_onnx(tmp_path / "m.onnx", classes=10, size=None)
    logits = images(20).flatten(1) @ weights
    raw = program.ask(images(20))
    assert are_probabilities(raw)
    assert not are_probabilities(logits)
    assert not are_probabilities(torch.rand(5, 10))
    given = box_of(program, probabilities=True)(images(20))
    assert torch.equal(given.argmax(1), raw.argmax(1))
    torch.testing.assert_close(given - given[:, :1], logits - logits[:, :1], atol=1e-3, rtol=1e-3)


def test_square_fools_saturated_probabilities_only_through_their_logarithms() -> None:
    """A softmax of logits times 40 rounds to 0 and 1; its plain margin is flat, the logarithm's is not."""
    net = trained_cnn()
    pixels, labels = held_out(40)

    def score(points: Tensor) -> Tensor:
        return (40 * net(points)).softmax(dim=1)

    def standing(probabilities: bool) -> int:
        box = box_of(Program("p", "function", score, "p"), probabilities=probabilities)
        examples = run_attack(Square(eps=0.1, queries=150), box, pixels, labels, generator=gen())
        return int((examples.predictions == labels).sum())

    assert standing(True) < standing(False)


# -- TorchScript -------------------------------------------------------------------------------------------------------


def save_script(module: nn.Module, path: Path, *, trace: bool = False, freeze: bool = False) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.trace(module, torch.zeros(2, 1, 8, 8)) if trace else torch.jit.script(module)
        torch.jit.save(torch.jit.freeze(script) if freeze else script, path)


@pytest.mark.parametrize("how", [{}, {"trace": True}, {"freeze": True}], ids=["script", "trace", "frozen"])
def test_torchscript_gives_the_networks_scores_in_eval_mode(how: dict[str, bool], tmp_path: Path) -> None:
    net = nn.Sequential(nn.Dropout(0.5), trained_cnn())
    net.train(not how.get("freeze", False))
    if how.get("trace"):
        net.eval()
    save_script(net, tmp_path / "m.pt", **how)
    trained_cnn().eval()
    program = open_torchscript(tmp_path / "m.pt", trust=False)
    assert taken_channels(program, 3, (8, 8)) == 1
    with torch.no_grad():
        expected = trained_cnn()(images(5))
    for _ in range(3):
        torch.testing.assert_close(box_of(program)(images(5)), expected)
    with pytest.raises(ModelError, match="cannot take images of shape 1x9x9"):
        program.ask(torch.zeros(2, 1, 9, 9))


class Spy(nn.Module):
    """Writes a file of the size that it likes, and answers with ten scores."""

    def forward(self, x: Tensor) -> Tensor:
        there = torch.from_file("planted.bin", True, 10)
        return x.flatten(1)[:, :10] + there


def test_torchscript_that_touches_files_is_not_even_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_script(Spy(), tmp_path / "m.pt")
    with pytest.raises(UnsafeInputError, match="from_file") as caught:
        open_torchscript(tmp_path / "m.pt", trust=False)
    assert "--trust-pickle" in (caught.value.hint or "")
    assert not (tmp_path / "planted.bin").exists()
    assert open_torchscript(tmp_path / "m.pt", trust=True).ask(images(2)).shape == (2, 10)


# -- functions ---------------------------------------------------------------------------------------------------------

FUNCTIONS = """
import numpy as np
import torch

def linear(images):
    assert isinstance(images, np.ndarray) and images.dtype == np.float32 and images.flags.c_contiguous
    scores = images.reshape(len(images), -1)[:, :10].copy()
    images *= 0  # its own copy
    return scores

def tensor(images):
    return torch.from_numpy(images).flatten(1)[:, :10].requires_grad_()

def lists(images):
    return [[0.0] * 10 for _ in images]

def one(images):
    return np.zeros((1, 10))

def labels(images):
    return np.zeros(len(images))

def words(images):
    return ["cat"] * len(images)

def breaks(images):
    return {}["cat"]

def other(images):
    return np.zeros((len(images), 7))

def broken(images):
    return np.full((len(images), 10), np.nan)
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("code") / "served.py"
    path.write_text(FUNCTIONS)
    return path


def test_functions_get_arrays_and_may_answer_in_several_ways(code: Path) -> None:
    asked = images(6)
    for name in ("linear", "tensor"):
        box = box_of(open_function(f"{code}:{name}"))
        answer = box(asked)
        assert torch.equal(answer, asked.flatten(1)[:, :10])
        assert not answer.requires_grad
    assert torch.equal(asked, images(6))
    assert box_of(open_function(f"{code}:lists"))(asked).shape == (6, 10)
    assert box_of(open_function(f"{code}:linear")).name == "served.py:linear"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("one", r"must return scores of shape \(3, classes\) for 3 images; it returned a tensor \(1, 10\)"),
        ("labels", r"it returned a tensor \(3,\) of float32: one number for each image"),
        ("words", "returned list, not scores"),
        ("breaks", r"calling served.py:breaks failed: KeyError: 'cat' \(served.py, line \d+\)"),
        ("other", "gave 7 scores for an image, and 10 were expected"),
    ],
)
def test_answers_are_checked(name: str, says: str, code: Path) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        box_of(open_function(f"{code}:{name}", classes=10))(images(3))
    assert caught.value.hint


def test_an_answer_that_is_no_number_counts_as_fooled(code: Path) -> None:
    box = box_of(open_function(f"{code}:broken"))
    examples = run_attack(Square(eps=0.1, queries=2), box, images(3), torch.tensor([0, 1, 2]), generator=gen())
    assert (examples.predictions != torch.tensor([0, 1, 2])).all()


def test_what_an_audit_keeps_is_kept_apart_by_the_file(code: Path, tmp_path: Path) -> None:
    audited = ImageSet((images(3) * 255).to(torch.uint8), torch.tensor([0, 1, 2]), ("a", "b", "c"))

    def paths(box: BlackBox) -> Path:
        keeping = Keeping(tmp_path, model=box, name="m", images=audited, seed=0)
        return keeping._path(Square(eps=0.1), torch.ones(3, dtype=torch.bool), 1)

    linear = box_of(open_function(f"{code}:linear"))
    assert paths(linear) == paths(box_of(open_function(f"{code}:linear")))
    others = [
        box_of(open_function(f"{code}:tensor")),
        box_of(open_function(f"{code}:linear"), probabilities=True),
        box_of(open_function(f"{code}:linear"), normalisation=Normalisation("given", (0.5,), (0.5,))),
    ]
    assert len({paths(box) for box in (linear, *others)}) == 4
