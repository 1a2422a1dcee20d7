"""A picture is read right, whatever it is: pixel types, colours, notes beside them, folders."""

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lens_ref.core.config import DataError
from lens_ref.core.pictures import (
    is_hidden,
    on_white,
    open_picture_file,
    picture_files,
    read_picture,
)


def png(width, height, depth, colour, rows, *chunks):
    "A PNG made by hand: raw rows, and chunks (type, data) before the pixels."

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + r for r in rows))
    every = [(b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in every)


def tiff(x, photometric=1, order="<", **tags):
    "A TIFF made by hand of an array [H, W] or [H, W, C], in either order of bytes; `t258=12`."
    kinds = dict(u=1, i=2, f=3)
    channels = 1 if x.ndim == 2 else x.shape[2]
    data = x.astype(x.dtype.newbyteorder(order)).tobytes()
    found = {
        256: x.shape[1],
        257: x.shape[0],
        258: (x.dtype.itemsize * 8,) * channels,
        259: 1,
        262: photometric,
        273: 8,
        277: channels,
        278: x.shape[0],
        279: len(data),
        339: (kinds[x.dtype.kind],) * channels,
    }
    found |= {int(k[1:]): v for k, v in tags.items()}
    entries, extra, at = b"", b"", 8 + len(data)
    after = at + 2 + 12 * len(found) + 4
    for tag in sorted(found):
        v = found[tag] if isinstance(found[tag], tuple) else (found[tag],)
        kind, code = (3, "H") if tag in (258, 339, 338, 262, 274) else (4, "I")
        packed = struct.pack(f"{order}{len(v)}{code}", *v)
        if len(packed) > 4:
            packed, extra = struct.pack(f"{order}I", after + len(extra)), extra + packed
        entries += struct.pack(f"{order}HHI", tag, kind, len(v)) + packed.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, at)
    return start + data + struct.pack(f"{order}H", len(found)) + entries + bytes(4) + extra


