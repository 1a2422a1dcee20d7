"""How far a reader of pictures agrees with eyes: contact sheets to label, the labels, and what they say."""

import json
import math
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import binomtest

from lens_ref.core.config import DataError
from lens_ref.core.files import atomic_write

from .world import COLORS, KINDS, SETTINGS, place_name

ZOOM, ACROSS, DOWN = 3, 6, 4  # of a sheet: pixels a pixel, pictures a row, rows
UNNAMED = "mush"  # what a labeller calls an object that no eye can name


# ---- sheets
def _font(pixels):
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(str(path), pixels)


def sheet(images: list, first: int) -> Image.Image:
    "Pictures [H, W, 3] uint8 of one size, enlarged and numbered from `first`, in rows."
    h, w = (ZOOM * v for v in images[0].shape[:2])
    rows = math.ceil(len(images) / ACROSS)
    page = Image.new("RGB", (ACROSS * (w + 10), rows * (h + 26)), "white")
    draw = ImageDraw.Draw(page)
    for i, image in enumerate(images):
        x, y = i % ACROSS * (w + 10), i // ACROSS * (h + 26)
        page.paste(Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC), (x, y + 20))
        draw.text((x + 2, y + 1), str(first + i), "black", _font(15))
    return page


def write_sheets(images: list, folder, seed: int = 0) -> list:
    """Contact sheets of pictures in random order, so that neighbours say nothing about one
    another; the order goes to `key.json`, which labellers do not open. Returns the sheets' paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    order = list(range(len(images)))
    random.Random(seed).shuffle(order)
    with atomic_write(folder / "key.json") as tmp:
        Path(tmp).write_text(json.dumps(order), "utf8")
    paths = []
    for at in range(0, len(order), ACROSS * DOWN):
        some = [images[i] for i in order[at : at + ACROSS * DOWN]]
        paths.append(folder / f"sheet-{at:04d}.png")
        sheet(some, at).save(paths[-1])
    return paths


# ---- labels
@dataclass(frozen=True)
class Seen:
    "One object as named by eye: kind (or 'mush'), colour, row and column."

    kind: str
    color: str
    row: str
    column: str


@dataclass(frozen=True)
class Label:
    "What an eye sees in a picture. `word`: on a sign, '' for none, '?' for one that is not legible."

    things: tuple
    setting: str
    word: str = ""


def parse_label(line: str) -> tuple[int, Label]:
    """`12 | red cat top left; mush green bottom center | beach | OPEN` -> (12, Label).

    Raises `DataError` naming the line and what is wrong with it."""
    parts = [p.strip() for p in line.split("|")]
    if len(parts) != 4:
        raise DataError(f"label {line!r}: expected four parts between |")
    number, things, setting, word = parts
    if setting not in (*SETTINGS, UNNAMED):
        raise DataError(f"label {line!r}: setting {setting!r} is none of {', '.join(SETTINGS)}")
    seen = []
    for phrase in filter(None, (p.strip() for p in things.split(";"))):
        words = phrase.split()
        known = len(words) == 4 and words[1] in (*KINDS, UNNAMED) and words[0] in (*COLORS, "mixed")
        if not known:
            raise DataError(f"label {line!r}: {phrase!r} is not 'color kind row column'")
        seen.append(Seen(words[1], words[0], *words[2:]))
    return int(number), Label(tuple(seen), setting, word.strip('"'))


def read_labels(path) -> dict:
    "{number on the sheets: Label} of a file of lines; empty lines and those with # are skipped."
    lines = Path(path).read_text("utf8").splitlines()
    return dict(parse_label(x) for x in lines if x.strip() and not x.startswith("#"))


# ---- agreement
def label_of(reading) -> Label:
    "A reading in the terms of a label."
    things = [Seen(t.kind, t.color, *place_name(t.x, t.y)) for t in reading.things]
    return Label(tuple(things), reading.setting, reading.sign.word if reading.sign else "")


def agreements(eye: Label, machine: Label) -> list[tuple]:
    """(sort of fact, kind or None, do they agree) of one picture, for every fact that either
    states. Colours and places are compared where both see one object of a kind."""
    out = [("setting", None, eye.setting == machine.setting)]
    if eye.word or machine.word:
        out.append(("word", None, eye.word == machine.word))
    a, b = (Counter(t.kind for t in x.things if t.kind != UNNAMED) for x in (eye, machine))
    for kind in sorted(a | b):
        out.append(("object", kind, bool(a[kind]) == bool(b[kind])))
        if a[kind] and b[kind]:
            out.append(("count", kind, a[kind] == b[kind]))
            colors = [Counter(t.color for t in x.things if t.kind == kind) for x in (eye, machine)]
            if a[kind] == b[kind]:
                out.append(("color", kind, colors[0] == colors[1]))
        if a[kind] == b[kind] == 1:
            where = [(t.row, t.column) for x in (eye, machine) for t in x.things if t.kind == kind]
            out.append(("place", kind, where[0] == where[1]))
    return out


def rates(rows: list[tuple]) -> dict:
    "Share of agreements by sort of fact and, for objects, by kind, with 95% intervals (Wilson)."
    tally = {}
    for what, kind, same in rows:
        for key in [what, "all"] + ([f"object {kind}"] if what == "object" else []):
            n = tally.setdefault(key, [0, 0])
            n[0] += same
            n[1] += 1
    out = {}
    for key, (same, n) in tally.items():
        interval = binomtest(same, n).proportion_ci(method="wilson")
        out[key] = dict(score=same / n, low=float(interval.low), high=float(interval.high), n=n)
    return out


def named_rightly(eye: Label, wanted: Label) -> list[bool]:
    "For each object wanted: does the eye see one of its kind and colour? ('Looks')"
    seen = Counter((t.kind, t.color) for t in eye.things)
    out = []
    for t in wanted.things:
        found = seen[t.kind, t.color] > 0
        seen[t.kind, t.color] -= found
        out.append(found)
    return out
