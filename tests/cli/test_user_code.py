"""Commands on code that misbehaves: the exit code, what is printed where, and what is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from harden.errors import HardenError
from tests.odd_networks import COMMANDS, open_network, written

EXITS = {
    "sys.exit": "import sys; sys.exit(0)",
    "os._exit": "import os; os._exit(0)",
    "click": "import click; raise click.exceptions.Exit(0)",
    "a base exception": "raise type('Odd', (BaseException,), {})('odd')",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


def told(code: bytes, folder: Path) -> str:
    """Return what a command says of a network that it refuses, as one line."""
    path = folder / "input"
    path.write_bytes(code)
    with pytest.raises(HardenError) as refused:
        open_network(path)
    return " ".join(refused.value.message.split())


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
@pytest.mark.parametrize("how", EXITS)
def test_code_that_ends_the_program_is_refused_with_its_line(command: str, how: str, folder: Path) -> None:
    found = told(written(command, then=EXITS[how], when="self.calls > 1"), folder)
    assert "odd.py, line 15" in found


@pytest.mark.parametrize("method", ["state_dict", "_apply"])
def test_methods_of_the_network_are_guarded_too(method: str, folder: Path) -> None:
    does = f"\n    def {method}(self, *given, **named):\n        import os; os._exit(0)\n"
    assert "SystemExit: os._exit(0) (odd.py, line" in told(written("fit", method=does), folder)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_what_a_network_prints_is_no_result(command: str, folder: Path) -> None:
    path = folder / "input"
    path.write_bytes(written(command, then="print('{'); import sys; sys.stdout.close(); sys.stderr.close()"))
    assert str(open_network(path)).startswith(("{", "["))  # it is JSON, which `open_network` has read


@pytest.mark.parametrize(
    ("build", "command", "says"),
    [
        ("return Odd(2)", "fit", "the network was built for 2"),
        ("return Odd().to('meta')", "report", "lies on the meta device"),
        ("n = Odd(); n.net.add_module('owner', n); return n", "fit", "contains itself"),
        ("n = Odd(); n.net.__dict__['_modules'] = None; return n", "export", "has no dictionary _modules"),
        ("import threading; n = Odd(); n.lock = threading.Lock(); return n", "fit", "copying the network failed"),
        ("return torch.jit.script(nn.Sequential(nn.Flatten()))", "inspect", "compiled TorchScript program"),
    ],
)
def test_networks_that_cannot_be_used_say_why(build: str, command: str, says: str, folder: Path) -> None:
    assert says in told(written(command, build=build), folder)


def test_a_network_frozen_in_code_is_trained_as_one_frozen_in_a_file(folder: Path) -> None:
    path = folder / "input"
    path.write_bytes(written("fit", build="return Odd().requires_grad_(False)"))
    open_network(path)


@pytest.mark.parametrize(("calls", "kept"), [(8, False), (70, True)])
def test_a_fit_whose_network_fails_keeps_what_it_can_go_on_from(calls: int, kept: bool, folder: Path) -> None:
    found = told(written("fit", then="raise ValueError('odd')", when=f"self.calls > {calls}"), folder)
    assert ("goes on with: harden fit --resume" in found) is kept
