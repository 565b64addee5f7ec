"""Comparing a model's logits on clean images with those under attack: clusters, domains, and a picture of both."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harden.attacks import Attack, Passes, frozen, run_attack
from harden.audit.representation import Domain, Representation
from harden.audit.runner import AuditProgress, batch_of
from harden.data import ImageSet, stratified_sample
from harden.models.classifier import Classifier
from harden.randomness import derive_seed, stream
from harden.stopping import ask

LIMIT = 500
"""Images that the figures are over, if there are so many."""
EMBEDDED = 250
"""Images of each domain in the picture."""
EMBEDDED_IN_ALL = 1250
"""Points in the picture, over all domains: t-SNE of so many takes a few seconds."""

_FOLDS = 5
_PERPLEXITY = 30.0
_STEPS = 500

Logits = NDArray[np.float64]
"""(n, K) scores of n images."""


def represent(
    classifier: Classifier,
    images: ImageSet,
    attacks: Sequence[Attack],
    *,
    seed: int = 0,
    limit: int = LIMIT,
    progress: AuditProgress | None = None,
) -> Representation:
    """Attack a stratified sample of the images and compare the logits, domain by domain.

    Every image of the sample counts, right or wrong when clean, as in the paper's Table 2. Each attack runs to its end
    and the strongest example is kept: one that has only just crossed the boundary would look nearer to the clean
    images than an attacker leaves it. Images whose scores are not finite in every domain are left out.

    Args:
        classifier: in eval mode meanwhile; its modes and parameters' flags are restored.
        images: N images.
        attacks: one domain each; an attack without gradients if the model has none.
        seed: of the sample, the attacks, the folds and the embedding.
        limit: images in the sample.
        progress: hears how far the attacks are; may raise to stop.
    """
    rows = stratified_sample(images.labels.cpu(), limit, generator=stream(seed, "representation"))
    sample = images.subset(rows)
    passes = Passes()
    expected = sum(attack.passes for attack in attacks) * len(sample)
    logits = [_logits(classifier, sample, None, seed, passes)]
    for attack in attacks:
        if progress is not None:
            passes.heard = _telling(progress, attack.name, passes, expected)
        logits.append(_logits(classifier, sample, attack, seed, passes))
    finite = np.all([np.isfinite(domain).all(axis=1) for domain in logits], axis=0)
    logits = [domain[finite] for domain in logits]
    labels = sample.labels.cpu().numpy()[finite]
    shown = stratified_sample(
        torch.from_numpy(labels),
        min(EMBEDDED, EMBEDDED_IN_ALL // len(logits)),
        generator=stream(seed, "representation", "shown"),
    ).numpy()
    points = embed([domain[shown] for domain in logits], seed=seed)
    own = [own_first(domain, labels) for domain in logits]
    domains = [
        Domain(
            name=attack.name if attack else "clean",
            silhouette=silhouette(domain, labels),
            domain_accuracy=told_apart(logits[0], domain, seed=seed) if attack else float("nan"),
            class_domain_accuracy=told_apart(own[0], ordered, seed=seed) if attack else float("nan"),
            points=placed,
        )
        for attack, domain, ordered, placed in zip((None, *attacks), logits, own, points, strict=True)
    ]
    return Representation(len(labels), labels[shown], tuple(domains))


def silhouette(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Return the mean silhouette coefficient of `logits` with the classes of `labels` (n,) as clusters, in [-1, 1].

    NaN where it is not defined: fewer than two classes, or no class with a second image.
    """
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(labels)) < len(labels):
        return float("nan")
    return float(silhouette_score(logits, labels))


def told_apart(clean: Logits, attacked: Logits, *, seed: int = 0) -> float:
    """Return how often a linear classifier tells `attacked` from `clean` (n, D) on images that it was not fitted on.

    Logistic regression on standardised values, in five folds over the images: both versions of an image are on the
    same side, else it could know the image. 0.5 is chance; NaN for fewer than two images.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    count = len(clean)
    if count < 2:
        return float("nan")
    folds = np.array_split(np.random.default_rng(derive_seed(seed, "folds")).permutation(count), min(_FOLDS, count))
    right = 0
    for held in folds:
        rest = np.setdiff1d(np.arange(count), held)
        values = np.concatenate((clean[rest], attacked[rest]))
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one that has not quite converged is a discriminator all the same
            model.fit(values, np.repeat((0, 1), len(rest)))
            right += int((model.predict(clean[held]) == 0).sum() + (model.predict(attacked[held]) == 1).sum())
    return right / (2 * count)


def own_first(logits: Logits, labels: NDArray[np.int64]) -> Logits:
    """Return `logits` (n, K) with that of the true class first and the others after it, largest first.

    So one classifier can learn from all classes together what a class-wise discriminator learns from its own.
    """
    own = np.arange(logits.shape[1]) == labels[:, None]
    others = np.sort(np.where(own, np.inf, -logits), axis=1)[:, :-1]
    return np.concatenate((logits[own][:, None], -others), axis=1)


def embed(domains: Sequence[Logits], *, seed: int = 0) -> list[NDArray[np.float32]]:
    """Return a t-SNE embedding (n, 2) of each domain, all of them embedded together after standardising.

    The same seed gives the same picture. All points lie at the origin where there is nothing to tell them apart.
    """
    from sklearn.manifold import TSNE

    values = np.concatenate(list(domains))
    spread = values.std(axis=0) if len(values) else np.zeros(values.shape[1])
    varying = spread > 1e-9
    if len(values) < 4 or not varying.any():
        return [np.zeros((len(domain), 2), dtype=np.float32) for domain in domains]
    values = (values[:, varying] - values[:, varying].mean(axis=0)) / spread[varying]
    method = TSNE(
        perplexity=min(_PERPLEXITY, (len(values) - 1) / 3),
        init="pca" if values.shape[1] > 1 else "random",
        max_iter=_STEPS,
        random_state=derive_seed(seed, "t-SNE") % 2**32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # identical points make its nearest neighbours and its start complain
        points = method.fit_transform(values.astype(np.float32))
    return list(np.array_split(np.nan_to_num(points).astype(np.float32), len(domains)))


def _logits(classifier: Classifier, images: ImageSet, attack: Attack | None, seed: int, passes: Passes) -> Logits:
    """Return the scores of the images, clean or under an attack."""
    found = []
    for number, rows in enumerate(torch.split(torch.arange(len(images)), batch_of(classifier.input_size))):
        ask()
        batch, labels = images.batch(rows)
        batch = batch.to(classifier.device)
        if attack is not None:
            generator = stream(seed, "representation", attack.name, number)
            batch = run_attack(
                attack,
                classifier,
                batch,
                labels.to(classifier.device),
                generator=generator,
                passes=passes,
                drop_fooled=False,
            ).images
        with frozen(classifier) if isinstance(classifier, nn.Module) else nullcontext(), torch.no_grad():
            found.append(classifier(batch).double().cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, len(classifier.classes)))


def _telling(progress: AuditProgress, name: str, passes: Passes, expected: int) -> Callable[[], None]:
    def tell() -> None:
        progress(name, passes.total, max(expected, passes.total))

    return tell
