"""Classify images with an exported file and plain onnxruntime, from the command line or as a small web service.

python serve_onnx.py model.onnx image.png ...
python serve_onnx.py model.onnx --port 8000        # then: curl --data-binary @image.png localhost:8000
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Model:
    """One file is enough: its metadata say what images it takes and what its outputs are called."""

    def __init__(self, file):
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        metadata = json.loads(self.session.get_modelmeta().custom_metadata_map["harden"])
        self.classes, (self.channels, *self.size) = metadata["classes"], metadata["input"]["size"]

    def classify(self, file):
        height, width = self.size
        # Pillow has many more readers, too many for anybody's bytes.
        image = Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"))
        image = ImageOps.exif_transpose(image).convert("L" if self.channels == 1 else "RGB")
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
        pixels = np.asarray(image, dtype=np.float32).reshape(height, width, self.channels).transpose(2, 0, 1) / 255
        (scores,) = self.session.run(None, {"images": pixels[None]})
        return self.classes[int(scores[0].argmax())]


def serve(model, port):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            try:
                image = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = 200, {"class": model.classify(BytesIO(image))}
            except (OSError, TypeError, ValueError, Image.DecompressionBombError) as error:  # no image, or too large
                status, answer = 400, {"error": str(error)}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    server = HTTPServer(("127.0.0.1", port), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    model, rest = Model(sys.argv[1]), sys.argv[2:]
    if rest[:1] == ["--port"]:
        serve(model, int(rest[1]))
    for file in rest:
        print(file, model.classify(file))
