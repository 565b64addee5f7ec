"""Damaged and hostile files and code, opened as users open them: every one is read or refused with a HardenError.

python -m tests.fuzz [--inputs 2000] [--seed 0] [--only images] [--keep FOLDER]

Inputs are random bytes and mutations of valid files, and networks that misbehave (`odd_networks`). Anything but an
answer or a HardenError is printed with the number that makes it again (`--seed N --inputs 1`), and the command fails.
The suite runs some of it (`test_fuzz.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import tempfile
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from harden.data import SplitPlan, open_data, plan_splits
from harden.data.dataset import Entry, Format
from harden.data.pictures import decode_pictures, look
from harden.errors import DataError, HardenError
from harden.models import load_model
from harden.models.torchscript import open_torchscript
from harden.recipe import find_recipe, read_recipe, resolve
from harden.report import document
from harden.training.checkpoint import read_checkpoint, write_checkpoint
from harden.workflows.run_folder import RunFolder
from tests.data.layouts import Names, Picture, as_csv, as_npz, as_webdataset, some_pictures
from tests.odd_networks import network, open_network
from tests.report.builders import build_report

Open = Callable[[Path], object]

NET = "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))\n"
SLOW_SECONDS = 10.0


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))


@dataclass(frozen=True)
class Target:
    """What is opened, and valid files to begin with; or what makes the input of a number.

    Attributes:
        cost: how many inputs of other targets take as long as one.
    """

    open: Open
    valid: Callable[[], list[bytes]] = list
    make: Callable[[int], bytes] | None = None
    cost: int = 1

    def input(self, valid: list[bytes], number: int) -> bytes:
        """Return the input of this number, from valid files."""
        return self.make(number) if self.make is not None else made(valid, number)


@dataclass
class Outcome:
    """Counts of a target, and what went wrong: (number of the input, error)."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return self.read + self.refused + len(self.failures)


# -- valid files -------------------------------------------------------------------------------------------------------


def _saved(write: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path)
        return path.read_bytes()


def weights() -> list[bytes]:
    state = small_net().state_dict()
    wrapped = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}
    return [
        _saved(lambda path: torch.save(state, path)),
        _saved(lambda path: torch.save(wrapped, path)),
        _saved(lambda path: torch.save(state, path, _use_new_zipfile_serialization=False)),
        _saved(lambda path: torch.save(small_net(), path)),
        save(state),
    ]


def scripts() -> list[bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(small_net())
        return [_saved(lambda path: torch.jit.save(script, str(path)))]


def checkpoints() -> list[bytes]:
    state = {"now": small_net().state_dict(), "epoch": 3, "records": [], "stopped": False}
    return [_saved(lambda path: write_checkpoint(state, path))]


def recipes() -> list[bytes]:
    names = ("fashion-mnist-fgsm", "paper-cifar10-pgd", "timm-vit")
    return [find_recipe(name).read_bytes() for name in names]


def pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    files = []
    for kind, mode in (
        ("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"),
        ("GIF", "P"), ("BMP", "RGB"), ("WEBP", "RGB"), ("TIFF", "RGB"), ("PPM", "RGB"),
    ):  # fmt: skip
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, kind)
        files.append(buffer.getvalue())
    return files


def configs() -> list[bytes]:
    description = {
        "version": 1,
        "origin": {"kind": "torchvision", "reference": "squeezenet1_1", "arguments": {"num_classes": 3}},
        "normalisation": {"name": "none", "mean": [0.0] * 3, "std": [1.0] * 3, "flip_channels": False},
        "classes": ["a", "b", "c"],
        "input_size": [3, 32, 32],
        "training": {"method": "adv4adv", "data": "digits", "eps": 0.1, "seed": 0},
    }
    return [json.dumps(description).encode()]


def splits() -> list[bytes]:
    entries = [Entry(f"{name}/{number}.png", label) for label, name in enumerate("ab") for number in range(3)]
    train, val, test = (tuple(entries[part::3]) for part in range(3))
    plan = SplitPlan(train=train, val=val, test=test, seed=0, how="as told")
    return [json.dumps(plan.to_json()).encode()]