def saved(im, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    im.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(source):
    "The picture's red channel, once all three are known to be equal."
    x = np.asarray(read_picture(source)).astype(int)
    assert (x[..., 0] == x[..., 1]).all() and (x[..., 0] == x[..., 2]).all()
    return x[..., 0]


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


# ---- pixel types


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "x",
    [
        RAMP.astype(np.uint16) * 257,
        RAMP.astype(np.int32),
        RAMP.astype(np.int32) * 257,
        RAMP.astype(np.int32) * (2**31 // 255 - 1),
        RAMP.astype(np.int16),
        RAMP.astype(np.int16) * 128,
        RAMP.astype(np.uint16),
        RAMP.astype(np.float32) / 255,
        RAMP.astype(np.float32) / 255 * 1.08 - 0.04,
        RAMP.astype(np.float32),
        RAMP.astype(np.float32) + 0.25,
        RAMP.astype(np.float32) * 257,
    ],
    ids=lambda x: f"{x.dtype}-{x.max():.4g}",
)
def test_wide_numbers_in_a_tiff_are_the_same_ramp(x, order):
    got = grey(tiff(x, order=order))
    assert np.abs(got - RAMP.astype(int)).max() <= (10 if x.min() < 0 else 1)
    assert got.min() == 0 and got.max() >= 254


def test_numbers_of_32_bits_without_a_sign_and_of_12():
    x = RAMP.astype(np.uint32) * (2**32 // 255 - 1)  # Pillow reads its upper half as negative
    assert np.abs(grey(tiff(x)) - RAMP).max() <= 1
    values = (np.arange(16).repeat(16) * 273).reshape(16, 16)  # 0 to 4095
    pairs = values.reshape(-1, 2)
    packed = [(a >> 4, (a & 15) << 4 | b >> 8, b & 255) for a, b in pairs.tolist()]
    bytes12 = np.array(packed, np.uint8).reshape(16, 24)
    data = tiff(bytes12, t256=16, t258=12)
    assert np.abs(grey(data) - values / 4095 * 255).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_in_which_white_is_zero_is_no_negative(dtype):
    full = dict(f=1).get(np.dtype(dtype).kind) or np.iinfo(dtype).max
    x = (RAMP / 255 * full).astype(dtype)
    assert np.abs(grey(tiff(x, photometric=0)) - (255 - RAMP.astype(int))).max() <= 1


@pytest.mark.parametrize(
    "x, why",
    [
        (np.full((4, 4), np.nan, np.float32), "NaN"),
        (np.full((4, 4), -np.inf, np.float32), "infinity"),
        (np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4), "from -1 to 1"),
        (np.geomspace(0.001, 37, 64, dtype=np.float32).reshape(8, 8), "to 37"),
        (np.geomspace(0.001, 9e4, 64, dtype=np.float32).reshape(8, 8), "to 9e.04"),
        (np.arange(-8, 8, dtype=np.int16).reshape(4, 4), "from -8 to 7"),
        (np.arange(-8, 8, dtype=np.int32).reshape(4, 4), "from -8 to 7"),
        (np.arange(-8, 8, dtype=np.int8).reshape(4, 4), "below zero"),
        (np.zeros((4, 4, 3), np.float32), "not read"),
        (np.zeros((4, 4), np.uint64), "not read"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_numbers_without_one_right_picture_are_refused_by_name(x, why, tmp_path):
    (tmp_path / "scan.tif").write_bytes(tiff(x))
    with pytest.raises(DataError, match=f"scan.tif: not a readable image .*{why}"):
        read_picture(tmp_path / "scan.tif")


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_pictures_of_16_bits_in_memory(mode):
    order = dict(B=">", N="=").get(mode[-1], "<")
    x = (RAMP.astype(np.uint16) * 257).astype(f"{order}u2")
    im = Image.frombytes(mode, (16, 16), x.tobytes())
    assert (np.asarray(on_white(im))[..., 1] == RAMP).all()


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
)
def test_opaque_modes_keep_their_colours(mode):
    from PIL import ImageCms

    x = COLOURS if mode in ("RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV") else COLOURS[..., 0]
    want = Image.fromarray(x // 2 + 40 if mode == "LAB" else x)
    if mode == "LAB":
        spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        im = ImageCms.profileToProfile(want, *spaces, outputMode="LAB")
    elif mode in ("I", "F"):
        im = Image.fromarray(x.astype(np.int32 if mode == "I" else np.float32))
    else:
        im = want.convert(mode)
    got, near = np.asarray(on_white(im)).astype(int), dict(YCbCr=4, LAB=12, HSV=6)
    want = want.convert("1") if mode == "1" else want
    assert np.abs(got - np.asarray(want.convert("RGB"))).max() <= near.get(mode, 0)


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_modes_with_alpha_lie_on_white(mode):
    x = np.concatenate([COLOURS, np.full((12, 20, 1), 255, np.uint8)], -1)
    x[:, 10:, 3] = 0
    im = Image.fromarray(x)
    want = im.convert("LA" if mode in ("LA", "La") else "RGBA").convert("RGBA")
    im = (
        im.convert("P").convert("PA")
        if mode == "PA"
        else want.convert(mode[:2] if mode == "LA" else "LA" if mode == "La" else "RGBA")
    )
    if mode in ("La", "RGBa"):
        im = im.convert(mode)
    if mode == "PA":
        im.putalpha(Image.fromarray(x[..., 3]))
    got = np.asarray(on_white(im))
    assert (got[:, 10:] == 255).all()
    if mode != "PA":
        assert np.abs(got[:, :10].astype(int) - np.asarray(want)[:, :10, :3]).max() <= 1
    assert got[:, :10].std() > 20


KEYED = {
    "1 bit": png(8, 1, 1, 0, [b"\xf0"], (b"tRNS", b"\0\0")),
    "2 bits": png(8, 1, 2, 0, [b"\xff\x55"], (b"tRNS", b"\0\1")),
    "4 bits": png(8, 1, 4, 0, [b"\xff\xff\x77\x77"], (b"tRNS", b"\0\7")),
    "8 bits": png(8, 1, 8, 0, [b"\xff" * 4 + b"\7" * 4], (b"tRNS", b"\0\7")),
    "16 bits": png(8, 1, 16, 0, [b"\xff\xff" * 4 + b"\7\0" * 4], (b"tRNS", b"\7\0")),
    "RGB": png(8, 1, 8, 2, [b"\xff" * 12 + b"\1\2\3" * 4], (b"tRNS", b"\0\1\0\2\0\3")),
    "RGB of 16": png(8, 1, 16, 2, [b"\xff" * 24 + b"\1\0\2\0\3\0" * 4], (b"tRNS", b"\1\0\2\0\3\0")),
    "palette": png(
        8,
        1,
        8,
        3,
        [b"\0" * 4 + b"\1" * 4],
        (b"PLTE", b"\xff" * 3 + b"\1\2\3"),
        (b"tRNS", b"\xff\0"),
    ),
    "palette, half": png(
        8, 1, 8, 3, [b"\0" * 4 + b"\1" * 4], (b"PLTE", b"\xff" * 6), (b"tRNS", b"\xff\x80")
    ),
    "grey, alpha of 16": png(8, 1, 16, 4, [b"\xff" * 16 + b"\1\0\0\0" * 4]),
    "RGBA of 16": png(8, 1, 16, 6, [b"\xff" * 32 + b"\1\0\2\0\3\0\0\0" * 4]),
}


@pytest.mark.parametrize("kind", KEYED)
def test_what_a_png_calls_transparent_is_white(kind):
    "Left half white, right half transparent: the whole is white, and without the key it is not."
    assert (np.asarray(read_picture(KEYED[kind])) == 255).all()
    if kind.startswith(("1", "2", "4", "8", "RGB")) and "RGBA" not in kind:
        at = KEYED[kind].index(b"tRNS")
        opaque = bytearray(KEYED[kind])
        opaque[at : at + 4] = b"teXt"
        opaque = PngImagePlugin.PngImageFile and bytes(opaque)
        size = struct.unpack(">I", opaque[at - 4 : at])[0]
        crc = struct.pack(">I", zlib.crc32(opaque[at : at + 4 + size]))
        opaque = opaque[: at + 4 + size] + crc + opaque[at + 8 + size :]
        assert (np.asarray(read_picture(opaque))[:, 4:] < 255).all()


def test_colours_of_16_bits_keep_their_upper_eight():
    x = np.asarray(COLOURS).astype(np.uint16) * 256 + 99
    for order in "<>":
        assert (np.asarray(read_picture(tiff(x, 2, order))) == COLOURS).all()
    rows = [r.astype(">u2").tobytes() for r in x]
    assert (np.asarray(read_picture(png(20, 12, 16, 2, rows))) == COLOURS).all()


def test_a_palette_that_is_missing_is_no_black_picture():
    with pytest.raises(DataError, match="no palette"):
        read_picture(png(8, 1, 8, 3, [b"\1" * 8]))


def test_adobes_inverted_cmyk_is_no_negative():
    im = Image.fromarray(np.asarray(COLOURS).repeat(8, 0).repeat(8, 1))
    x = np.asarray(read_picture(saved(im.convert("CMYK"), "JPEG", quality=98))).astype(int)
    assert np.abs(x - np.asarray(im)).mean() < 12
    tif = read_picture(saved(im.convert("CMYK"), "TIFF"))
    assert np.abs(np.asarray(tif).astype(int) - np.asarray(im)).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_several_pictures_the_first_is_read(kind):
    frames = [Image.new("RGB", (40, 30), c) for c in ("red", "lime", "blue")]
    options = dict(lossless=True) if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    got = np.asarray(read_picture(data)).astype(int)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert np.abs(got - [255, 0, 0]).max() <= 2


def test_a_transparent_gif_and_webp_lie_on_white():
    x = np.concatenate([COLOURS, np.full((12, 20, 1), 255, np.uint8)], -1)
    x[:, 10:, 3] = 0
    for kind in ("GIF", "WEBP"):
        got = np.asarray(read_picture(saved(Image.fromarray(x), kind)))
        assert (got[:, 10:] == 255).all() and got[:, :10].mean() < 200


# ---- colours

SRGB = [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]]
SPACES = {
    "Display P3": (
        [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]],
        2.2,
    ),
    "Adobe RGB": (
        [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]],
        2.2,
    ),
    "ProPhoto": ([[0.79767, 0.13519, 0.03134], [0.28804, 0.71187, 0.00009], [0, 0, 0.8249]], 1.8),
    "linear": (SRGB, 1.0),
}


def fixed(*values):
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def icc(space: bytes, tags: dict, connection=b"XYZ ") -> bytes:
    "A small ICC profile of version 2."
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(79), **tags}
    tags[b"wtpt"] = b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = bytes(8) + struct.pack(">I", 0x02400000) + kind + space + connection + bytes(12)
    head += b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249) + bytes(48)
    return struct.pack(">I", at + len(body)) + head[4:] + table + body


def curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def rgb_profile(matrix, gamma):
    columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), np.array(matrix).T)
    tags = {n: b"XYZ " + bytes(4) + fixed(*c) for n, c in columns}
    return icc(b"RGB ", tags | {n: curve(gamma) for n in (b"rTRC", b"gTRC", b"bTRC")})


def encoded(light):
    light = light.clip(0, 1)
    v = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return 255 * v


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_profile_is_converted_to_srgb(name, kind):
    matrix, gamma = SPACES[name]
    x = np.full((16, 16, 3), (200, 90, 60), np.uint8)
    light = np.linalg.inv(SRGB) @ np.array(matrix) @ (x[0, 0] / 255) ** gamma
    options = dict(quality=100, subsampling=0) if kind == "JPEG" else {}
    options |= dict(lossless=True) if kind == "WEBP" else {}
    data = saved(Image.fromarray(x), kind, icc_profile=rgb_profile(matrix, gamma), **options)
    got = read_picture(data)
    assert np.abs(np.asarray(got)[8, 8] - encoded(light)).max() <= 3
    assert np.abs(encoded(light) - x[0, 0]).max() > 10
    assert on_white(got) is got and not got.info  # not converted once more


def test_profiles_apply_below_palettes_alpha_and_grey():
    matrix, gamma = SPACES["Adobe RGB"]
    profile = rgb_profile(matrix, gamma)
    x = np.full((16, 16, 4), (200, 90, 60, 255), np.uint8)
    x[:, 8:, 3] = 0
    want = np.asarray(read_picture(saved(Image.fromarray(x[..., :3]), icc_profile=profile)))
    got = np.asarray(read_picture(saved(Image.fromarray(x), icc_profile=profile)))
    assert (got[:, :8] == want[:, :8]).all() and (got[:, 8:] == 255).all()
    palette = Image.fromarray(x[..., :3]).quantize(2)
    assert (
        np.abs(
            np.asarray(read_picture(saved(palette, icc_profile=profile))).astype(int) - want
        ).max()
        <= 1
    )
    assert np.abs(grey(saved(Image.new("L", (4, 4), 120), icc_profile=profile)) - 120).max() <= 3
    linear = rgb_profile(SRGB, 1.0)
    assert grey(saved(Image.new("L", (4, 4), 55), icc_profile=linear)).max() == pytest.approx(
        128, abs=3
    )
    wide = tiff(np.full((4, 4), 55 / 255, np.float32))
    im = Image.open(io.BytesIO(wide))
    im.info["icc_profile"] = linear
    assert np.asarray(on_white(im)).max() == pytest.approx(128, abs=3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_profile_is_converted(kind, mode):
    if (kind, mode) == ("JPEG", "LA"):
        pytest.skip("no alpha in a JPEG")
    profile = icc(b"GRAY", {b"kTRC": curve(1.0)})
    im = Image.new(mode, (8, 8), 55 if mode == "L" else (55, 255))
    assert np.abs(grey(saved(im, kind, icc_profile=profile)) - 128).max() <= 3


def inks(colours):
    "A CMYK profile: 2 x 2 x 2 x 2 Lab colours."
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    ramp = bytes(range(256))
    table = b"".join(bytes([round(c[0] * 2.55), c[1] + 128, c[2] + 128]) for c in colours)
    return icc(b"CMYK", {b"A2B0": lut + 4 * ramp + table + 3 * ramp}, b"Lab ")


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_cmyk_profile_is_converted(kind):
    "Its first ink is red, as no naive conversion would have it."
    colours = [(0, 0, 0) if n % 2 else (53, 80, 67) if n & 8 else (100, 0, 0) for n in range(16)]
    data = saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), kind, icc_profile=inks(colours))
    r, g, b = read_picture(data).getpixel((8, 8))
    assert r > 230 and g < 40 and b < 40
    data = saved(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), kind, icc_profile=inks(colours))
    assert min(read_picture(data).getpixel((8, 8))) > 245


