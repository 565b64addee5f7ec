"""Code that the user brings: what it raises, prints, changes and returns."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harden.errors import HardenError, ModelError, NoGradientError, UserCodeError
from harden.models.classifier import Classifier, network_scores
from harden.models.modes import require_trainable
from harden.models.outputs import scores_of
from harden.models.soundness import require_sound
from harden.models.user_code import user_code
from tests.attacks.nets import as_classifier


class Net(nn.Module):
    """A network of three classes whose forward does `then` with its scores."""

    def __init__(self, then: Callable[[Tensor], Any] = lambda scores: scores) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
            self.head = nn.Linear(4 * 36, 3)
        self.then = then

    def forward(self, images: Tensor) -> Any:
        return self.then(self.head(self.body(images)))


def classify(then: Callable[[Tensor], Any]) -> Classifier:
    return as_classifier(Net(then).eval(), classes=("a", "b", "c"))


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Strange(BaseException):
    pass


def raising(error: BaseException) -> Callable[[Tensor], Any]:
    def then(scores: Tensor) -> Any:
        raise error

    return then


def recursing(scores: Tensor) -> Any:
    return recursing(scores)


@pytest.mark.parametrize(
    "then",
    [
        raising(RuntimeError("broken")),
        raising(SystemExit(0)),
        raising(Strange("odd")),
        raising(UnprintableError()),
        raising(StopIteration()),
        lambda scores: sys.exit(0),
        lambda scores: os._exit(0),
        recursing,
    ],
)
def test_whatever_a_forward_raises_is_an_error_of_the_users_code_with_its_line(then: Callable[[Tensor], Any]) -> None:
    leave = os._exit
    with pytest.raises(UserCodeError, match=r"forward pass of 4 images of 1x8x8 failed: .*test_user_code.py, line \d+"):
        classify(then)(images())
    assert os._exit is leave


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ModelError("ours")])
def test_what_is_no_fault_of_the_code_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        classify(raising(error))(images())
    assert caught.value is error


def test_a_process_that_the_code_forked_may_end() -> None:
    with user_code("forking"):
        child = os.fork()
        if child == 0:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_an_exit_bound_while_the_code_is_imported_stays_harmless() -> None:
    with user_code("importing"):
        from os import _exit
    with pytest.raises(SystemExit, match=r"os._exit\(0\)"):
        _exit(0)


def changing(scores: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.use_deterministic_algorithms(True)
    torch.autograd.set_detect_anomaly(True)
    np.seterr(all="raise")
    os.chdir("/")
    warnings.simplefilter("error")
    sys.setrecursionlimit(12345)
    return scores


def test_what_a_forward_changes_for_the_whole_process_is_put_back(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)

    def state() -> tuple[Any, ...]:
        return (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_anomaly_enabled(),
            np.geterr(),
            Path.cwd(),
            list(warnings.filters),
            sys.getrecursionlimit(),
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own about anomaly detection
        before = state()
        classify(changing)(images())
        assert state() == before


def test_a_limit_on_the_batch_is_found_out() -> None:
    def limited(scores: Tensor) -> Tensor:
        if len(scores) > 10:
            raise ValueError("too many")
        return scores

    with pytest.raises(UserCodeError, match=r"takes 2 images at once and fails on 11: ValueError: too many"):
        classify(limited)(images(11))


def test_a_forward_that_wants_more_than_images_says_what() -> None:
    class Two(Net):
        def forward(self, images: Tensor, meta: Tensor, scale: float = 1.0) -> Any:  # type: ignore[override]
            return super().forward(images) + meta

    with pytest.raises(ModelError, match="its forward wants a second argument: meta"):
        network_scores(Two(), images())


@pytest.mark.parametrize(
    ("then", "says"),
    [
        (lambda s: None, "it returned None"),
        (lambda s: "yes", "it returned str without tensors"),
        (lambda s: s.detach().numpy(), "it returned ndarray without tensors"),
        (lambda s: s[:1], r"\(1, 3\).*"),
        (lambda s: torch.complex(s, s), "complex numbers"),
        (lambda s: s.argmax(1), "one number for each image"),
        (lambda s: s[:, :, None, None].expand(-1, -1, 5, 5), "scores for each pixel"),
        (lambda s: [{"boxes": torch.zeros(2, 4), "labels": torch.zeros(2)}], "boxes, as detectors do"),
        (lambda s: torch.cat([s, s], 1), "gave 6 scores for an image, and 3 were expected"),
        (lambda s: s.to("meta"), "scores on the device meta for images on cpu"),
        (lambda s: {"a": {"b": {"c": {"d": {"logits": s}}}}}, "without tensors"),
    ],
)
def test_outputs_that_are_no_scores_say_what_they_are(then: Callable[[Tensor], Any], says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        classify(then)(images())
    assert caught.value.hint


@pytest.mark.parametrize(
    "then",
    [
        lambda s: (torch.zeros(len(s), 9), s),
        lambda s: {"features": torch.zeros(len(s), 9), "out": s},
        lambda s: {"probabilities": s.softmax(1), "x": s},
        lambda s: {"prob": -s, "x": s},
        lambda s: (s.softmax(1), s),
        lambda s: {"aux": -s, "main": s},
        lambda s: [s, -s],
        lambda s: {"head": {"logits": s, "probs": s.softmax(1)}, "loss": torch.zeros(())},
        lambda s: s[:, :, None, None],
    ],
)
def test_the_part_with_as_many_columns_as_classes_and_no_probabilities_is_taken(then: Callable[[Tensor], Any]) -> None:
    assert torch.equal(classify(then)(images()), classify(lambda s: s)(images()))


def test_which_part_is_taken_is_decided_once() -> None:
    share = torch.tensor([[0.2, 0.3, 0.5]])
    readings: dict[Any, int] = {}
    first, second = share.log().expand(2, 3), share.expand(2, 3)
    assert scores_of((second, first), classes=3, readings=readings) is not second
    taken = scores_of((second, second + 0), classes=3, readings=readings)  # now both could be probabilities
    assert taken is not second


@pytest.mark.parametrize("shape", [(4, 1), (4,), (4, 1, 1, 1)])
def test_one_score_is_the_logit_of_the_second_of_two_classes(shape: tuple[int, ...]) -> None:
    z = torch.tensor([-1.0, 0.5, 2.0, -3.0])
    for output in (z.view(shape), (torch.zeros(4, 9), z.view(shape))):
        assert torch.equal(scores_of(output, images=4, classes=2), torch.stack([torch.zeros(4), z], 1))
    assert torch.equal(scores_of((z.view(shape), torch.ones(4, 2)), images=4, classes=2), torch.ones(4, 2))
    with pytest.raises(ModelError, match="one number for each image"):
        scores_of(z.view(4, 1), images=4, classes=3)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_scores_of_any_number_type_become_floats(kind: torch.dtype) -> None:
    scores = scores_of(torch.ones(2, 3).to(kind), images=2, classes=3)
    assert scores.is_floating_point()


def test_what_cannot_be_trained_is_refused_before_training() -> None:
    require_trainable(classify(lambda s: s))
    with pytest.raises(NoGradientError):
        require_trainable(classify(lambda s: s.detach().requires_grad_()))
    with pytest.raises(NoGradientError):
        require_trainable(classify(lambda s: (s > 0).float()))
    still = classify(lambda s: s)
    still.requires_grad_(False)
    with pytest.raises(ModelError, match="nothing to train"):
        require_trainable(still)

    def cut(scores: Tensor) -> Tensor:
        if scores.requires_grad:
            scores.register_hook(raising(ValueError("in backward")))
        return scores

    with pytest.raises(UserCodeError, match=r"backward pass failed: ValueError: in backward \(test_user_code.py"):
        require_trainable(classify(cut))


def cyclic() -> nn.Module:
    net = Net()
    net.body.add_module("owner", net)
    return net


def nested() -> nn.Module:
    net: nn.Module = nn.Linear(2, 2)
    for _ in range(300):
        net = nn.Sequential(net)
    return net


def without(field: str) -> nn.Module:
    net = Net()
    net.body.__dict__[field] = None
    return net


def holding(tensor: Any) -> nn.Module:
    net = Net()
    net.body._buffers["odd"] = tensor
    return net


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (cyclic, "'body.owner' contains itself"),
        (nested, "more than 200 levels"),
        (lambda: without("_modules"), "'body' .*no dictionary _modules"),
        (lambda: without("_buffers"), "'body' .*no dictionary _buffers"),
        (lambda: nn.Module.__new__(nn.Module), "no dictionary _modules"),
        (lambda: holding(torch.zeros(3, device="meta")), "'body.odd' lies on the meta device"),
        (lambda: holding(torch.eye(3).to_sparse()), "'body.odd' is sparse"),
        (lambda: holding(3), "'body.odd' is int, not a tensor"),
    ],
)
def test_networks_that_cannot_be_walked_through_are_refused(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(HardenError, match=says) as caught:
        require_sound(make(), "net.py:build")
    assert caught.value.hint


def test_a_layer_may_be_used_twice_or_be_missing() -> None:
    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, nn.Sequential(shared))
    net.register_module("absent", None)
    require_sound(net, "net")
