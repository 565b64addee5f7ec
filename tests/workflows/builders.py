"""Small trained networks and runs that the tests of the workflows and of the command line share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harden.data import open_data
from harden.data.cache import decode_cached
from harden.data.dataset import Format

NET = """
from torch import nn

def net(num_classes=3, in_channels=3):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(512, 16), nn.ReLU(), nn.Linear(16, num_classes),
    )
"""


def build(outputs: int = 3) -> nn.Sequential:
    scope: dict[str, object] = {}
    exec(NET, scope)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return scope["net"](outputs)  # type: ignore[operator, no-any-return]


def pixels(data: Path) -> tuple[Tensor, Tensor]:
    source = open_data(str(data))
    entries = source.listings.get("train") or source.listings["all"]
    return decode_cached(source, entries, Format(3, (16, 16)))[0].batch(slice(None))


def trained(data: Path, order: tuple[int, ...] = (0, 1, 2), outputs: int = 3) -> nn.Sequential:
    """A network that knows the classes of `data`; class k has output order[k] of so many. Its inputs are in [0, 1]."""
    images, labels = pixels(data)
    labels = torch.tensor(order)[labels]
    module = build(outputs)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
        for _ in range(25):
            for rows in torch.randperm(len(images)).split(30):
                optimizer.zero_grad()
                F.cross_entropy(module(images[rows]), labels[rows]).backward()
                optimizer.step()
    return module.eval()


@dataclass
class Workshop:
    """A folder with images and one trained network in the forms that users have it in.

    Attributes:
        root: holds everything.
        data: three classes of 16 x 16 RGB images, train and test.
        pickled: the module, saved whole.
        weights: its state dict, under a `module.` prefix.
        arch: builds the network.
    """

    root: Path
    data: Path
    module: nn.Sequential = field(repr=False)

    @property
    def pickled(self) -> Path:
        return self.root / "model.pt"

    @property
    def weights(self) -> Path:
        return self.root / "weights.pth"

    @property
    def arch(self) -> str:
        return f"{self.root / 'net.py'}:net"


def open_workshop(root: Path, data: Path) -> Workshop:
    shop = Workshop(root, data, trained(data))
    torch.save(shop.module, shop.pickled)
    torch.save({"state_dict": {f"module.{k}": v for k, v in shop.module.state_dict().items()}}, shop.weights)
    (root / "net.py").write_text(NET)
    return shop


class Notebook:
    """A narrator that remembers, and dies like a killed process at a sentence that begins with `dies_at`."""

    def __init__(self, dies_at: str | None = None) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.tables: list[list[tuple[str, ...]]] = []
        self.tasks: list[str] = []
        self.dies_at = dies_at

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def heading(self, text: str) -> None:
        self.note(text)

    def note(self, text: str) -> None:
        self.lines.append(text)
        if self.dies_at is not None and text.startswith(self.dies_at):
            raise SystemExit("killed")

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def table(self, columns: object, rows: object) -> None:
        self.tables.append([tuple(row) for row in rows])  # type: ignore[attr-defined]

    def progress(self, task: str, done: int, total: int, detail: str = "") -> None:
        if task not in self.tasks:
            self.tasks.append(task)
