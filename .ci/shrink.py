"""Make the pictures that are stored in notebooks as light as they are read.

Run it after pages were executed and saved: figures come out at twice the size they are shown at.
Here wide ones are halved, and heavy ones become JPEG where that is much smaller."""

import base64
import io
import json
import pathlib
import sys

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
WIDE, HEAVY = 1000, 30_000  # pixels; bytes


def lighter(data: bytes) -> tuple[str, bytes]:
    "(MIME type, bytes) of a PNG: the smaller of PNG and JPEG, halved if it is wide."
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.width > WIDE:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=90, subsampling=0, optimize=True)
    if len(jpeg.getvalue()) < 0.7 * len(png.getvalue()):
        return "image/jpeg", jpeg.getvalue()
    return "image/png", png.getvalue() if len(png.getvalue()) < len(data) else data


def shrink(path: pathlib.Path) -> int:
    "Bytes saved in one notebook."
    text = path.read_text("utf8")
    nb, before = json.loads(text), len(text)
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            data = base64.b64decode("".join(png)) if png else b""
            if len(data) > HEAVY:
                kind, small = lighter(data)
                del output["data"]["image/png"]
                output["data"] = {kind: base64.b64encode(small).decode(), **output["data"]}
    text = json.dumps(nb, indent=1, ensure_ascii=False) + "\n"
    if len(text) < 0.95 * before:
        path.write_text(text, "utf8")
        return before - len(text)
    return 0


if __name__ == "__main__":
    # The README takes its picture from the index as a PNG.
    pages = [p for p in sorted(ROOT.glob("nbs/**/*.ipynb")) if p.name != "index.ipynb"]
    for page in [pathlib.Path(p) for p in sys.argv[1:]] or pages:
        if saved := shrink(page):
            print(f"{page.name}: {saved:,} bytes less")
