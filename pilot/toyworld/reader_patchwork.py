"""Pictures put together from the latents of several, as half-trained models draw them."""

from dataclasses import replace

import numpy as np
import torch

from .drawing import background, board_box
from .reader import LETTERS, READABLE
from .reader_pictures import (
    NOTHING,
    OUTLINES,
    SEEN,
    UNCLEAR,
    Labels,
    look_anew,
    place,
    some_scene,
    some_word,
    visible,
    write,
)
from .world import COLORS, SETTINGS

PATCHWORKS = 25  # pictures that go through an autoencoder together


def _versions(thing, k, rng, height, width):
    "The `k` versions of a thing whose parts are put together, and what to make of it."
    how = rng.choice(["whole", "whole", "looks", "looks", "kinds"])
    if how == "whole":
        return [thing] * k, SEEN
    spread = rng.uniform(0, 3)
    new = [look_anew(thing, rng, spread, height, width) for _ in range(k)]
    if how == "looks" or thing.kind == "ring":
        unlike = len({(t.art, t.mirror) for t in new})
        return new, UNCLEAR if unlike < 3 or thing.kind in OUTLINES else NOTHING
    others = rng.sample([x for x in READABLE if x not in (thing.kind, "ring")], k)
    mixed = rng.random() < 0.5
    colors = [rng.choice(list(COLORS)) if mixed else thing.color for _ in new]
    return [
        look_anew(replace(t, kind=kind, color=c), rng, 0, height, width)
        for t, kind, c in zip(new, others, colors)
    ], NOTHING


def _words(sign, k, rng):
    "The same word `k` times, or others of its length."
    if rng.random() < 0.5:
        return [sign.word] * k
    words = [sign.word]
    while len(words) < k:
        word = some_word(rng)
        if len(word) == len(sign.word):
            words.append(word)
    return words


def _one_letter(chars):
    "Number of a letter that is put together from several: itself if they are the same; of two: -1."
    unlike = len(set(chars))
    return -1 if unlike == 2 else LETTERS.index(chars[0] if unlike == 1 else "?")


def versions(rng, k: int, height: int, width: int):
    """`k` pictures [k, H, W, 3] in [0, 255] of one setting whose things and letters differ, and
    the labels of the picture that is put together from their parts."""
    things, setting, sign, backdrop = some_scene(rng, height, width)
    sets = [_versions(t, k, rng, height, width) for t in things]
    words = _words(sign, k, rng) if sign else None
    pictures, rows = [], []
    for i in range(k):
        img = background(setting, height, width, backdrop)
        found, shown = place(img, [new[i] for new, _ in sets], 0, rng)
        if sign:
            top, left, bottom, right = board_box(sign.place, height, width)
            for mask in shown:
                mask[top:bottom, left:right] = 0
            write(img, replace(sign, word=words[i]), 0, rng, labels := Labels())
        pictures.append(img)
        rows = rows or (found, shown)
    labels = labels if sign else Labels()
    labels.setting = SETTINGS.index(setting)
    for row, (_, seen) in zip(rows[0], sets):
        row[0] = seen
    labels.rows = visible(*rows)
    if sign:
        at = ("top", "bottom").index(sign.place)
        if labels.length[at]:
            letters = [_one_letter(chars) for chars in zip(*words)]
            labels.letters[at][: len(letters)] = letters
    return np.stack(pictures), labels.array()


def patchworks(rng, vae, n: int, height: int, width: int):
    """`n` pictures [n, H, W, 3] uint8 decoded from latents each of whose cells comes from one of
    two to four versions, some with noise; and their labels."""
    out, labels = [], []
    for _ in range(-(-n // PATCHWORKS)):
        k = rng.choice([2, 3, 3, 4])
        sets, rows = zip(*[versions(rng, k, height, width) for _ in range(PATCHWORKS)])
        x = torch.from_numpy(np.stack(sets, 1)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            z = vae.encode(x.flatten(0, 1)).latent_dist.mode().float().unflatten(0, (k, -1))
            pick = torch.randint(0, k, (1, PATCHWORKS, 1, *z.shape[-2:]))
            z = z.gather(0, pick.expand(-1, -1, z.shape[2], -1, -1))[0]
            noise = rng.choice([0, rng.uniform(0, 0.5)])
            z = z + noise * z.std((0, 2, 3), keepdim=True) * torch.randn_like(z)
            decoded = vae.decode(z).sample.float()
        decoded = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        out.append(decoded.permute(0, 2, 3, 1).numpy())
        labels += rows
    return np.concatenate(out)[:n], np.stack(labels[:n])
