"""python score.py RUN VAE ENC --split dense --per 10 --settings 20:3,20:1,1:1"""
import argparse, json, sys, time, torch
from pathlib import Path
ap = argparse.ArgumentParser(); ap.add_argument("run"); ap.add_argument("vae"); ap.add_argument("enc")
ap.add_argument("--splits", default="dense,brief"); ap.add_argument("--per", type=int, default=10); ap.add_argument("--settings", default="20:3")
ap.add_argument("--reader", default="pilot/runs/reader.safetensors"); ap.add_argument("--grid", default=""); ap.add_argument("--nt", type=int, default=1)
a = ap.parse_args(); torch.set_num_threads(a.nt)
from lens_ref.dit.transformer import LensTransformer2DModel
from lens_ref.vae.autoencoder import ToyVAE
from lens_ref.pretrain.pipeline import LensPipeline
from toyworld.encoder import WordEncoder
pipe = LensPipeline(LensTransformer2DModel.from_pretrained(f"{a.run}/transformer").eval(), ToyVAE.from_pretrained(a.vae).eval(), WordEncoder.load(a.enc))
if a.grid:
    from PIL import Image; import numpy as np, random
    from toyworld.splits import split
    typed = ["a red cat", "two apples", "CAT", "a blue house at night", 'a sign that says "OPEN" and a dog', "three yellow stars", "a green car left of a pink balloon", "a purple fish under the sea"]
    ps = typed + [p.text for p in split("dense", 2)][:14] + [p.text for p in split("brief", 2)][:14]
    rows = []
    for steps, g in [(1, 1.0), (20, 1.0), (20, 3.0), (20, 5.0)]:
        x = pipe(ps, num_inference_steps=steps, guidance_scale=g, generator=torch.Generator().manual_seed(0), output_type="signed", height=64, width=64).images
        rows.append(((x + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
    W = 12; n = len(ps); out = []
    for i in range(0, n, W):
        for r in rows:
            b = r[i : i + W]; b = np.concatenate([b, np.zeros((W - len(b), 64, 64, 3), np.uint8)]); out.append(np.concatenate(list(b), 1))
        out.append(np.full((8, W * 64, 3), 255, np.uint8))
    im = Image.fromarray(np.concatenate(out)); im.resize((im.width * 2, im.height * 2), Image.LANCZOS).save(a.grid)
    for i, p in enumerate(ps): print(i, p)
if a.per:
    from toyworld.scores import evaluate
    from toyworld.reader import Reader
    reader = Reader.load(a.reader)
    for sp in a.splits.split(","):
        for st in a.settings.split(","):
            n, g = st.split(":"); t = time.time()
            r = evaluate(pipe, sp, a.per, int(n), float(g), 0, reader=reader)
            print(sp, "steps", n, "g", g, "score %.3f" % r["overall"]["score"], {k: round(r[k]["score"], 2) for k in r if k in ("single", "two", "counting", "colors", "position", "attribute", "text")}, "stated", r.get("stated"), "%.0fs" % (time.time() - t), flush=True)
