"""Score images with an exported file and plain onnxruntime: python serve_onnx.py EXPORT_FOLDER image.png ..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def main(folder: str, files: list[str]) -> None:
    config = json.loads((Path(folder) / "config.json").read_text())
    channels, height, width = config["input"]["size"]
    session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"), providers=["CPUExecutionProvider"])
    for file in files:
        image = Image.open(file).convert("L" if channels == 1 else "RGB").resize((width, height))
        pixels = np.asarray(image, dtype=np.float32).reshape(height, width, channels).transpose(2, 0, 1) / 255
        (scores,) = session.run(None, {"images": pixels[None]})
        print(file, config["classes"][int(scores[0].argmax())])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
