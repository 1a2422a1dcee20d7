"""How well a reader reads: pictures that are right, things that are not there, and mush."""

import argparse
import random
import time
from dataclasses import replace

import numpy as np
import torch
from lens_ref.vae.autoencoder import ToyVAE

from .drawing import background, corner, render, spaced
from .reader import Reader, Reading, holds, passes
from .reader_pictures import FLAWS, NOTHING, place
from .reader_shards import through_autoencoder
from .second_reader import SecondReader
from .world import COLORS, PARTS, SKILLS, SPRITES, Fact, sample_scene, scene_facts, vary

# Parts of the world that only some skills have.
PART_SKILLS = {"signs": ("text",), "layouts": ("two", "attribute")}


def as_batch(pictures) -> torch.Tensor:
    "Pictures [H, W, 3] in [0, 255] -> [B, 3, H, W] in [-1, 1]."
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def some_scenes(n: int, seed: int, skill=None) -> list:
    "Scenes of all parts of the world in turn, of one skill or of any."
    rng, out = random.Random(seed), []
    for i in range(n):
        part = list(PARTS)[i % len(PARTS)]
        able = PART_SKILLS.get(part, SKILLS)
        if skill and skill not in able:
            part = "test"
        out.append(sample_scene(rng, skill or rng.choice(able), part))
    return out


def seen_through(vae):
    "A change of pictures [B, 3, H, W]: through the autoencoder."
    return lambda x: torch.cat([through_autoencoder(vae, part) for part in x.split(64)])


def truth(scene, height=64, width=64) -> Reading:
    "What a perfect reader would see in a render of this size."
    things = []
    for t in spaced(scene.things, height, width):
        y, x, n = corner(t, height, width)
        things.append(replace(t, x=(x + n / 2) / width, y=(y + n / 2) / height))
    sure = (1.0,) * len(things)
    return Reading(tuple(things), sure, scene.setting, scene.sign, (height, width))


def _add(tally, key, right, n=1):
    before = tally.get(key, (0, 0))
    tally[key] = before[0] + right, before[1] + n


def fact_shares(reader, scenes, height=64, width=64, change=None) -> dict:
    """How many of the scenes' facts hold in their renders, by kind of fact: {what: (right,
    facts)}; `change`: what is done to the pictures [B, 3, H, W] first. Facts that the size of the
    picture itself makes false are left out."""
    x = as_batch([render(s, height, width) for s in scenes])
    readings, tally = reader.read(x if change is None else change(x)), {}
    for s, r in zip(scenes, readings):
        perfect = truth(s, height, width)
        for f in scene_facts(s):
            if holds(f, perfect):
                _add(tally, f.what, holds(f, r))
                _add(tally, "all", holds(f, r))
    return tally


def pose_shares(reader, scenes) -> dict:
    """How many artworks and mirrorings of the things found are right, how many turns are within 5
    degrees and places within 1.5 pixels: {what: (right, things)}."""
    tally = {}
    for s, r in zip(scenes, reader.read(as_batch([render(s) for s in scenes]))):
        for t in truth(s).things:
            near = [o for o in r.of(t.kind) if max(abs(o.x - t.x), abs(o.y - t.y)) < 6 / 64]
            _add(tally, "found", bool(near))
            if near and t.kind != "ring":
                o = near[0]
                far = 64 * max(abs(o.x - t.x), abs(o.y - t.y))
                for what, right in (
                    ("art", o.art == t.art),
                    ("mirror", o.mirror == t.mirror),
                    ("turn", abs(o.turn - t.turn) < 5),
                    ("place", far < 1.5),
                ):
                    _add(tally, what, right)
    return tally


def pass_shares(reader, per_skill=200, seed=5, change=None) -> dict:
    "Passes by skill when all facts are stated: {skill: (passes, pictures)}."
    out = {}
    for skill in SKILLS:
        scenes = some_scenes(per_skill, seed, skill)
        x = as_batch([render(s) for s in scenes])
        for s, r in zip(scenes, reader.read(x if change is None else change(x))):
            _add(out, skill, passes(scene_facts(s), r, skill))
    return out


def _false_facts(scene, gone, rng):
    "[(name, fact)] that are false of the scene without the thing `gone`."
    kind, had = gone.kind, len(scene.groups[gone.kind])
    out = [("one left out", Fact("count", (kind, had)))]
    if had == 1:
        out = [("object left out", Fact("object", (kind,)))]
    other = rng.choice([k for k in SPRITES if k not in scene.groups])
    out.append(("another kind", Fact("object", (other,))))
    rest = [t for t in scene.things if t is not gone]
    if rest:
        t = rng.choice(rest)
        color = rng.choice([c for c in COLORS if c != t.color])
        out.append(("another color", Fact("color", (t.kind, color))))
    return out


