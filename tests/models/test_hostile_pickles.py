"""Pickles that are made to run code, or to take all memory: none of them does, and each is refused.

Every gadget is put at every place of a file where a value can stand, in every format that is read.
"""

import functools
import importlib
import io
import operator
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from harden.errors import HardenError, ModelError, UnsafeInputError
from harden.models import load_model, rebuild
from harden.models.origin import Origin
from harden.models.pickled import load_pickled, read_pickle
from harden.models.pickles import scan
from harden.training.checkpoint import read_checkpoint
from tests.test_archives import zipped

MARKER = "marker-of-a-hostile-file"
COMMAND = f"touch {MARKER}"
CODE = f"open({MARKER!r}, 'w').write('ran')"
RETYPED = torch._tensor._rebuild_from_type_v2  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Gadget:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def nested() -> bytes:
    stream = io.BytesIO()
    torch.save(Gadget(os.system, COMMAND), stream)
    return stream.getvalue()


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))


def with_state(**state: object) -> nn.Module:
    module = small()
    vars(module).update(state)
    return module


def with_part(table: str, name: str, part: object) -> nn.Module:
    module = small()
    vars(module)[table][name] = part
    return module


GADGETS: dict[str, Callable[[], object]] = {
    "os.system": lambda: Gadget(os.system, COMMAND),
    "exec": lambda: Gadget(exec, CODE),
    "eval": lambda: Gadget(eval, CODE),
    "import": lambda: Gadget(importlib.import_module, "this"),
    "getattr": lambda: Gadget(getattr, small(), "forward"),
    "getattr of a class": lambda: Gadget(getattr, nn.Linear, "forward"),
    "methodcaller": lambda: Gadget(operator.methodcaller, "system", COMMAND),
    "map": lambda: Gadget(map, os.system, [COMMAND]),
    "partial of system": lambda: functools.partial(os.system, COMMAND),
    "partial of a class": lambda: functools.partial(nn.Linear, 3, 4),
    "partial of a norm layer with a text": lambda: functools.partial(nn.LayerNorm, elementwise_affine="x"),
    "a call of a class": lambda: Gadget(nn.Linear, 3, 4),
    "a typed call of system": lambda: Gadget(RETYPED, os.system, nn.Linear, (COMMAND,), {}),
    "a typed call of a class": lambda: Gadget(RETYPED, nn.Linear, nn.Linear, (3, 4), {}),
    "a typed call of a partial": lambda: Gadget(RETYPED, functools.partial(nn.Linear), nn.Linear, (3, 4), {}),
    "a pickle in a pickle": lambda: Gadget(torch.storage._load_from_bytes, nested()),
    "torch.load": lambda: Gadget(torch.load, "x.pt"),
    "torch.hub": lambda: Gadget(torch.hub.load, "x", "y"),
    "torch.jit.load": lambda: Gadget(torch.jit.load, "x"),
    "generated source": lambda: torch.fx.symbolic_trace(small()),
    "a class of the file's own": lambda: SimpleNamespace(forward=1),
    "numpy.load": lambda: Gadget(np.load, "x", None, True),
    "a bytearray of 8 GB": lambda: Gadget(bytearray, 8 * 10**9),
    "a tensor of 40 GB": lambda: Gadget(torch.FloatTensor, 10**10),
    "a storage of 8 GB": lambda: Gadget(torch.UntypedStorage, 8 * 10**9),
    "forward": lambda: with_state(forward=nn.ReLU()),
    "forward by a function": lambda: with_state(forward=nn.functional.relu),
    "forward by a partial": lambda: with_state(forward=functools.partial(nn.LayerNorm, eps=1.0)),
    "call": lambda: with_state(__call__=nn.ReLU()),
    "class": lambda: with_state(__class__=nn.Linear),
    "state_dict": lambda: with_state(state_dict=nn.ReLU()),
    "a kept class elsewhere": lambda: with_state(other=nn.LayerNorm),
    "a forward hook": lambda: with_part("_forward_hooks", "0", nn.ReLU()),
    "a forward pre-hook": lambda: with_part("_forward_pre_hooks", "0", nn.functional.relu),
    "a backward hook": lambda: with_part("_backward_hooks", "0", nn.ReLU()),
    "a state dict hook": lambda: with_part("_state_dict_hooks", "0", nn.ReLU()),
    "a load hook": lambda: with_part("_load_state_dict_pre_hooks", "0", nn.ReLU()),
    "hooks of a new kind": lambda: with_state(_some_new_hooks={0: nn.ReLU()}),
    "a compiled call": lambda: with_state(_some_call_hook=nn.ReLU()),
    "source text as a name": lambda: with_part("_modules", f'x", exec("{CODE}") or "', nn.ReLU()),
    "source text as a parameter": lambda: with_part("_parameters", "x\n    import os", nn.Parameter(torch.ones(1))),
    "a name with a dot": lambda: with_part("_modules", "a.b", nn.ReLU()),
    "a weight norm": lambda: nn.utils.spectral_norm(nn.Linear(2, 2)),
    "modules of None": lambda: with_state(_modules=None),
    "a part named like a method": lambda: with_part("_modules", "forward", nn.ReLU()),
    "a part named like a setting": lambda: with_part("_parameters", "training", nn.Parameter(torch.ones(1))),
    "training by a number": lambda: with_state(training=0),
    "a function among the modules": lambda: with_part("_modules", "f", nn.functional.relu),
    "a number among the parameters": lambda: with_part("_parameters", "p", 3),
}

