"""Weight files: what people wrap around a state dict, what frameworks put before its keys, and what then fits."""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from harden.errors import ModelError, UnsafeInputError
from harden.models.formats import FileKind, kind_of, unsafe_archive
from harden.models.held import held_keys
from harden.models.loaded import one_line
from harden.models.pickled import is_averaged, read_pickle
from harden.models.pickles.scan import MOST_TENSORS, TooLargeError

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights")
_OTHER = ("optimizer", "optim", "scheduler", "scaler", "amp")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
_BODIES = ("backbone", "encoder", "trunk", "base", "body", "features", "feature_extractor", "extractor", "model", "net")
_HEADS = ("head.", "fc.", "classifier.", "linear.", "head.fc.")
"""What files call the two parts of a network that were made apart, and what networks call the last layer."""
_IGNORED = ("num_batches_tracked", "total_ops", "total_params", "n_averaged", "relative_position_index", "attn_mask")
"""Last parts of keys that older releases and profilers leave in files: constants, counters; never trained weights."""


class MisfitError(ModelError):
    """Weights whose names or shapes are not those of the network."""


_LISTED, _MOST_CANDIDATES = 16, 32
"""Items of a list that are looked at for a state dict, and state dicts of a file that are looked at."""


@dataclass(frozen=True)
class Candidate:
    """One reading of a weights file.

    Attributes:
        tensors: the state dict.
        wrapper: the keys that led to it in the file, "" if the file is the state dict itself.
        change: what was done to its keys, in words, "" if nothing.
        taken: the prefix that the tensors' keys had in the wrapper, "" if none was taken off.
        left: the prefixes of the keys that were left out when it was.
    """

    tensors: dict[str, Tensor]
    wrapper: str = ""
    change: str = ""
    taken: str = ""
    left: tuple[str, ...] = ()

    @property
    def averaged(self) -> bool:
        """Whether a wrapper or a prefix says that these are averaged (EMA) weights."""
        return any(is_averaged(part) for part in (*self.wrapper.split("."), *self.taken.split(".")))


def read_state_dict(path: Path, *, trust: bool = False) -> list[Candidate]:
    """Return the state dicts in `path`, the preferred one first (averaged (EMA) weights before raw ones).

    Floating-point tensors come as float32 on the CPU.

    Raises:
        ModelError: the file is empty, damaged, or holds no state dict.
        UnsafeInputError: it would run code (and `trust` is off).
    """
    content = read_safetensors(path) if kind_of(path) is FileKind.SAFETENSORS else read_pickle(path, trust=trust)
    return candidates_in(content, path)


def candidates_in(content: object, path: Path) -> list[Candidate]:
    """Return the state dicts in what was read from `path`; see `read_state_dict`.

    Raises:
        ModelError: there is none.
    """
    found = list(itertools.islice(_unwrap(content, "", depth=4), _MOST_CANDIDATES))
    found = [replace(candidate, tensors=_readable(candidate.tensors, path)) for candidate in found]
    if not found:
        keys = f" with the keys {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else ""
        raise ModelError(
            f"{path} holds no state dict: it is {type(content).__name__}{keys}",
            hint="save the weights with torch.save(model.state_dict(), FILE)",
        )
    return found


def sizes_in(candidate: Candidate) -> tuple[int | None, int | None]:
    """Return what weights say of their network: classes (rows of the last matrix), channels (of the first convolution).

    Both are guesses from the order of the keys; None where there is no such tensor.
    """
    heads = [tensor.shape[0] for tensor in candidate.tensors.values() if tensor.ndim in (2, 4)]
    stems = [tensor.shape[1] for tensor in candidate.tensors.values() if tensor.ndim == 4]
    return (heads[-1] if heads else None), (stems[0] if stems else None)