def false_alarms(reader, n=500, seed=6, change=None) -> dict:
    """How many false facts hold: of an object that was left out, of the count before one was left
    out, of a kind that never was there, of another colour: {what: (alarms, facts)}."""
    rng, pictures, asked, tally = random.Random(seed), [], [], {}
    for scene in some_scenes(n, seed):
        if scene.things:
            gone = rng.choice(scene.things)
            left = replace(scene, things=tuple(t for t in scene.things if t is not gone))
            pictures.append(render(left))
            asked.append(_false_facts(scene, gone, rng))
    x = as_batch(pictures)
    for facts, r in zip(asked, reader.read(x if change is None else change(x))):
        for name, f in facts:
            _add(tally, name, holds(f, r))
    return tally


def _spoilt(flaw, rng):
    "A picture of one thing spoilt beyond recognition, and its kind."
    while True:
        scene = sample_scene(rng, "single")
        img = background(scene.setting, 64, 64, scene.backdrop)
        rows, _ = place(img, scene.things, 1.0, rng, flaw)
        if rows[0][0] == NOTHING:
            return img.clip(0, 255), scene.things[0].kind


def flaw_alarms(reader, each=150, seed=7) -> dict:
    """Objects spoilt beyond recognition in which something is seen all the same: {flaw: (what it
    was, anything, objects)}."""
    rng, out = random.Random(seed), {}
    for flaw in FLAWS:
        if flaw.__name__ == "_motley":
            continue  # of two colours, but an object
        pictures, kinds = zip(*[_spoilt(flaw, rng) for _ in range(each)])
        readings = reader.read(as_batch(pictures))
        same = sum(bool(r.of(k)) for r, k in zip(readings, kinds))
        out[flaw.__name__[1:]] = same, sum(bool(r.things) for r in readings), each
    return out


def one_step(reader, n=300, seed=8, looks=16) -> dict:
    """What holds in the average of `looks` renders with the same kinds, colours, places and sign,
    the best picture that one step can draw: {skill: (passes, pictures)}, and all objects."""
    rng, tally, pictures, asked = random.Random(seed), {}, [], []
    for i in range(n):
        skill = SKILLS[i % len(SKILLS)]
        scene = sample_scene(rng, skill)
        parts = [render(vary(scene, rng)).astype(np.float32) for _ in range(looks)]
        pictures.append(np.mean(parts, 0))
        asked.append((skill, scene_facts(scene)))
    for (skill, facts), r in zip(asked, reader.read(as_batch(pictures))):
        _add(tally, skill, passes(facts, r, skill))
        for f in facts:
            if f.what == "object":
                _add(tally, "objects", holds(f, r))
    return tally


def speed(reader, n=256) -> float:
    "Pictures of 64 by 64 read in a second of this process's time."
    x = as_batch([render(s) for s in some_scenes(n, 9)])
    reader.read(x)
    start = time.process_time()
    reader.read(x)
    return n / (time.process_time() - start)


def shares(tally: dict) -> str:
    "A tally in percent, on one line."
    return "  ".join(f"{k} {100 * a / n:.1f}" for k, (a, n) in tally.items())


def report(reader, vaes: dict, n=1000):
    "Print all measures. vaes: {name: autoencoder}."
    scenes = some_scenes(n, 77)
    print("facts, clean       ", shares(fact_shares(reader, scenes)), flush=True)
    for name, vae in vaes.items():
        through = fact_shares(reader, scenes, change=seen_through(vae))
        print(f"facts, {name:12}", shares(through), flush=True)
    for size in ((64, 96), (96, 64), (96, 96), (128, 80)):
        print(f"facts, {size!s:12}", shares(fact_shares(reader, scenes[: n // 3], *size)))
    print("poses              ", shares(pose_shares(reader, scenes)))
    print("passes, clean      ", shares(pass_shares(reader, n // 5)), flush=True)
    for name, vae in vaes.items():
        through = pass_shares(reader, n // 5, change=seen_through(vae))
        print(f"passes, {name:11}", shares(through), flush=True)
    print("false alarms       ", shares(false_alarms(reader, n)))
    found = flaw_alarms(reader, n // 5)
    print("spoilt, as it was  ", shares({k: (a, c) for k, (a, _, c) in found.items()}))
    print("spoilt, as anything", shares({k: (b, c) for k, (_, b, c) in found.items()}))
    print("average of 16      ", shares(one_step(reader, n // 3)))
    print(f"pictures a second   {speed(reader):.0f}", flush=True)


def main():
    "Command line: see --help."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--second", action="store_true", help="of the second reader")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--vae", nargs="*", default=(), help="folders of autoencoders")
    args = parser.parse_args()
    torch.set_num_threads(1)
    reader = (SecondReader if args.second else Reader).load(args.weights)
    vaes = {f.rstrip("/").split("/")[-1]: ToyVAE.from_pretrained(f).eval() for f in args.vae}
    report(reader, vaes, args.scenes)


if __name__ == "__main__":
    main()