def test_a_profile_that_is_srgb_or_damaged_changes_nothing():
    from PIL import ImageCms

    im = Image.fromarray(COLOURS)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    good = rgb_profile(*SPACES["Adobe RGB"])
    damaged = [b"", b"x", b"\0" * 200, good[:100], good[:200], good[:132] + b"\xff" * 200]
    others = [icc(b"GRAY", {b"kTRC": curve(1.0)}), inks([(50, 0, 0)] * 16)]
    for profile in (srgb, *damaged, *others):
        assert (np.asarray(read_picture(saved(im, icc_profile=profile))) == COLOURS).all()


def test_damage_anywhere_in_a_profile_never_loses_the_pixels():
    rng, good = np.random.default_rng(0), rgb_profile(*SPACES["Display P3"])
    for _ in range(60):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), 6):
            bad[at] = rng.integers(256)
        read_picture(saved(Image.fromarray(COLOURS), icc_profile=bytes(bad)))


def gamma_chunk(value):
    return b"gAMA", struct.pack(">I", value)


@pytest.mark.parametrize(
    "chunks, want",
    [
        ([], 55),
        ([gamma_chunk(45455)], 55),
        ([gamma_chunk(100000)], 128),
        ([gamma_chunk(55556)], 71),
        ([gamma_chunk(100000), (b"sRGB", b"\0")], 55),
        ([gamma_chunk(220000)], 55),
        ([gamma_chunk(0)], 55),
    ],
)
def test_the_gamma_of_a_png_is_applied_as_browsers_do(chunks, want):
    data = png(4, 1, 8, 2, [b"\x37" * 12], *chunks)
    assert np.abs(grey(data) - want).max() <= 2


