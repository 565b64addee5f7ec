"""What a pickle may name: layers, a few values beside them, and torch's own description of tensors.

A name on a list is looked up in the file's text only; nothing is imported before the whole file has been read as data.
"""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import json
import re
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from harden.vision import import_timm, import_torchvision

LAYERS_FILE = "layers.json"
"""The layers of timm and torchvision, made by `python -m tests.models.make_pickle_names`."""

_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "selu", "silu", "mish", "hardtanh", "hardswish", "hardsigmoid")
FUNCTIONS = MappingProxyType(
    {
        "torch._C._nn.gelu": nn.functional.gelu,
        **{
            f"torch.nn.functional.{name}": getattr(nn.functional, name)
            for name in (*_ACTIVATIONS, "sigmoid", "tanh", "softmax")
        },
    }
)
"""Activation functions that a layer may keep, by name."""
TIMM_FUNCTIONS = frozenset(
    f"timm.layers.activations.{name}"
    for name in ("gelu", "gelu_tanh", "quick_gelu", "swish", "mish", "sigmoid", "tanh", "hard_swish", "hard_sigmoid")
)

KEPT_CLASSES = frozenset(
    {
        "torch.nn.modules.batchnorm.BatchNorm2d",
        "torch.nn.modules.normalization.LayerNorm",
        "torch.nn.modules.normalization.GroupNorm",
        "torch.nn.modules.activation.Hardswish",
        "torch.nn.modules.activation.GELU",
        "torch.nn.modules.activation.ReLU",
        "torch.nn.modules.activation.SiLU",
        "timm.models.nextvit.NextConvBlock",
        "timm.models.nextvit.NextTransformerBlock",
    }
)
"""Classes that networks of timm and torchvision keep, beside their layers, from the time when they were built."""
KEPT_UNDER = frozenset({"norm_layer", "_norm_layer", "act_layer", "stage_block_types"})
"""The attributes that have them. No network calls these once it is built."""

PARTIAL = "functools.partial"
GETATTR = "builtins.getattr"
BOUND = MappingProxyType(
    {("timm.models.fasternet.Partial_conv3", "forward"): frozenset({"forward_slicing", "forward_split_cat"})}
)
"""Methods of its own that a layer keeps under a name of the class, by class and name."""
DESCRIPTIONS = frozenset({"timm.models._features.FeatureInfo"})
"""Classes whose instances hold plain values only."""

ENUMS = frozenset({"timm.layers.format.Format"})

NUMPY_SCALAR = frozenset({"numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"})
NUMPY_DTYPE = "numpy.dtype"
_BESIDE_WEIGHTS = frozenset(
    {
        "argparse.Namespace",
        "builtins.frozenset",
        "builtins.range",
        "builtins.slice",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "decimal.Decimal",
        "numpy.ndarray",
        *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
        *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
        "uuid.UUID",
    }
)
"""What checkpoints hold beside weights, which nobody needs here: it is read as data, and left as such."""

_PARAMETER = "torch.nn.parameter.Parameter"
_CALLED = frozenset(
    {
        "collections.OrderedDict",
        "collections.Counter",
        "builtins.set",
        "builtins.complex",
        "_codecs.encode",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
        "torch._tensor._rebuild_from_type_v2",
        _PARAMETER,
        *(
            f"torch._utils._rebuild_{name}"
            for name in ("tensor", "tensor_v2", "tensor_v3", "qtensor", "parameter", "parameter_with_state")
        ),
    }
)
_TENSORS = frozenset(
    {
        "torch.Tensor",
        "torch.storage.UntypedStorage",
        *(f"torch.{name}" for name, value in vars(torch).items() if name.endswith("Storage")),
        *(str(value) for value in vars(torch).values() if isinstance(value, (torch.dtype, torch.qscheme))),
    }
)
"""What torch's own reader makes tensors of: it calls the former with arguments from the file, and never the latter."""

NOT_DENSE = MappingProxyType(
    {
        "torch._utils._rebuild_sparse_tensor": "sparse tensors",
        "torch._utils._rebuild_sparse_csr_tensor": "sparse tensors",
        "torch._utils._rebuild_nested_tensor": "nested tensors",
        "torch._utils._rebuild_meta_tensor_no_storage": "tensors on the meta device, which have a shape and no values",
        "torch.distributed.tensor.DTensor": "tensors that are spread over several processes (DTensor)",
        "torch.distributed._shard.sharded_tensor.api.ShardedTensor": "tensors that are spread over several processes",
    }
)
"""Ways of saying a tensor whose values are not all there, one after the other."""

_OLD_NAMES = (("timm.models.layers.", "timm.layers."),)


@functools.cache
def _layers() -> frozenset[str]:
    text = importlib.resources.files(__package__).joinpath(LAYERS_FILE).read_text(encoding="utf-8")
    listed = {f"{module}.{name}" for module, names in json.loads(text).items() for name in names}
    own = (getattr(nn.modules, name) for name in nn.modules.__all__)
    extra = (nn.DataParallel, nn.modules.linear.NonDynamicallyQuantizableLinear)
    return frozenset(listed | {f"{one.__module__}.{one.__qualname__}" for one in (*own, *extra)})


def is_layer(name: str) -> bool:
    """Return whether `name` is that of a layer which a file may have instances of."""
    return _today(name) in _layers()


def is_known(name: str) -> bool:
    """Return whether a pickle may name `name` at all."""
    beside = _BESIDE_WEIGHTS | NUMPY_SCALAR | DESCRIPTIONS | ENUMS | {NUMPY_DTYPE, PARTIAL, GETATTR}
    return name in _CALLED | _TENSORS or name in beside or name in FUNCTIONS or name in TIMM_FUNCTIONS or is_layer(name)


def is_read_by_torch(name: str) -> bool:
    """Return whether torch's reader makes what `name` stands for; everything else is read as data."""
    return name in _CALLED | _TENSORS


def may_be_called(name: str) -> bool:
    """Return whether a pickle may call `name`: torch's reader makes the parts of tensors, a stand-in keeps the rest."""
    return name in _CALLED or name in _BESIDE_WEIGHTS | NUMPY_SCALAR | ENUMS | {NUMPY_DTYPE, PARTIAL, GETATTR}


def may_be_made(name: str) -> bool:
    """Return whether a pickle may make instances of `name` without calling it."""
    return is_known(name) and (not is_read_by_torch(name) or name == _PARAMETER)


def resolve(name: str) -> Any:
    """Return the class or function behind a name that is on a list.

    Raises:
        LookupError: the library that is installed has no such name, or an import stands there instead of a definition.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    name = _today(name)
    module_name, _, attribute = name.rpartition(".")
    if name.startswith("timm."):
        import_timm()
    elif name.startswith("torchvision."):
        import_torchvision()
    try:
        found = vars(importlib.import_module(module_name))[attribute]
    except (ImportError, KeyError) as error:
        raise LookupError(name) from error
    if found.__module__ != module_name:
        raise LookupError(name)
    return found


def is_part_name(name: str) -> bool:
    """Return whether a submodule, parameter or buffer may have this name.

    Words and numbers, and words joined by hyphens as torchvision's RegNets have them ("block1-0"): some tools paste the
    names of layers into source text.
    """
    return re.fullmatch(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*", name) is not None


def _today(name: str) -> str:
    """Return what a name of an older release is called now."""
    for old, new in _OLD_NAMES:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
