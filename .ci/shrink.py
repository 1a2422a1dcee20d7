"""Make the pictures that are stored in notebooks as light as they are read.

Run it after pages were executed and saved: figures come out at twice the size they are shown at,
in millions of colours. Here wide ones are halved, and all are stored in 256 colours."""

import base64
import io
import json
import pathlib
import sys

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
WIDE, HEAVY = 1000, 30_000  # pixels; bytes


def lighter(data: bytes) -> bytes:
    "The PNG in fewer bytes, or as it was where that saves less than a fifth."
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.width > WIDE:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    image = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue() if len(out.getvalue()) < 0.8 * len(data) else data


def shrink(path: pathlib.Path) -> int:
    "Bytes saved in one notebook."
    text = path.read_text("utf8")
    nb, before = json.loads(text), len(text)
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            data = base64.b64decode("".join(png)) if png else b""
            if len(data) > HEAVY:
                output["data"]["image/png"] = base64.b64encode(lighter(data)).decode()
    text = json.dumps(nb, indent=1, ensure_ascii=False) + "\n"
    if len(text) < 0.95 * before:
        path.write_text(text, "utf8")
        return before - len(text)
    return 0


if __name__ == "__main__":
    for page in [pathlib.Path(p) for p in sys.argv[1:]] or sorted(ROOT.glob("nbs/**/*.ipynb")):
        if saved := shrink(page):
            print(f"{page.name}: {saved:,} bytes less")