# ---- notes beside the pixels


def turned_exif(how):
    exif = Image.Exif()
    exif[0x0112] = how
    return exif


UNDO = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}  # from the upright picture to what is stored


@pytest.mark.parametrize("how", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_pictures_are_turned_as_their_files_say(how, kind):
    stored = Image.fromarray(np.ascontiguousarray(UNDO[how](COLOURS.repeat(8, 0).repeat(8, 1))))
    options = dict(WEBP=dict(lossless=True), JPEG=dict(quality=100, subsampling=0)).get(kind, {})
    got = np.asarray(read_picture(saved(stored, kind, exif=turned_exif(how), **options)))
    assert got.shape == (96, 160, 3)
    want = COLOURS.repeat(8, 0).repeat(8, 1).astype(int)
    assert np.abs(got - want).mean() < (4 if kind == "JPEG" else 0.01)


@pytest.mark.parametrize("how", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_passed_over(how):
    data = saved(Image.fromarray(COLOURS), exif=turned_exif(how))
    assert (np.asarray(read_picture(data)) == COLOURS).all()


def test_wide_transparent_and_turned_at_once():
    x = np.zeros((2, 3), np.uint16)
    x[0, 0], x[1, 2] = 65535, 513
    exif = turned_exif(6).tobytes()[6:]
    rows = [r.astype(">u2").tobytes() for r in x]
    data = png(3, 2, 16, 0, rows, (b"tRNS", struct.pack(">H", 513)), (b"eXIf", exif))
    assert grey(data).tolist() == [[0, 255], [0, 0], [255, 0]]


def damaged_note(kind, rng, sums=True):
    "A picture's file with random bytes in its EXIF."
    options = dict(lossless=True) if kind == "WEBP" else {}
    exif = turned_exif(1)
    exif[0x010F] = "a camera's name"
    exif.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
    data = bytearray(saved(Image.fromarray(COLOURS), kind, exif=exif, **options))
    at = data.index(b"MM\0*") if b"MM\0*" in data else data.index(b"II*\0")
    for i in rng.integers(0, 60, rng.integers(1, 50)):
        data[at + i] = rng.integers(256)
    if kind == "PNG" and sums:
        i = data.index(b"eXIf")
        size = int.from_bytes(data[i - 4 : i], "big")
        data[i + 4 + size : i + 8 + size] = struct.pack(">I", zlib.crc32(data[i : i + 4 + size]))
    return bytes(data)


@pytest.mark.parametrize("kind, sums", [("PNG", True), ("PNG", False), ("JPEG", 0), ("WEBP", 0)])
def test_damaged_exif_never_loses_the_pixels(kind, sums):
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(60):
            got = np.asarray(read_picture(damaged_note(kind, rng, sums)))
            assert sorted(got.shape) == sorted(COLOURS.shape)


def long_text(kind: bytes, size: int, after=False):
    body = b"workflow\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0") * (kind != b"tEXt")
    text = b"{" * size
    body += text if kind == b"tEXt" else zlib.compress(text)
    return kind, body


@pytest.mark.parametrize("kind", [b"iTXt", b"zTXt", b"tEXt"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_any_length_of_text_in_a_png_is_read_past(kind, where):
    note = long_text(kind, 3_000_000)
    rows = [r.tobytes() for r in COLOURS]
    exif = (b"eXIf", turned_exif(3).tobytes()[6:])
    data = png(20, 12, 8, 2, rows, exif, note)
    if where == "after":
        start, size = data.index(kind) - 4, 12 + len(note[1])
        chunk = data[start : start + size]
        data = data[:start] + data[start + size : -12] + chunk + data[-12:]
    got = np.asarray(read_picture(data))
    assert (got[::-1, ::-1] == COLOURS).all()  # and what EXIF says is kept
    with pytest.raises(DataError):
        read_picture(data.replace(b"IDAT", b"IDAX"))


def test_a_text_of_gigabytes_is_not_unpacked():
    import tracemalloc

    packer = zlib.compressobj(9)
    block = b"\0" * 2**20
    text = b"".join(packer.compress(block) for _ in range(300)) + packer.flush()
    data = png(20, 12, 8, 2, [r.tobytes() for r in COLOURS], *[(b"zTXt", b"a\0\0" + text)] * 3)
    tracemalloc.start()
    assert (np.asarray(read_picture(data)) == COLOURS).all()
    assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    tracemalloc.stop()


def test_other_chunks_of_a_png_may_be_damaged_but_not_its_pixels():
    data = png(20, 12, 8, 2, [r.tobytes() for r in COLOURS], (b"tIME", b"abcdefg"), (b"iCCP", b"x"))
    wrong = data.replace(b"abcdefg", b"abcdefx")
    assert (np.asarray(read_picture(wrong)) == COLOURS).all()
    at = data.index(b"IDAT")
    with pytest.raises(DataError):
        read_picture(data[: at + 30] + bytes([data[at + 30] ^ 255]) + data[at + 31 :])


def test_a_jpeg_whose_segments_are_damaged_keeps_its_pixels():
    im = Image.fromarray(COLOURS)
    data = saved(im, "JPEG", quality=95)
    want = np.asarray(Image.open(io.BytesIO(data)))
    rng = np.random.default_rng(3)
    heads = [(0xED, b"Photoshop 3.0\x008BIM\x03\xed"), (0xE2, b"MPF\0"), (0xE1, b"Exif\0\0")]
    heads += [(0xE0, b"JFIF\0"), (0xE2, b"ICC_PROFILE\0"), (0xE8, b""), (0xFE, b"")]
    for marker, head in heads:
        for _ in range(30):
            body = head + rng.bytes(rng.integers(0, 40))
            segment = bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body
            got = np.asarray(read_picture(data[:2] + segment + data[2:]))
            assert got.shape == want.shape and (got == want).all(), (marker, body)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_files_that_are_cut_are_refused_by_name(kind, tmp_path):
    rng = np.random.default_rng(0)
    im = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = saved(im, kind)
    for share in (0.01, 0.2, 0.5, 0.8):
        (tmp_path / "cut.x").write_bytes(data[: int(share * len(data))])
        with pytest.raises(DataError, match="cut.x: not a readable image"):
            read_picture(tmp_path / "cut.x")


# ---- the file


def test_what_is_no_file_is_refused_at_once_and_by_name(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "drawing.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    )
    why = {
        "folder.png": "a folder",
        "link.png": "No such file",
        "loop.png": "symbolic link",
        "pipe.png": "pipe",
        "empty.png": "empty",
        "text.png": "no picture",
        "drawing.png": "EPS",
        "none.png": "No such file",
        "a\0b.png": "null",
        "x" * 300: "too long",
    }
    for name, cause in why.items():
        with pytest.raises(DataError) as e:
            read_picture(tmp_path / name)
        assert str(e.value).startswith(str(tmp_path / name)) and cause in str(e.value), e.value
        assert "object at" not in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(DataError, match="Permission denied"):
        read_picture(Locked(tmp_path / "folder.png"))


class Locked:
    "A path that may not be read, also for the superuser."

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        raise PermissionError(13, "Permission denied")


def test_every_source_gives_the_same_picture(tmp_path):
    data = saved(Image.fromarray(COLOURS))
    (tmp_path / "a.png").write_bytes(data)
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), data, bytearray(data), memoryview(data)]
    sources += [io.BytesIO(data), open(tmp_path / "a.png", "rb"), Image.open(io.BytesIO(data))]
    for source in sources:
        assert (np.asarray(read_picture(source)) == COLOURS).all()
    sources[6].close()
    whole = open_picture_file(tmp_path / "a.png")
    assert (whole.format, whole.width, whole.height) == ("PNG", 20, 12)
    with pytest.raises(DataError, match="^row 7: not a readable"):
        read_picture(b"", "row 7")


def test_a_bomb_is_refused_by_name_and_a_large_picture_is_read(monkeypatch, tmp_path):
    bomb = png(60_000, 60_000, 8, 2, [b""])
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(DataError, match="bomb.png.*3600000000 pixels.*scale it down"):
        read_picture(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (np.asarray(read_picture(saved(Image.fromarray(COLOURS)))) == COLOURS).all()
    with pytest.raises(DataError, match="scale it down"):
        read_picture(saved(Image.new("RGB", (30, 30))))


def test_warnings_are_as_before_after_many_threads(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    data = saved(Image.fromarray(COLOURS))
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [read_picture(data) for _ in range(20)]) for _ in range(8)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert warnings.filters == before
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data))


# ---- folders


def test_hidden_files_and_what_systems_make_are_no_data():
    for name in (
        *(".a.png", "._a.jpg", "b/.thumbnails/a.png", ".ipynb_checkpoints/a-checkpoint.png"),
        *("__MACOSX/a.png", "x/__MACOSX/._a.png", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg"),
        *("Thumbs.db", "x/thumbs.db", ".git/a.png", "#recycle/a.png", "$RECYCLE.BIN/a.png"),
        *("System Volume Information/a.png", "lost+found/a.png", "desktop.ini", "./.a/b.png"),
    ):
        assert is_hidden(name) and is_hidden(Path(name)), name
    for name in (
        "a.png",
        "./a.png",
        "../a.png",
        "b/a.tar.png",
        "thumbs/a.png",
        "git/a.png",
        "_a.png",
    ):
        assert not is_hidden(name), name


def test_a_folder_lists_its_pictures_and_nothing_twice(tmp_path):
    root, other = tmp_path / ".hidden" / "root", tmp_path / "other"
    for name in (
        "a.PNG",
        "b/c.jpeg",
        "b/notes.txt",
        ".thumbnails/a.png",
        "dir.png/d.tiff",
        "b/._c.jpeg",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (other / "deep").mkdir(parents=True)
    (other / "e.gif").touch()
    for link, target in (
        ("out", other),
        ("again", other),
        ("self", root),
        ("b/up", root),
        ("inner", root / "b"),
    ):
        (root / link).symlink_to(target)
    (other / "round").symlink_to(root)
    (other / "deep" / "back").symlink_to(other)
    (root / "broken.png").symlink_to("nowhere")
    os.mkfifo(root / "pipe.png")
    pictures, others = picture_files(root)
    names = [p.relative_to(root).as_posix() for p in pictures]
    assert names == ["a.PNG", "again/e.gif", "b/c.jpeg", "broken.png", "dir.png/d.tiff", "pipe.png"]
    assert [p.name for p in others] == ["notes.txt"]
    with pytest.raises(DataError, match="nothing: cannot be listed"):
        picture_files(tmp_path / "nothing")


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").touch()
    real = os.scandir

    def scandir(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [p.name for p in picture_files(tmp_path)[0]] == ["a.png", "locked"]
