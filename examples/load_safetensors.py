"""Load exported weights with plain torch: python load_safetensors.py EXPORT_FOLDER net.py function"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def main(folder: str, file: str, function: str) -> None:
    config = json.loads((Path(folder) / "config.json").read_text())
    spec = importlib.util.spec_from_file_location("net", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = getattr(module, function)()
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    network.eval()
    mean, std = (torch.tensor(config["normalisation"][key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    images = torch.full((1, *config["input"]["size"]), 0.5)
    if config["normalisation"]["flip_channels"]:
        images = images.flip(1)
    scores = network((images - mean) / std)
    print(dict(zip(config["classes"], scores[0].tolist(), strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:4])
