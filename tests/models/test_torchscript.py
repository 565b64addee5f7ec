"""TorchScript is code: what it calls is looked up in a list before torch loads it."""

import importlib.util
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from harden.errors import UnsafeInputError
from harden.models.torchscript import open_torchscript
from tests.test_archives import zipped

MARKER = "marker-of-a-hostile-file"

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SCRIPTS = {
    "from_file": "t = torch.from_file({marker!r}, shared=True, size=4, dtype=torch.float32)\n        y = y + t.sum()",
    "save": "torch.save(x, {marker!r})",
    "profiler": "torch.ops.profiler._record_function_enter({marker!r})",
    "another thread": "f = torch.jit.fork(torch.relu, x)\n        y = y + torch.jit.wait(f).sum()",
}


def scripted(body: str, tmp_path: Path) -> nn.Module:
    source = tmp_path / "scripted.py"
    source.write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        f"        self.fc = nn.Linear(4, 2)\n"
        f"    def forward(self, x):\n        y = self.fc(x.flatten(1))\n        {body}\n"
        "        return y\n"
    )
    spec = importlib.util.spec_from_file_location("scripted", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module.Net())  # type: ignore[no-any-return]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_calls_what_computes_and_nothing_else(script: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.ts"
    torch.jit.save(scripted(SCRIPTS[script].format(marker=MARKER), tmp_path), path)
    with pytest.raises(UnsafeInputError, match="it calls"):
        open_torchscript(path, trust=False)
    assert not Path(MARKER).exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x.from_file('f')", "from_file"),
        ("x.save('f')", "save"),
        ("f = torch.save", "torch.save"),
        ("ops.aten.from_file('f')", "ops.aten.from_file"),
        ("ops.c10d.send(x)", "ops.c10d.send"),
        ("getattr(x, 'save')('f')", "getattr('save')"),
        ("getattr(x, y)", "getattr(None)"),
        ("f = torch", "torch"),
        ("open('f')", "open"),
        ("__torch__.torch.classes.c10d.Store('f')", "__torch__.torch.classes.c10d.Store"),
        ("def save(self): pass\nself.save('f')", "self.save"),
        ("if y:\n  z = (x + 1).save('f')", "save"),
        ("this is no code", "cannot be read"),
        ("y = x # \r    '''\ny = x.save('f') # '''", "cannot be read"),
        ("y = x \\\n", "cannot be read"),
        ("y = 'é'", "cannot be read"),
        ("torch.adaptive_max_pool2d_backward(x, x, x)", "torch.adaptive_max_pool2d_backward"),
        ("torch.sparse_csr_tensor(x, x, x)", "torch.sparse_csr_tensor"),
    ],
)
def test_every_way_of_naming_an_operator_is_seen(text: str, found: str, tmp_path: Path) -> None:
    torch.jit.save(scripted("pass", tmp_path), tmp_path / "plain.ts")
    with zipfile.ZipFile(tmp_path / "plain.ts") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    code = next(name for name in entries if name.endswith(".py"))
    body = "\n".join(f"    {line}" for line in text.splitlines())
    entries[code] = entries[code] + f"\ndef more(self, x: Tensor, y: Tensor):\n{body}\n".encode()
    (tmp_path / "evil.ts").write_bytes(zipped(entries))
    with pytest.raises(UnsafeInputError, match=found.replace("(", r"\(").replace(")", r"\)")):
        open_torchscript(tmp_path / "evil.ts", trust=False)


def test_a_script_with_objects_of_foreign_classes_is_refused(tmp_path: Path) -> None:
    torch.jit.save(scripted("pass", tmp_path), tmp_path / "plain.ts")
    with zipfile.ZipFile(tmp_path / "plain.ts") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    data = next(name for name in entries if name.endswith("data.pkl"))
    entries[data] = b"\x80\x02c__torch__.torch.classes.c10d\nFileStore\n." + entries[data]
    (tmp_path / "evil.ts").write_bytes(zipped(entries))
    with pytest.raises(UnsafeInputError, match="FileStore"):
        open_torchscript(tmp_path / "evil.ts", trust=False)
