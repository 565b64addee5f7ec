"""Code of users that misbehaves, for the fuzz harness: networks that a command is run on as a user would.

Every network knows the classes; what it does wrong, where and when is drawn by number. A command must end with an
answer, or with an error of the user's and its exit code: never with "a defect in harden", a traceback, or exit code 0
without what it was to make.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from harden.cli.app import program
from harden.errors import ModelError

FORWARDS = {
    "nothing": "pass",
    "raises": "raise ValueError('odd')",
    "raises a base": "raise type('Odd', (BaseException,), {})('odd')",
    "raises what cannot be printed": "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "raises StopIteration": "raise StopIteration",
    "raises click's exit": "import click; raise click.exceptions.Exit(0)",
    "raises typer's abort": "import typer; raise typer.Abort",
    "interrupts": "raise KeyboardInterrupt",
    "recurses": "return self.forward(x)",
    "exits": "import sys; sys.exit(0)",
    "exits quietly": "import sys; sys.exit()",
    "exits hard": "import os; os._exit(0)",
    "runs out of memory": "raise MemoryError",
    "wants memory": "torch.empty(2**60)",
    "gives None": "return None",
    "gives words": "return 'scores'",
    "gives an array": "return s.detach().numpy()",
    "gives labels": "return s.argmax(1)",
    "gives one row": "return s[:1]",
    "gives no row": "return s[:0]",
    "gives no column": "return s[:, :0]",
    "gives a column": "return s[:, :1]",
    "gives a number": "return s.sum()",
    "gives a map": "return s[:, :, None, None].expand(-1, -1, 4, 4)",
    "gives a pooled map": "return s[:, :, None, None]",
    "gives boxes": "return [{'boxes': s, 'labels': s}]",
    "gives more": "return torch.cat([s, s], 1)",
    "gives any number": "return s[:, : int(torch.randint(1, 5, ()))]",
    "gives a pair": "return torch.zeros(len(x), 9), s",
    "gives a dictionary": "return {'features': torch.zeros(len(x), 9), 'probs': s.softmax(1), 'out': s}",
    "gives itself": "d = {}; d['d'] = d; return d",
    "gives nan": "return s * float('nan')",
    "gives inf": "return s / 0",
    "gives some nan": "return torch.where(s == s.max(), torch.nan, s)",
    "gives huge": "return s * 1e38",
    "gives integers": "return s.long()",
    "gives bools": "return s > 0",
    "gives halves": "return s.half()",
    "gives doubles": "return s.double()",
    "gives complex": "return torch.complex(s, s)",
    "gives meta": "return s.to('meta')",
    "gives sparse": "return s.to_sparse()",
    "gives quantised": "return torch.quantize_per_tensor(s.detach(), 0.1, 0, torch.qint8)",
    "gives inference": "\n        with torch.inference_mode():\n            return self.net(x)",
    "gives detached": "return s.detach()",
    "gives a leaf": "return s.detach().requires_grad_()",
    "gives the same": "self.kept = getattr(self, 'kept', s); return self.kept",
    "changes its input": "x.fill_(0.5); return s",
    "changes its scores": "s[:] = 0; return s",
    "changes its weights": "\n        with torch.no_grad():\n            self.net[-1].weight.add_(1)",
    "loses a layer": "self.net = None",
    "gains a layer": "self.more = nn.Linear(2, 2)",
    "gains itself": "self.more = self",
    "freezes": "self.requires_grad_(False)",
    "changes its mode": "self.train(not self.training)",
    "turns gradients off": "torch.set_grad_enabled(False)",
    "turns doubles on": "torch.set_default_dtype(torch.float64)",
    "turns meta on": "torch.set_default_device('meta')",
    "turns determinism on": "torch.use_deterministic_algorithms(True)",
    "turns anomalies on": "torch.autograd.set_detect_anomaly(True, check_nan=False)",
    "turns warnings into errors": "import warnings; warnings.simplefilter('error')",
    "turns numpy strict": "import numpy; numpy.seterr(all='raise')",
    "warns": "import warnings; warnings.warn('odd')",
    "seeds": "torch.manual_seed(0)",
    "draws": "return s + torch.randn_like(s)",
    "takes threads": "torch.set_num_threads(1)",
    "starts a thread": "import threading; threading.Thread(target=lambda: None, daemon=True).start()",
    "leaves the folder": "import os; os.chdir('/')",
    "prints": "print('odd ' * 99)",
    "writes": "import sys; sys.stdout.write('{')",
    "closes standard output": "import sys; sys.stdout.close()",
    "closes standard error": "import sys; sys.stderr.close()",
    "takes standard output": "import sys; sys.stdout = None",
    "fails in backward": "s.register_hook(lambda g: 1 / 0) if s.requires_grad else None",
    "exits in backward": "import os; s.register_hook(lambda g: os._exit(0)) if s.requires_grad else None",
    "cuts backward": "s.register_hook(lambda g: g[:1]) if s.requires_grad else None",
}
"""What a forward does once it has its scores `s` of images `x`; it returns `s` where it returns nothing itself."""

METHODS = ("state_dict", "named_parameters", "parameters", "train", "modules", "named_modules", "_apply")
"""Methods of torch's that a network may have its own of."""