def weight_shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a state dict by key, without constants and counters that some files lack, mean and std."""
    held = held_keys(tensors)
    return {k: tuple(tensor.shape) for k, tensor in tensors.items() if not k.endswith(_IGNORED) and k not in held}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load a state dict that has the module's own keys, as `load_state_dict` does.

    A plain dictionary says nothing of the versions of its layers, and some (torchvision's MNASNet) refuse it for that;
    keys that are the module's own are of the module's own versions.
    """
    versioned = OrderedDict(tensors)
    versioned._metadata = getattr(module.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    module.load_state_dict(versioned, strict=True)


def fit_to(module: nn.Module, path: Path, *, trust: bool = False) -> tuple[str, ...]:
    """Load the weights in `path` into `module`, in place; return notes on what had to be done.

    The first reading of the file (wrapper, prefix) that matches the module's keys and shapes exactly is taken, averaged
    (EMA) weights before raw ones.

    Raises:
        ModelError: none matches, the weights are not finite, or the file is damaged.
        UnsafeInputError: the file would run code (and `trust` is off).
    """
    return fit_candidates(module, read_state_dict(path, trust=trust), path)


def fit_candidates(module: nn.Module, candidates: list[Candidate], path: Path) -> tuple[str, ...]:
    """Load the first of `candidates` that fits into `module`; see `fit_to`."""
    expected = module.state_dict()
    best: _Mismatch | None = None
    for candidate in candidates:
        for reading in sorted(readings(candidate, expected), key=lambda reading: not reading.averaged):
            mismatch = _compare(reading.tensors, expected)
            if not mismatch.count:
                _load(module, reading.tensors, expected, path)
                return _notes(reading, candidates, mismatch)
            if best is None or mismatch.count < best.count:
                best = mismatch
    if best is None:
        raise ModelError(f"{path} holds no weights")
    raise _no_fit(path, best, expected)


@dataclass(frozen=True)
class _Mismatch:
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dropped: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.shapes)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file of safetensors, on the CPU.

    Raises:
        ModelError: it is damaged.
        UnsafeInputError: it holds more tensors than any network has.
    """
    from safetensors.torch import load_file

    try:
        with path.open("rb") as file:
            named = len(json.loads(file.read(int.from_bytes(file.read(8), "little"))))
        if named > MOST_TENSORS:
            raise unsafe_archive(path, TooLargeError(f"it holds {named:,} tensors; no network has as many"))
        tensors: dict[str, Tensor] = load_file(str(path), device="cpu")
    except UnsafeInputError:
        raise
    except Exception as error:  # the Rust library raises a type of its own
        raise ModelError(
            f"{path} is truncated or not safetensors ({one_line(error)})", hint="download or copy the file again"
        ) from error
    return tensors


def _unwrap(content: object, wrapper: str, *, depth: int) -> Iterator[Candidate]:
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if isinstance(content, (list, tuple)) and depth:
        for number, item in enumerate(content[:_LISTED]):
            yield from _unwrap(item, f"{wrapper}[{number}]", depth=depth - 1)
        return
    if not isinstance(content, Mapping) or not depth:
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    others = [key for key in content if key not in tensors and not str(key).endswith("_extra_state")]
    if tensors and not others:
        yield Candidate(tensors, wrapper)
        return
    known = [*(key for key in content if is_averaged(key)), *(key for key in _WRAPPERS if key in content)]
    rest = [key for key in others if key not in known and not str(key).lower().startswith(_OTHER)]
    for key in (*known, *rest):
        yield from _unwrap(content[key], f"{wrapper}.{key}".lstrip("."), depth=depth - 1)
    if len(tensors) > len(others):  # a state dict with an epoch or the like among its keys
        yield Candidate(tensors, wrapper, "what is no tensor left out")


def _float32(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()


def _readable(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors as float32, each of them once, however often it stands in the file.

    Raises:
        ModelError: one is of a type that torch cannot convert.
    """
    try:
        return {key: _float32(value) for key, value in tensors.items()}
    except (NotImplementedError, RuntimeError) as error:
        kinds = ", ".join(sorted({str(value.dtype) for value in tensors.values()}))
        raise ModelError(
            f"{path} holds numbers of a type that torch cannot convert to float32 ({kinds})",
            hint="save the weights as float32: {name: tensor.float() for name, tensor in model.state_dict().items()}",
        ) from error