PLACES: dict[str, Callable[[object], object]] = {
    "alone": lambda it: it,
    "beside weights": lambda it: {"state_dict": small().state_dict(), "epoch": it},
    "among weights": lambda it: OrderedDict([*small().state_dict().items(), ("x", it)]),
    "in a list": lambda it: [[1, it]],
    "in a tuple": lambda it: {"args": (0, (it,))},
    "as a module": lambda it: {"model": with_part("_modules", "x", it)},
    "as an attribute": lambda it: with_state(x=it),
    "in an attribute's list": lambda it: with_state(x=[{"a": (it,)}]),
    "in a hidden attribute": lambda it: with_state(training=it),
    "as an averaged model": lambda it: {"model": small(), "model_ema": it},
    "on a tensor": lambda it: {"w": _attributed(torch.ones(2), it)},
    "on a parameter": lambda it: {"w": _attributed(nn.Parameter(torch.ones(2)), it)},
    "on a dictionary": lambda it: _attributed(OrderedDict(w=torch.ones(2)), it),
}


def _attributed(owner: Any, value: object) -> object:
    owner.attribute = value
    return owner


def old(content: object, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Callable[[object, Path], object]] = {
    "zip": torch.save,
    "legacy": old,
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    "pickle 4": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=4)),
    "checkpoint": lambda content, path: torch.save({"version": 2, "state": content}, path),
}


def open_any(path: Path) -> None:
    """Open a file in each way in which a command opens one."""
    for read in (
        lambda: load_pickled(path, trust=False),
        lambda: read_checkpoint(path),
        lambda: rebuild(Origin("pickled", path.name), skeleton_dir=path.parent),
        lambda: load_model(str(path), classes=2, in_channels=1, image_size=(4, 4)),
        lambda: load_model(str(path), arch="timm:resnet10t", classes=2, in_channels=1, image_size=(32, 32)),
    ):
        with pytest.raises(HardenError) as caught:
            read()
        assert caught.value.hint
        assert not Path(MARKER).exists()


@pytest.mark.parametrize("gadget", GADGETS)
def test_no_gadget_runs(gadget: str) -> None:
    torch.save(GADGETS[gadget](), "evil.pt")
    with pytest.raises(UnsafeInputError) as caught:
        read_pickle(Path("evil.pt"), trust=False)
    assert "--trust-pickle" in (caught.value.hint or "")
    open_any(Path("evil.pt"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(GADGETS)),
    st.lists(st.sampled_from(sorted(PLACES)), max_size=2),
    st.sampled_from(sorted(WRITERS)),
)
def test_no_gadget_runs_anywhere(gadget: str, places: list[str], writer: str) -> None:
    content = GADGETS[gadget]()
    for place in places:
        content = PLACES[place](content)
    path = Path("evil.pt")
    try:
        WRITERS[writer](content, path)
    except (AttributeError, pickle.PicklingError, TypeError):
        return  # Python refuses to write it
    try:
        read_pickle(path, trust=False)
    except (UnsafeInputError, ModelError):
        pass
    else:  # what a file attaches to tensors and dictionaries is dropped unseen
        assert any(place.startswith("on a") for place in places)
    assert not Path(MARKER).exists()


def test_the_places_themselves_are_harmless() -> None:
    """Each place holds a number without being refused, so that a refusal above is the gadget's."""
    for place in set(PLACES) - {"as a module", "in a hidden attribute"}:
        torch.save(PLACES[place](3), "fine.pt")
        read_pickle(Path("fine.pt"), trust=False)


def test_what_a_file_attaches_to_tensors_is_dropped() -> None:
    torch.save({"w": _attributed(torch.ones(2), {"detach": 3})}, "attached.pt")
    found = read_pickle(Path("attached.pt"), trust=False)
    assert isinstance(found, dict)
    assert vars(found["w"]) == {}


def test_a_layer_keeps_its_own_method_only() -> None:
    """FasterNet keeps a method of its own under the name of another; no other method can be kept so."""
    from harden.vision import import_timm

    layer = next(m for m in import_timm().create_model("fasternet_t0").modules() if type(m).__name__ == "Partial_conv3")
    torch.save(layer, "fine.pt")
    assert load_pickled(Path("fine.pt"), trust=False).forward.__name__ == "forward_split_cat"
    for method, owner in (("register_forward_hook", layer), ("forward_split_cat", small())):
        vars(layer)["forward"] = Gadget(getattr, owner, method)
        torch.save(layer, "evil.pt")
        with pytest.raises(UnsafeInputError):
            read_pickle(Path("evil.pt"), trust=False)