BUILDS = {
    "raises": "raise RuntimeError('odd')",
    "exits": "import sys; sys.exit(0)",
    "exits hard": "import os; os._exit(0)",
    "nothing": "return None",
    "its class": "return Odd",
    "a tensor": "return torch.zeros(3)",
    "fewer": "return Odd(2)",
    "more": "return Odd(7)",
    "one": "return Odd(1)",
    "meta": "return Odd().to('meta')",
    "doubles": "return Odd().double()",
    "halves": "return Odd().half()",
    "lazy": "return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))",
    "script": "return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))",
    "nothing to train": "return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(3))",
    "without init": "return nn.Module.__new__(Odd)",
    "cyclic": "n = Odd(); n.net.add_module('owner', n); return n",
    "a None inside": "n = Odd(); n.register_module('absent', None); return n",
    "no modules": "n = Odd(); n.net.__dict__['_modules'] = None; return n",
    "a word inside": "n = Odd(); n.net._modules['word'] = 'word'; return n",
    "a sparse buffer": "n = Odd(); n.register_buffer('b', torch.eye(3).to_sparse()); return n",
    "a meta buffer": "n = Odd(); n.register_buffer('b', torch.zeros(3, device='meta')); return n",
    "frozen": "return Odd().requires_grad_(False)",
    "in eval mode": "return Odd().eval()",
    "a closure": "n = Odd(); n.then = lambda: 1; return n",
    "a lock": "import threading; n = Odd(); n.lock = threading.Lock(); return n",
    "strict": "import warnings; warnings.simplefilter('error'); torch.set_default_dtype(torch.float64); return Odd()",
}
"""What the callable that builds the network does."""

WHEN = {
    "always": "True",
    "at first": "self.calls == 1",
    "later": "self.calls > 6",
    "much later": "self.calls > 40",
    "of many images": "len(x) > 5",
    "in training": "self.training",
    "at rest": "not self.training",
    "with gradients": "torch.is_grad_enabled()",
}

COMMANDS = ("report", "report", "fit", "plan", "inspect", "export")

_NET = """import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self, outputs=3):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, outputs))
        self.calls = 0

    def forward(self, x{argument}):
        self.calls += 1
        s = self.net(x)
        if {when}:
            {then}
        return s
{method}
def build():
    {build}
"""


def network(number: int) -> bytes:
    """Return the code of the network of this number; its first line says which command is run on it."""
    chance = random.Random(number)
    then, when, build, method, argument = "pass", "True", "return Odd()", "", ""
    kind = chance.randrange(10)
    if kind < 7:
        then, when = FORWARDS[chance.choice(list(FORWARDS))], WHEN[chance.choice(list(WHEN))]
    elif kind < 8:
        name = chance.choice(METHODS)
        does = chance.choice(list(FORWARDS.values())[1:10])
        method = f"\n    def {name}(self, *given, **named):\n        {does}\n"
    elif kind < 9:
        build = BUILDS[chance.choice(list(BUILDS))]
    else:
        argument = chance.choice((", meta", ", meta, more", ", *, meta", ", meta=None", ", *meta"))
    return written(chance.choice(COMMANDS), then=then, when=when, build=build, method=method, argument=argument)