def readings(candidate: Candidate, expected: Mapping[str, Tensor]) -> Iterator[Candidate]:
    """Yield the candidate, then with prefixes taken off (the longest common ones first), then with one put on."""
    yield candidate
    queue = [candidate]
    seen = {(candidate.averaged, frozenset(candidate.tensors))}
    while queue:
        current = queue.pop(0)
        firsts = {key.partition(".")[0] + "." for key in current.tensors if "." in key}
        for prefix in sorted(firsts, key=lambda first: (first not in _PREFIXES, first)):
            inside = {
                key.removeprefix(prefix): value for key, value in current.tensors.items() if key.startswith(prefix)
            }
            whole = all(key.startswith(prefix) or key.endswith(_IGNORED) for key in current.tensors)
            left = "" if whole else f" ({len(current.tensors) - len(inside)} others left out)"
            reading = replace(
                _changed(current, inside, f"the keys had the prefix {prefix!r}, which was taken off{left}"),
                taken=current.taken + prefix,
                left=(*current.left, *sorted(firsts - {prefix})),
            )
            # The raw and the averaged weights have the same keys once their prefixes are off.
            found = (reading.averaged, frozenset(inside))
            usual = whole or prefix in _PREFIXES or is_averaged(prefix)
            if not inside or not usual or found in seen or len(seen) > 32:
                continue
            seen.add(found)
            yield reading
            queue.append(reading)
    yield from _joined(candidate, expected)
    for word in ("module", "_orig_mod"):
        inner = {".".join(p for p in key.split(".") if p != word): value for key, value in candidate.tensors.items()}
        if (candidate.averaged, frozenset(inner)) not in seen and len(inner) == len(candidate.tensors):
            yield _changed(candidate, inner, f"{word!r} was taken out of the keys")
    owners = {key.partition(".")[0] for key in expected}
    if len(owners) == 1:
        prefix = f"{owners.pop()}."
        added = {prefix + key: value for key, value in candidate.tensors.items()}
        yield _changed(candidate, added, f"the prefix {prefix!r} was put before the keys")


def _joined(candidate: Candidate, expected: Mapping[str, Tensor]) -> Iterator[Candidate]:
    """Yield readings of a file with a body and a head under two prefixes, for a network with one of them or none."""
    firsts = {key.partition(".")[0] for key in candidate.tensors}
    for body in firsts & set(_BODIES) if len(firsts) == 2 else ():
        (head,) = firsts - {body}
        inside = {k.removeprefix(f"{body}."): v for k, v in candidate.tensors.items() if k.startswith(f"{body}.")}
        rest = {k: v for k, v in candidate.tensors.items() if not k.startswith(f"{body}.")}
        owners = {key.rpartition(".")[0] for key in rest}
        taken = f"{owners.pop() if len(owners) == 1 else head}."
        rest = {key.removeprefix(taken): value for key, value in rest.items()}
        missing = {f"{key.rpartition('.')[0]}." for key in expected if key not in inside and "." in key}
        for name in dict.fromkeys((taken, "", *_HEADS, *sorted(missing))):
            tensors = inside | {f"{name}{key}": value for key, value in rest.items()}
            if len(tensors) == len(candidate.tensors):
                yield _changed(
                    candidate, tensors, f"the keys had the prefixes '{body}.' (taken off) and {taken!r} (now {name!r})"
                )


def _changed(candidate: Candidate, tensors: dict[str, Tensor], change: str) -> Candidate:
    return replace(candidate, tensors=tensors, change=f"{candidate.change}; {change}".removeprefix("; "))