# -- files that ask for much -------------------------------------------------------------------------------------------


def many_tensors(path: Path) -> None:
    one = torch.ones(1)
    torch.save({str(n): one.view(1) for n in range(301)}, path)


def shared_values(path: Path) -> None:
    torch.save([torch.ones(1).expand(2**32)], path)


def overlapping_values(path: Path) -> None:
    whole = torch.ones(10**6)
    torch.save([whole[:-1] if n % 2 else whole.view(1000, 1000) for n in range(200)], path)


def declared_storage(path: Path) -> None:
    """A legacy file whose storage declares a billion values more than it has."""
    old({"w": torch.ones(300)}, path)
    content = path.read_bytes()
    assert content.count(b"M,\x01") == 2  # 300: of the storage, and of the shape
    path.write_bytes(content.replace(b"M,\x01", b"J" + struct.pack("<i", 2**30)))


def nested_tuples(path: Path) -> None:
    laughs: object = ("ha",)
    for _ in range(40):
        laughs = (laughs, laughs)
    torch.save([laughs], path)


def deep_lists(path: Path) -> None:
    deep: list[object] = []
    for _ in range(300):
        deep = [deep]
    torch.save(deep, path)


def encoded(path: Path) -> None:
    """Bytes that each call of an encoder doubles."""
    text = b"X" + struct.pack("<I", 3) + b"hex"
    calls = b"".join(b"c_codecs\nencode\n" for _ in range(30))
    path.write_bytes(b"\x80\x02" + calls + b"X" + struct.pack("<I", 4) + b"haha" + (text + b"\x86R") * 30 + b".")


def memo(path: Path) -> None:
    """An index that makes a reader hold room for all below it."""
    torch.save([1], path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["large/data.pkl"] = entries["large/data.pkl"].replace(b".", b"r" + struct.pack("<I", 2**28) + b".")
    path.write_bytes(zipped(entries))


def same_layers(path: Path) -> None:
    core: nn.Module = nn.ReLU()
    for _ in range(60):
        core = nn.Sequential(core, core)
    torch.save(core, path)


def long_keys(path: Path) -> None:
    key = tuple(range(10_000))
    torch.save({(key, n): n for n in range(1100)}, path)


def itself(path: Path) -> None:
    module = small()
    vars(module)["_modules"]["x"] = module
    torch.save(module, path)


@pytest.mark.parametrize(
    "write",
    [
        many_tensors,
        shared_values,
        overlapping_values,
        declared_storage,
        nested_tuples,
        deep_lists,
        itself,
        encoded,
        memo,
        same_layers,
        long_keys,
    ],
)
def test_small_files_that_ask_for_much_are_refused_before_they_get_it(
    write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "MOST_TENSORS", 300)
    write(Path("large.pt"))
    with pytest.raises((UnsafeInputError, ModelError)) as caught:
        read_pickle(Path("large.pt"), trust=False)
    assert not isinstance(caught.value.__cause__, MemoryError)
    assert caught.value.hint


def test_only_one_encoding_may_be_called() -> None:
    encoded(Path("large.pt"))
    with pytest.raises(UnsafeInputError, match=r"_codecs\.encode to hex"):
        read_pickle(Path("large.pt"), trust=False)


def test_each_storage_is_held_against_its_own_entry() -> None:
    """One that declares a little more than its entry holds, in an archive that holds more than all declare."""
    torch.save({"a": torch.ones(300), "b": torch.ones(5000)}, "fine.pt")
    with zipfile.ZipFile("fine.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert entries["fine/data.pkl"].count(b"M,\x01") == 2  # 300: of the storage, and of the shape
    entries["fine/data.pkl"] = entries["fine/data.pkl"].replace(b"M,\x01", b"M6\x01", 1)
    Path("large.pt").write_bytes(zipped(entries))
    with pytest.raises(UnsafeInputError, match="declares 1,240 bytes"):
        read_pickle(Path("large.pt"), trust=False)


def test_tensors_without_values_are_named() -> None:
    for tensor, word in ((torch.eye(3).to_sparse(), "sparse"), (torch.ones(2, device="meta"), "meta device")):
        torch.save({"w": tensor}, "w.pt")
        with pytest.raises(ModelError, match=word) as caught:
            read_pickle(Path("w.pt"), trust=False)
        assert "dense" in (caught.value.hint or "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_weights_come_as_numbers() -> None:
    weights = torch.linspace(-1, 1, 9)
    torch.save({"w": torch.quantize_per_tensor(weights, 0.01, 0, torch.qint8)}, "w.pt")
    found = read_pickle(Path("w.pt"), trust=False)
    assert isinstance(found, dict)
    assert torch.allclose(found["w"], weights, atol=0.01)
