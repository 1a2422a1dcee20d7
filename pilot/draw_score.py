"""python draw_score.py RUN VAE ZOOM"""
import sys, random, torch, numpy as np
import torch.nn.functional as F
run, vaef, zoom = sys.argv[1], sys.argv[2], float(sys.argv[3])
torch.set_num_threads(1)
sys.argv = ["x", "unused", vaef, "0", "1"]
import toyworld.world as W
from toyworld.reader import Reader, holds
from lens_ref.dit.transformer import LensTransformer2DModel
from lens_ref.vae.autoencoder import ToyVAE, decode
src = open("pilot/draw_cache.py").read(); i = src.index("table = {}"); j = src.index("lat, tok, lens"); exec(src[i:j])
m = LensTransformer2DModel.from_pretrained(run + "/transformer").eval(); vae = ToyVAE.from_pretrained(vaef).eval()
reader = Reader.load("pilot/runs/reader_main.safetensors")
side = round(64 * zoom); n = side // 16
rng = random.Random(77); S = [W.sample_scene(rng, part="test") for _ in range(120)]
T = [told(s) for s in S]; L = max(map(len, T)); text = torch.zeros(len(S), L, 3, 160); mask = torch.zeros(len(S), L, dtype=torch.bool)
for i, t in enumerate(T): text[i, : len(t)] = t; mask[i, : len(t)] = True
tx = list(text.unbind(2)); C = m.config.in_channels
@torch.no_grad()
def draw(steps, g):
    x = torch.randn(len(S), n * n, C, generator=torch.Generator().manual_seed(1))
    mu = 1.0 if steps > 1 else 0
    s = torch.linspace(1, 0, steps + 1); s = np.e**1.0 * s / (1 + (np.e**1.0 - 1) * s)
    for a, b in zip(s[:-1], s[1:]):
        t = torch.full((len(S),), float(a)); v = m(x, tx, mask, t, (n, n))
        if g != 1: u = m(x, tx, torch.zeros_like(mask), t, (n, n)); v = u + g * (v - u)
        x = x + (b - a) * v
    return decode(vae, x, (n, n))
for steps, g in ((20, 1.0), (20, 2.5), (1, 1.0)):
    y = draw(steps, g)
    y64 = F.interpolate(y, (64, 64), mode="area") if zoom != 1 else y
    R = reader.read(y64); by = {}
    for s, r in zip(S, R):
        for f in W.scene_facts(s): b = by.setdefault(f.what, [0, 0]); b[0] += holds(f, r); b[1] += 1
    print(run, "steps", steps, "g", g, {k: round(a / b, 2) for k, (a, b) in by.items()}, flush=True)
    if steps == 20 and g > 1:
        from PIL import Image
        im = ((y[:40] + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy(); im = np.concatenate([np.concatenate(list(im[i : i + 10]), 1) for i in range(0, 40, 10)])
        Image.fromarray(im).resize((1280, 512), Image.LANCZOS).save(run + ".png")