def reports() -> list[bytes]:
    return [document.dumps(build_report(images=20)).encode()]


def _data_set(write: Callable[[Path, list[Picture]], tuple[str, Names]]) -> list[bytes]:
    """Return the file of a data set."""
    with tempfile.TemporaryDirectory() as folder:
        spec, _ = write(Path(folder), some_pictures())
        path = Path(spec.partition(":")[2] or spec)
        return [path.read_bytes() if path.is_file() else next(path.glob("*.tar")).read_bytes()]


# -- opening -----------------------------------------------------------------------------------------------------------


def open_weights(path: Path) -> object:
    net = path.with_name("net.py")
    net.write_text(NET)
    arch = None if b"torch.nn.modules" in path.read_bytes() else f"{net}:net"  # the whole network needs none
    return load_model(str(path), arch=arch, classes=3, in_channels=1, image_size=(8, 8))


def open_recipe(path: Path) -> object:
    return resolve(read_recipe(path), {"model": "timm:resnet18", "data": "imgs"})


def open_picture(path: Path) -> object:
    entry = Entry(path.name, 0)
    try:
        return look(lambda _: path, entry), decode_pictures(lambda _: path, [entry], Format(3, (8, 8)), where="a test")
    except DataError:
        return decode_pictures(lambda _: path.read_bytes(), [entry], Format(1, (4, 4)), where="a test")


def _as_data(scheme: str) -> Open:
    def open_set(path: Path) -> object:
        for picture in some_pictures() if scheme == "csv" else ():
            (path.parent / "pictures").mkdir(exist_ok=True)
            (path.parent / "pictures" / picture.name).write_bytes(picture.content)
        named = path.rename(path.with_suffix(".tar")) if scheme == "webdataset" else path
        source = open_data(f"{scheme}:{named}")
        entries = [entry for listed in source.listings.values() for entry in listed]
        return plan_splits(source, seed=0), source.fingerprint(entries), source.decode(entries, Format(3, (8, 8)))

    return open_set


def _in_run(name: str, read: Callable[[RunFolder], object]) -> Open:
    def open_run(path: Path) -> object:
        run = path.with_name("run")
        run.mkdir(exist_ok=True)
        shutil.copy(path, run / name)
        return read(RunFolder(run))

    return open_run


TARGETS = {
    "weights": Target(open_weights, weights),
    "scripts": Target(lambda path: open_torchscript(path, trust=False), scripts),
    "checkpoints": Target(read_checkpoint, checkpoints),
    "recipes": Target(open_recipe, recipes),
    "images": Target(open_picture, pictures),
    "configs": Target(_in_run("config.json", lambda run: (run.read_config(), run.build_classifier(None))), configs),
    "tables": Target(_as_data("csv"), lambda: _data_set(as_csv)),
    "arrays": Target(_as_data("npz"), lambda: _data_set(as_npz)),
    "shards": Target(_as_data("webdataset"), lambda: _data_set(as_webdataset)),
    "splits": Target(_in_run("splits.json", lambda run: run.read_splits()), splits),
    "reports": Target(document.read, reports),
    "odd networks": Target(open_network, make=network, cost=10),
}


# -- making inputs -----------------------------------------------------------------------------------------------------


def mutated(valid: bytes, chance: random.Random) -> bytes:
    """Return a damaged copy: cut, overwritten, repeated, bits turned, numbers and words exchanged."""
    data = bytearray(valid)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not data:
            break
        at = chance.randrange(len(data))
        length = min(len(data) - at, chance.choice((1, 2, 4, 8, 64, 1024)))
        match chance.randrange(7):
            case 0:
                del data[at:]
            case 1:
                del data[at : at + length]
            case 2:
                data[at] ^= 1 << chance.randrange(8)
            case 3:
                data[at : at + length] = chance.randbytes(length)
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                data[at : at + length] = chance.choice((b"\x00", b"\xff", b"\x7f")) * length
            case 6:
                words = (b"null", b"-1", b"1e999", b"[]", b'""', b"{}", b"true", b"nan", b"99999999999999999999")
                data[at : at + length] = chance.choice(words)
    return bytes(data)


