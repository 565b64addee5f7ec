"""Everything that decides a `harden fit`, resolved: what the command line and a recipe come to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from harden.data import Reading


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """The settings of one hardening run.

    Attributes:
        model: a weights file, a pickled module, `timm:NAME`, `torchvision:NAME`, `file.py:callable`, or a run folder.
        data: a folder of images, or what else `harden.data.open_data` takes.
        arch: the callable (or `timm:NAME`) that builds the network a weights file belongs to.
        trust_pickle: unpickle whatever the file asks for; runs code of whoever made it.
        class_map: output of the model for each class of the data, in the data's order; None: the same order.
        ignore_other_classes: leave out outputs of the model that `class_map` does not name; otherwise an answer of one
            of them counts as a wrong one.
        mean, std: normalisation per channel on the [0, 1] scale; None: found by the preflight.
        image_size: height and width in pixels; None: what the model's config.json says, else the data's own where all
            images share one, else 224.
        class_order: one of `harden.data.reading.ORDERS`, or the names of the classes in label order; None: the data's
            own order.
        gray_bits: how many bits of gray the images with more than 8 use; None: those of the run that is hardened
            further, else such images are refused.
        replace_head: put a new last layer on the model, with as many outputs as the data has classes.
        pretrain: epochs of clean training first, of the new last layer alone where there is one; None: ten for a
            network without weights, one or as many as make a hundred steps for a new last layer, else none.
        method: a key of `DEFENCES`.
        source_attack: keys of `CRAFTERS`, one for each adversarial domain; None: the method's own, or `DEFAULT_SOURCE`
            where its memory is not too large, else `FRUGAL_SOURCE`.
        static: models to craft on besides, for eat; none: two are trained, and kept beside the decoded images.
        eps: l_inf radius on the [0, 1] scale; None: 0.1 for gray images up to 32 pixels (as in the paper), else 4/255.
        beta, gamma: strength of the reversed gradient in feature and in logit space.
        classwise: class-wise discriminators, or a single one.
        shared_trunk: whether class-wise discriminators share their first layer; None: where they would outgrow the
            network.
        split: the layer whose output the feature discriminators see; None: see `default_split`.
        grl_warmup, lr_warmup, eps_ramp: shares of training over which beta and gamma, the learning rate and eps rise.
        accumulate: parts in which a step's images pass through the network, one after the other, to save memory.
        recompute: whether blocks of the network run again in backward passes instead of keeping what is inside them.
        sync_batchnorm: whether BatchNorm in training normalises by the images of all processes, not of each.
        shard: whether each of several processes keeps a part of the weights and of what belongs to them, not all.
        precision: what the network computes in while it is trained: "fp32", or "bf16" where it can.
        epochs: passes over the training images, or parts of one; None: 20, or what fits into `budget`.
        epoch_parts: parts that a pass is cut into, each an epoch of its own; None: one, or more where a budget holds so
            few passes that whole ones would leave much of it unused.
        budget: seconds that the whole run may take, selection and final audit included.
        batch_size: clean images per step; None: see `default_batch_size`.
        lr: peak learning rate of Adam; None: see `default_lr`.
        weight_decay: of Adam.
        ema: decay of the weight average that is selected and shipped.
        augment: a key of `AUGMENTATIONS`; None: "none" for gray images, else "flip+shift".
        freeze: patterns of parameter names that keep their values.
        on_collapse: "switch", "stop" or "keep".
        max_clean_drop: largest loss of clean validation accuracy that selection accepts, in [0, 1].
        selection_samples: validation images that the canary and the selection use.
        attacks: a preset's name, or names of attacks, for the audit at the end.
        audit_samples: images of the final audit; None: all test images, or what fits into `budget`.
        seed: of everything random.
        device: "auto", "cpu" or "cuda".
        track: keys of `TRACKERS`, which hear of every epoch besides metrics.jsonl.
    """

    model: str
    data: str
    arch: str | None = None
    trust_pickle: bool = False
    class_map: tuple[int, ...] | None = None
    ignore_other_classes: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    class_order: str | tuple[str, ...] | None = None
    gray_bits: int | None = None
    replace_head: bool = False
    pretrain: int | None = None
    method: str = "adv4adv"
    source_attack: tuple[str, ...] | None = None
    static: tuple[str, ...] = ()
    eps: float | None = None
    beta: float = 1.0
    gamma: float = 0.0
    classwise: bool = True
    shared_trunk: bool | None = None
    split: str | None = None
    grl_warmup: float = 0.1
    lr_warmup: float = 0.05
    eps_ramp: float = 0.15
    epochs: int | None = None
    epoch_parts: int | None = None
    budget: float | None = None
    batch_size: int | None = None
    accumulate: int = 1
    recompute: bool = False
    sync_batchnorm: bool = False
    shard: bool = False
    precision: str = "fp32"
    lr: float | None = None
    weight_decay: float = 0.0
    ema: float = 0.998
    augment: str | None = None
    freeze: tuple[str, ...] = ()
    on_collapse: str = "switch"
    max_clean_drop: float | None = None
    selection_samples: int = 1000
    attacks: tuple[str, ...] = ("full",)
    audit_samples: int | None = None
    seed: int = 0
    device: str = "auto"
    track: tuple[str, ...] = ()

    @property
    def reading(self) -> Reading:
        """What is said of how the data are read."""
        return Reading(class_order=self.class_order, gray_bits=self.gray_bits)

    def to_json(self) -> str:
        """Return them for another process of the same run; `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FitSettings:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        for key, value in values.items():
            values[key] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


DEFAULT_SOURCE = ("fgsm-ep",)
"""The only single-step one that never overfitted here with Adv-4-Adv (recipes/README.md)."""
FRUGAL_SOURCE = ("nfgsm",)
"""Instead of it where there are too many images to remember a perturbation of each."""
DEFAULT_EPOCHS = 20
DEFAULT_PRETRAIN = 10
HEAD_STEPS = 100
"""Steps that a new last layer is trained alone, at least."""


def as_recipe(settings: FitSettings, *, comment: str | None = None) -> str:
    """Return the settings as TOML, in the form of a recipe, below a comment of one line.

    Trust in a pickle is left out: nobody shall run its code because a recipe says so.
    """
    import tomli_w

    values = {key: value for key, value in asdict(settings).items() if value is not None and key != "trust_pickle"}
    text: str = tomli_w.dumps(
        {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    )
    return f"# {comment}\n{text}" if comment else text