def _compare(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> _Mismatch:
    missing = tuple(key for key in expected if key not in tensors and not key.endswith("num_batches_tracked"))
    held = held_keys(tensors)
    extra = [key for key in tensors if key not in expected and key not in held]
    shapes = {
        key: (tuple(tensors[key].shape), tuple(expected[key].shape))
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    }
    unexpected = tuple(key for key in extra if not key.endswith(_IGNORED))
    return _Mismatch(missing, unexpected, shapes, tuple(key for key in extra if key.endswith(_IGNORED)))


def _load(module: nn.Module, tensors: Mapping[str, Tensor], expected: dict[str, Any], path: Path) -> None:
    trained = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for key, tensor in tensors.items():
        judged = key in trained or key.endswith((".running_mean", ".running_var"))
        if judged and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(
                f"the weights in {path} are not finite: {key} has NaN or infinite values",
                hint="training had diverged when they were saved; use an earlier checkpoint",
            )
    # Keys that old files lack (counters of BatchNorm) keep the values they have in the module.
    load_into(module, {key: tensors.get(key, value) for key, value in expected.items()})


def _notes(reading: Candidate, candidates: list[Candidate], mismatch: _Mismatch) -> tuple[str, ...]:
    notes = []
    if reading.wrapper:
        notes.append(f"the weights were under the key {reading.wrapper!r}")
    others = [prefix for prefix in reading.left if (prefix in _PREFIXES if reading.averaged else is_averaged(prefix))]
    others += [
        other.wrapper or "the raw"
        for other in candidates
        if other.wrapper != reading.wrapper and other.averaged != reading.averaged
    ]
    if others and reading.averaged:
        notes.append(f"the file has averaged (EMA) and raw weights; the averaged ones were taken, not {others[0]!r}")
    elif others:
        notes.append(
            f"the file has averaged (EMA) weights too, under {others[0]!r}, but they do not fit the network as they "
            "are; the raw ones were taken"
        )
    if reading.change:
        notes.append(reading.change)
    if mismatch.dropped:
        notes.append(f"{len(mismatch.dropped)} keys without trained weights were left out ({mismatch.dropped[0]}, ...)")
    return tuple(notes)


def _no_fit(path: Path, mismatch: _Mismatch, expected: Mapping[str, Tensor]) -> MisfitError:
    shapes = mismatch.shapes
    last = next((key.rpartition(".")[0] for key in reversed(list(expected)) if not key.endswith(_IGNORED)), "")
    if shapes and not mismatch.missing and not mismatch.unexpected:
        first = next(iter(shapes))
        owner = first.rpartition(".")[0]
        only_rows = all(
            have[1:] == want[1:] and key.rpartition(".")[0] == owner for key, (have, want) in shapes.items()
        )
        if only_rows and _is_last(owner, last, expected):
            have, want = shapes[first]
            return MisfitError(
                f"the weights in {path} fit, except for the number of classes: their last layer ({owner}) has "
                f"{have[0]} classes, the network was built for {want[0]}",
                hint=f"use data with {have[0]} classes, or let --replace-head (of fit and compare) put a new "
                "last layer on it and train that first",
            )
    lines = [f"the weights in {path} do not fit the network:"]
    for title, keys in (
        ("the network has, the file lacks", list(mismatch.missing)),
        ("the file has, the network lacks", list(mismatch.unexpected)),
        ("other shapes (file, network)", [f"{k} {have} {want}" for k, (have, want) in shapes.items()]),
    ):
        if keys:
            more = f", ... ({len(keys)} in all)" if len(keys) > 5 else ""
            lines.append(f"  {title}: {', '.join(keys[:5])}{more}")
    return MisfitError("\n".join(lines), hint="does --arch build the network these weights belong to?")


def _is_last(owner: str, last: str, expected: Mapping[str, Tensor]) -> bool:
    usual = ("fc", "head", "classifier", "linear", "last_linear", "heads", "output", "out")
    matrices = [key.rpartition(".")[0] for key, tensor in expected.items() if tensor.ndim in (2, 4)]
    return owner == last or owner.partition(".")[0] in usual or (bool(matrices) and owner == matrices[-1])