def rearranged(document: Any, chance: random.Random) -> Any:
    """Return a document (of JSON or TOML) in which something is of another type, out of range, or gone."""
    if isinstance(document, dict | list) and document and chance.randrange(5):
        copied = document.copy()
        key = chance.choice(list(copied) if isinstance(copied, dict) else range(len(copied)))
        if chance.randrange(6) == 0:
            del copied[key]
        else:
            copied[key] = rearranged(copied[key], chance)
        return copied
    odd = (
        "",
        "../../x",
        "9" * 400,
        -1,
        0,
        2**70,
        1e308,
        float("nan"),
        True,
        [],
        {},
        [[]],
        ["a"],
        {"a": 1},
        [1, 2, 3, 4],
    )
    return chance.choice(odd)


def made(valid: list[bytes], number: int) -> bytes:
    """Return the input of this number: random bytes, a damaged valid file, or a whole one that says something odd."""
    chance = random.Random(number)
    file = chance.choice(valid)
    if chance.randrange(8) == 0:
        return file[: chance.choice((0, 2, 4, 8, 16))] + chance.randbytes(chance.choice((0, 1, 16, 300)))
    for read, write in ((json.loads, json.dumps), (tomllib.loads, tomli_w.dumps)):
        with contextlib.suppress(ValueError):
            document = read(file.decode())
            if chance.randrange(4):
                for _ in range(chance.choice((1, 1, 2))):
                    document = rearranged(document, chance)
                return write(document if isinstance(document, dict) else {"a": document}).encode()
    return mutated(file, chance)


def fuzz(name: str, inputs: int, *, seed: int = 0, keep: Path | None = None) -> Outcome:
    """Open the valid files of one target, which must succeed, and `inputs` others; the first has the number `seed`."""
    target, outcome = TARGETS[name], Outcome()
    valid = target.valid()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input"
        for file in valid:
            path.write_bytes(file)
            target.open(path)
        for number in range(seed, seed + inputs):
            path.write_bytes(target.input(valid, number))
            began = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    target.open(path)
                outcome.read += 1
            except HardenError:
                outcome.refused += 1
            except Exception as error:
                outcome.failures.append((number, f"{type(error).__name__}: {str(error)[:200]}"))
                if keep is not None:
                    shutil.copy(path, keep / f"{name}-{number}")
            took = time.perf_counter() - began
            outcome.slowest = max(outcome.slowest, took)
            if took > SLOW_SECONDS:
                outcome.failures.append((number, f"took {took:.0f} s"))
    return outcome


@contextmanager
def own_home() -> Iterator[None]:
    """Keep what opening files remembers out of the user's home."""
    with tempfile.TemporaryDirectory() as home:
        before = {name: os.environ.get(name) for name in ("HARDEN_CACHE", "HARDEN_STATE")}
        os.environ |= dict.fromkeys(before, home)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def main() -> int:
    parser = argparse.ArgumentParser(description="Open damaged and hostile files.")
    parser.add_argument("--inputs", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    total = failed = 0
    with own_home():
        for name in [options.only] if options.only else TARGETS:
            outcome = fuzz(name, max(1, options.inputs // TARGETS[name].cost), seed=options.seed, keep=options.keep)
            total, failed = total + outcome.inputs, failed + len(outcome.failures)
            print(f"{name:12} {outcome.inputs:6} inputs: {outcome.read} read, {outcome.refused} refused, "
                  f"{len(outcome.failures)} failed, slowest {outcome.slowest:.2f} s", flush=True)  # fmt: skip
            for number, error in outcome.failures[:10]:
                print(f"    {number}: {error}")
    print(f"{total} inputs tried, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
