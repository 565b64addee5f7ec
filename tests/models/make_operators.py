"""Makes the list of operators that a TorchScript may call anew: `python -m tests.models.make_operators`.

It has torch's operators on tensors, numbers, texts and lists of them, as far as they only compute. Operators that open
files, share memory, wait for other processes or change the state of the program are left out, and so are private ones
except those that `torch.jit.script` and `torch.jit.trace` write.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import torch

from harden import models
from harden.models.torchscript import OPERATORS_FILE
from harden.vision import import_torchvision

_NOT_COMPUTING = {"Storage", "RRef[t]", "Stream", "Future[t]", "Generator"}
"""Types of arguments that only operators with effects outside their result take."""
_EFFECTS = """
from_file save set_ wait manual_seed seed initial_seed backward get_gradients record_stream set_data requires_grad_
retain_grad retains_grad rename rename_ refine_names align_to align_as resize resize_ resize_as_ fork pin_memory
is_pinned get_autocast_dtype device_count
"""
_PRIVATE = """
_adaptive_avg_pool2d _add_relu _aminmax _batch_norm_impl_index _cast_Float _cast_Long _conj _convolution
_convolution_mode _infer_size _list_to_tensor _log_softmax _native_batch_norm_legit
_native_batch_norm_legit_no_training _native_multi_head_attention _pad_circular _pad_enum _prelu_kernel
_reshape_from_tensor _safe_softmax _scaled_dot_product_attention_math _set_item _shape_as_tensor _size_if_not_equal
_softmax _tensor_to_list _to_copy _transform_bias_rescale_qkv _transformer_encoder_layer_fwd _unique2 _unsafe_index
_unsafe_view _unwrap_optional _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm _weight_norm_interface
"""
_UNCHECKED = "backward|sparse|csr|csc|bsr|bsc|coo|ctc|segment|embedding_bag|nested|pack_padded|^set_|resize"
"""Parts of names of operators that do not check their indices, or make tensors of other layouts."""
_OF_LANGUAGE = """
Bool Complex ComplexImplicit Float FloatImplicit Int IntImplicit ScalarImplicit append capitalize center chr clear
copy count dict endswith extend find floordiv format get hex index insert isalnum isalpha isdecimal isdigit
isidentifier islower isprintable isspace istitle isupper items join keys len list ljust lower lstrip modf oct ord
partition pop popitem remove replace reverse rfind rindex rjust rpartition rsplit rstrip setdefault size slice sort
sorted split splitlines startswith str strip swapcase title update upper values zfill is_autocast_enabled
is_autocast_cpu_enabled warn dim device tensor as_tensor cuda cpu eq ne lt le gt ge neg bin factorial degrees radians
copysign gcd fabs trunc all any sum max min divmod mathremainder percentFormat range_length keepdim
"""
"""Operators of TorchScript on numbers, texts, lists and dictionaries."""
_PRIM = """
BroadcastMKLDNNTensors ConstantMKLDNNTensor mkldnn_convolution MKLDNNHardSwish MKLDNNHardSwish_ MKLDNNHardSigmoid
MKLDNNHardSigmoid_ MKLDNNClamp MKLDNNClamp_ MKLDNNLayerNorm MKLDNNLayerNorm_ MKLDNNRelu6 MKLDNNRelu6_
MKLDNNScalarMul MKLDNNScalarMul_
NumToTensor RaiseException Uninitialized abs data device dtype is_cuda is_nested is_quantized layout max min name
rangelist requires_grad shape tolist type unchecked_cast unchecked_unwrap_optional
"""
_BESIDE = {
    "prim": _PRIM.split(),
    "prepacked": ["conv2d_clamp_run", "conv2d_transpose_clamp_run", "linear_clamp_run"],
    "torchvision": ["deform_conv2d", "nms", "ps_roi_align", "ps_roi_pool", "roi_align", "roi_pool"],
}


def _is_documented(name: str) -> bool:
    """Return whether an operator is a function of Python's torch, or one of the language and of what it writes."""
    if name.startswith("_"):
        return name.startswith("__") or name in _PRIVATE.split()
    owners = (torch, torch.Tensor, torch.nn.functional, torch._C._nn)
    spelt = {name, name.rstrip("_")}
    return any(hasattr(owner, one) for owner in owners for one in spelt) or name in _OF_LANGUAGE.split()


def operators() -> dict[str, list[str]]:
    """Return the names by namespace."""
    import_torchvision()
    types: dict[tuple[str, str], set[str]] = defaultdict(set)
    for schema in torch._C._jit_get_all_schemas():
        space, _, name = schema.name.partition("::")
        types[space, name] |= {str(argument.type) for argument in schema.arguments}
    found = {
        space: sorted(
            name
            for (owner, name), taken in types.items()
            if owner == space
            and not taken & _NOT_COMPUTING
            and name not in _EFFECTS.split()
            and (space != "aten" or _is_documented(name))
            and not re.search(_UNCHECKED, name)
        )
        for space in ("aten", "quantized")
    }
    return {**found, **_BESIDE}


def main() -> None:
    """Write the list."""
    found = operators()
    path = Path(models.__file__).with_name(OPERATORS_FILE)
    path.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(", ".join(f"{len(names)} of {space}" for space, names in found.items()))


if __name__ == "__main__":
    main()
