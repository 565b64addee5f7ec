"""What kind of file a file is, told by its content."""

from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from harden.models.formats import FileKind, kind_of


@pytest.mark.parametrize("low_byte", range(0, 256, 8))
def test_every_header_of_safetensors_is_recognised(low_byte: int, tmp_path: Path) -> None:
    """The first byte is that of the header's length, and may be the first byte of any other format."""
    path = tmp_path / "weights.safetensors"
    for length in range(0, 264, 8):
        save_file(nn.Linear(2, 3).state_dict(), path, metadata={"note": "x" * length})
        if path.read_bytes()[0] == low_byte:
            break
    assert path.read_bytes()[0] == low_byte
    assert kind_of(path) is FileKind.SAFETENSORS