def written(
    command: str,
    *,
    then: str = "pass",
    when: str = "True",
    build: str = "return Odd()",
    method: str = "",
    argument: str = "",
) -> bytes:
    """Return the code of a network that `command` is run on."""
    then = then.replace("\n        ", "\n            ")
    code = _NET.format(argument=argument, when=when, then=then, method=method, build=build)
    return f"# {command}\n{code}".encode()


def open_network(path: Path) -> object:
    """Run the command that the code asks for on its network.

    Raises:
        HardenError: the command refuses it, in the right form.
        AssertionError: it does anything else than that and what it is for.
    """
    command = path.read_bytes().split(b"\n", 1)[0].decode()[2:]
    folder = path.parent
    code, out = folder / "odd.py", folder / "out"
    code.write_bytes(path.read_bytes())
    data, weights = _images(folder), _weights(folder)
    words = {
        "report": ["report", weights, "--data", data, "--attacks", "fgsm", "--samples", "9", "--eps", "0.1"],
        "fit": ["fit", weights, "--data", data, "--epochs", "1", "--method", "sat", "--source-attack", "fgsm"],
        "plan": ["fit", weights, "--data", data, "--epochs", "1", "--dry-run"],
        "inspect": ["inspect", weights, "--data", data],
        "export": ["export", weights, "--data", data, "--to", "safetensors", "--samples", "6"],
    }[command]
    words += ["--arch", f"{code}:build", "--mean", "0", "--std", "1", "--json"]
    words += ["--attacks", "fgsm", "--audit-samples", "6"] if command == "fit" else []
    words += ["--out", str(out)] if command not in ("inspect", "plan") else []
    try:
        status, printed, told = _run(words)
        left = sorted(file.name for file in out.iterdir()) if out.exists() else []
    finally:
        shutil.rmtree(out, ignore_errors=True)
    assert "defect in harden" not in told, told
    assert "Traceback" not in told, told
    assert status in (0, 1, 2, 130), f"exit code {status}: {told}"
    ended = status == 1 and printed and "ending" in json.loads(printed)  # a fit that hardened nothing says so
    if status == 0 or ended:
        json.loads(printed)
        wanted = {"report": "report.json", "fit": "report.json", "export": "model.safetensors"}.get(command)
        assert wanted is None or wanted in left, f"exit code {status} without {wanted}"
        return printed
    assert printed == "", printed
    assert "error: " in told
    assert "config.json" not in left or "checkpoint.pt" in left, f"a run folder without a checkpoint: {left}"
    raise ModelError(told)


def _run(words: list[str]) -> tuple[int, str, str]:
    printed, told = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(told),
        patch.object(sys, "argv", ["harden", *words]),
        torch.random.fork_rng(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            program(words[0])(words, standalone_mode=True)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        assert warnings.filters[0][0] != "error", "warnings are errors now"
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()
    return status, printed.getvalue(), told.getvalue()


def _images(folder: Path) -> str:
    """Return a folder of three classes that differ in the shade of gray."""
    root = folder / "imgs"
    if not root.exists():
        random_numbers = np.random.default_rng(0)
        for label in range(3):
            (root / "abc"[label]).mkdir(parents=True)
            for number in range(12):
                shade = 40 + 80 * label + random_numbers.integers(0, 20, (8, 8))
                Image.fromarray(shade.astype("uint8")).save(root / "abc"[label] / f"{number}.png")
    return str(root)


def _weights(folder: Path) -> str:
    """Return a file of weights that know these images."""
    path = folder / "weights.pth"
    if not path.exists():
        first, last = torch.zeros(8, 64), torch.zeros(3, 8)
        first[0] = 1 / 64  # the mean of the image
        last[0, 0], last[2, 0] = -20.0, 20.0
        bias = torch.tensor([20 * 0.35, 0.0, -20 * 0.66])
        tensors = (first, torch.zeros(8), last, bias)
        torch.save(dict(zip(("net.1.weight", "net.1.bias", "net.3.weight", "net.3.bias"), tensors, strict=True)), path)
    return str(path)
