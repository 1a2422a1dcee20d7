"""Make artwork.png: 61 emoji of two sets as brightness and opacity, each on a tile of 72 pixels.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 emoji-datasource-google@16.0.0
    python data_samples/art/make_artwork.py

The packages lie in the folder that the command is given in. LICENSE.md names the licences."""

import io
import pathlib
import tarfile

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
SETS = {  # package and the path of a picture in it, by the first letter of a code
    "f": ("lobehub-fluent-emoji-3d-1.1.0.tgz", "package/assets/{}.webp"),
    "g": ("emoji-datasource-google-16.0.0.tgz", "package/img/google/64/{}.png"),
}
# Kind and its artworks: f for Fluent, g for Noto, then the Unicode code points of the emoji. The
# order is that of lens_ref.data.things.ARTWORKS.
ARTWORKS = """
astronaut f1f9d1-200d-1f680 g1f9d1-200d-1f680
robot f1f916 g1f916
ghost f1f47b g1f47b
cat f1f408 g1f408-200d-2b1b f1f431 g1f431
dog f1f415 g1f415 f1f436 g1f436
fish f1f420 f1f41f g1f41f g1f420
butterfly f1f98b g1f98b
cactus f1f335 g1f335
tulip f1f337 g1f337
mushroom f1f344 g1f344
tree f1f333 g1f333 f1f332 g1f332
house f1f3e0 g1f3e0 f1f3e1 g1f3e1
castle f1f3f0 g1f3f0
apple f1f34e g1f34e f1f34f g1f34f
carrot f1f955 g1f955
balloon f1f388 g1f388
gift f1f381 g1f381
umbrella f2602 g2602 f2614
teapot f1fad6 g1fad6
car f1f697 g1f697 f1f695 g1f695
bell f1f514 g1f514
heart f2764 g2764
star f2b50 g2b50
"""
TILE, ACROSS = 72, 12  # pixels of a tile, tiles in a row


def picture(code):
    "An emoji as RGBA, whose file may be named with or without the mark of a coloured form."
    package, path = SETS[code[0]]
    with tarfile.open(package) as archive:
        names = set(archive.getnames())
        plain = code[1:]
        for name in (plain, f"{plain}-fe0f", plain.replace("-200d", "-fe0f-200d", 1)):
            if path.format(name) in names:
                data = archive.extractfile(path.format(name)).read()
                return Image.open(io.BytesIO(data)).convert("RGBA")
    raise SystemExit(f"{code}: not in {package}")


def square(image):
    "Cropped to a square about what is opaque, then scaled to a tile."
    left, top, right, bottom = image.getchannel("A").point(lambda v: 255 * (v > 40)).getbbox()
    side = max(right - left, bottom - top)
    x, y = round((left + right) / 2 - side / 2), round((top + bottom) / 2 - side / 2)
    return image.crop((x, y, x + side, y + side)).resize((TILE, TILE), Image.Resampling.LANCZOS)


def evened(light, opaque):
    """Brightness [0, 1] stretched so that dark, middle and bright tones of every artwork lie near
    0.10, 0.55 and 0.88; where there is little contrast, it is moved rather than stretched."""
    low, middle, high = np.percentile(light[opaque], [3, 50, 97])
    x = np.clip(light, low, high)
    below = 0.10 + 0.45 * (x - low) / max(middle - low, 1e-3)
    above = 0.55 + 0.33 * (x - middle) / max(high - middle, 1e-3)
    stretched = np.where(x < middle, below, above)
    much = min(1, (high - low) / 0.45)
    shifted = np.clip(light - middle + 0.57, 0, 1)
    return np.clip(much * stretched + (1 - much) * shifted, 0, 1)


def tile(code):
    "Brightness and opacity [TILE, TILE] of one emoji."
    rgba = np.asarray(square(picture(code))).astype(float)
    opacity = rgba[..., 3] / 255
    light = (rgba[..., :3] @ [0.299, 0.587, 0.114]) / 255
    return evened(light, opacity > 0.5) * (opacity > 0), opacity


def main():
    codes = [code for line in ARTWORKS.split("\n") for code in line.split()[1:]]
    rows = -(-len(codes) // ACROSS)
    sheet = np.zeros((2, rows * TILE, ACROSS * TILE))
    for i, code in enumerate(codes):
        y, x = i // ACROSS * TILE, i % ACROSS * TILE
        sheet[:, y : y + TILE, x : x + TILE] = tile(code)
    planes = [Image.fromarray((255 * plane).round().astype(np.uint8)) for plane in sheet]
    Image.merge("LA", planes).save(HERE / "artwork.png", optimize=True)
    print(f"{HERE / 'artwork.png'}: {len(codes)} tiles")


if __name__ == "__main__":
    main()
