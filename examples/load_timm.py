"""Load exported weights with timm, where it has the network: python load_timm.py EXPORT_FOLDER"""

import sys

import timm
import torch


def main(folder: str) -> None:
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = network.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    images = torch.full((1, *config["input_size"]), 0.5)
    with torch.no_grad():
        scores = network((images - mean) / std)
    print(dict(zip(config["label_names"], scores[0].tolist(), strict=True)))


if __name__ == "__main__":
    main(sys.argv[1])
