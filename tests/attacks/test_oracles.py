"""The arithmetic of each attack against independent code: torchattacks, twins written here, and one case by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchattacks
from torch import nn

from harden.attacks import FGSM, MIM, NFGSM, PGD, RFGSM, Objective, RandomStep, craft, run_attack
from harden.tensors import margins

from .nets import gen

EPS = 0.08
FLIPS = 1e-3
"""Share of pixels that may differ: where the gradient is zero but for rounding, its sign is a matter of the kernel."""


def assert_same_pixels(ours, theirs, allowed=FLIPS):
    assert (ours - theirs).abs().gt(1e-5).float().mean() <= allowed


def sign_gradient(net, at, labels):
    at = at.clone().requires_grad_(True)
    F.cross_entropy(net(at), labels, reduction="sum").backward()
    return at.grad.sign()


def test_the_net_is_worth_attacking(net, correct):
    images, labels = correct
    adversarial = craft(FGSM(eps=EPS), net, images, labels, generator=gen())
    assert 0.1 < (net(adversarial).argmax(1) == labels).float().mean() < 0.95


def test_fgsm_is_torchattacks_fgsm(net, correct):
    ours = craft(FGSM(eps=EPS), net, *correct, generator=gen())
    assert_same_pixels(ours, torchattacks.FGSM(net, eps=EPS)(*correct))


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_pgd_is_torchattacks_pgd(net, correct, steps):
    peer = torchattacks.PGD(net, eps=EPS, alpha=EPS / 10, steps=steps, random_start=False)
    ours = craft(PGD(eps=EPS, iterations=steps), net, *correct, generator=gen())
    assert_same_pixels(ours, peer(*correct))


def test_mim_is_torchattacks_mifgsm(net, correct):
    peer = torchattacks.MIFGSM(net, eps=EPS, alpha=EPS / 5, steps=10, decay=1.0)
    ours = craft(MIM(eps=EPS), net, *correct, generator=gen())
    assert_same_pixels(ours, peer(*correct))


def test_mim_without_momentum_is_pgd_and_with_it_is_not(net, correct):
    pgd = craft(PGD(eps=EPS, iterations=10, relative_step=0.2), net, *correct, generator=gen())
    without = craft(MIM(eps=EPS, decay=0.0), net, *correct, generator=gen())
    assert_same_pixels(without, pgd)
    momentum = craft(MIM(eps=EPS), net, *correct, generator=gen())
    assert (momentum - pgd).abs().gt(1e-5).float().mean() > 10 * FLIPS


def test_mim_weighs_every_image_by_its_own_gradient(net, correct):
    """Attacked alone or among others, an image becomes the same: the mean is per sample, not over the batch."""
    images, labels = correct[0][:8], correct[1][:8]
    together = craft(MIM(eps=EPS), net, images, labels, generator=gen())
    alone = [craft(MIM(eps=EPS), net, x[None], y[None], generator=gen()) for x, y in zip(images, labels, strict=True)]
    assert_same_pixels(together, torch.cat(alone))


def test_rfgsm_of_the_paper_steps_from_the_clean_image(net, correct):
    images, labels = correct
    noise = torch.randn(images.shape, generator=gen(4)).sign()
    start = (images + EPS / 2 * noise).clamp(0, 1)
    twin = (images + EPS * sign_gradient(net, start, labels)).clamp(0, 1)
    assert_same_pixels(craft(RFGSM(eps=EPS), net, images, labels, generator=gen(4)), twin)


def test_rfgsm_of_tramer_steps_from_the_random_point(net, correct):
    images, labels = correct
    noise = torch.randn(images.shape, generator=gen(4)).sign()
    start = (images + EPS / 2 * noise).clamp(0, 1)
    twin = (start + EPS / 2 * sign_gradient(net, start, labels)).clamp(0, 1)
    ours = craft(RFGSM(eps=EPS, variant=RandomStep.TRAMER), net, images, labels, generator=gen(4))
    assert_same_pixels(ours, twin)


def test_nfgsm_adds_twice_eps_of_noise_and_does_not_project(net, correct):
    images, labels = correct
    noise = (torch.rand(images.shape, generator=gen(4)) * 2 - 1) * 2 * EPS
    start = (images + noise).clamp(0, 1)
    twin = (start + EPS * sign_gradient(net, start, labels)).clamp(0, 1)
    assert_same_pixels(craft(NFGSM(eps=EPS), net, images, labels, generator=gen(4)), twin)


def test_pgd_with_a_random_start_starts_uniformly_in_the_ball(net, correct):
    images, labels = correct
    noise = (torch.rand(images.shape, generator=gen(4)) * 2 - 1) * EPS
    points = (images + noise).clamp(0, 1)
    for _ in range(3):
        points = points + EPS / 10 * sign_gradient(net, points, labels)
        points = (images + (points - images).clamp(-EPS, EPS)).clamp(0, 1)
    ours = craft(PGD(eps=EPS, iterations=3, random_start=True), net, images, labels, generator=gen(4))
    assert_same_pixels(ours, points)


def test_pgd_on_the_margin_follows_the_margin(net, correct):
    images, labels = correct
    points = images
    for _ in range(5):
        at = points.clone().requires_grad_(True)
        scores = net(at)
        own = scores[torch.arange(len(labels)), labels]
        best_other = (scores - 1e9 * F.one_hot(labels, 10)).amax(1)
        (gradient,) = torch.autograd.grad((best_other - own).sum(), at)
        points = points + EPS / 10 * gradient.sign()
        points = (images + (points - images).clamp(-EPS, EPS)).clamp(0, 1)
    attack = PGD(eps=EPS, iterations=5, raises=Objective.MARGIN)
    assert_same_pixels(craft(attack, net, images, labels, generator=gen()), points)


def test_fgsm_on_a_linear_model_by_hand():
    """w0 = (1, -2, 0, 3), w1 = 0: for label 0 the loss falls with s = w0.x, so x moves by -eps sign(w0)."""
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]]))
        linear.bias.zero_()
    model = nn.Sequential(nn.Flatten(), linear)
    images = torch.tensor([0.5, 0.5, 0.5, 0.05]).view(1, 1, 2, 2)
    fgsm = FGSM(eps=0.1)
    against_0 = craft(fgsm, model, images, torch.tensor([0]), generator=gen())
    torch.testing.assert_close(against_0.flatten(), torch.tensor([0.4, 0.6, 0.5, 0.0]))  # the last is cut at 0
    against_1 = craft(fgsm, model, images, torch.tensor([1]), generator=gen())
    torch.testing.assert_close(against_1.flatten(), torch.tensor([0.6, 0.4, 0.5, 0.15]))
    # s = .5 - 1 + .15 = -.35 at x: label 1 is right by .35. After the step s = .6 - .8 + .45 = .25: fooled by .25.
    found = run_attack(fgsm, model, images, torch.tensor([1]), generator=gen())
    assert found.predictions.tolist() == [0]
    assert found.margins.item() == pytest.approx(-0.25, abs=1e-6)


def test_margins_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [-1.0, -4.0, -2.0]])
    torch.testing.assert_close(margins(scores, torch.tensor([0, 1, 0])), torch.tensor([0.5, -2.0, 1.0]))


def test_half_precision_does_not_lose_the_gradient_in_a_large_batch():
    """The loss is summed: a mean over 4096 images would push gradients of 1e-5 below the least number of fp16."""
    weight = torch.tensor([[0.5, -0.5], [-0.5, 0.5]], dtype=torch.float16)

    class Half(nn.Module):
        def forward(self, images):
            return 11.5 * (images.flatten(1).half() @ weight)

    images = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2).repeat(4096, 1, 1, 1)
    labels = torch.zeros(4096, dtype=torch.int64)
    examples = craft(FGSM(eps=0.1), Half(), images, labels, generator=gen())
    torch.testing.assert_close(examples[0].flatten(), torch.tensor([0.9, 0.1]))
