"""python make_cache.py OUT FIRST LAST PER [vae] [enc]: cache parts FIRST..LAST-1 of PER scenes each."""
import sys, random, time, os, torch, numpy as np
from safetensors.torch import save_file
from toyworld.world import sample_scene
from toyworld.drawing import render
from toyworld.wording import dense_caption, brief_caption
from toyworld.encoder import WordEncoder
from lens_ref.vae.autoencoder import ToyVAE, encode
out, first, last, per = sys.argv[1], *map(int, sys.argv[2:5])
vae = ToyVAE.from_pretrained(sys.argv[5]).eval(); enc = WordEncoder.load(sys.argv[6])
share_brief = float(sys.argv[7]) if len(sys.argv) > 7 else 0.3
torch.set_num_threads(1); os.makedirs(out, exist_ok=True)
for part in range(first, last):
    path = f"{out}/{part}.safetensors"
    if os.path.exists(path): continue
    rng = random.Random(f"cache {part}"); t0 = time.time()
    lat, tok, lens = [], [], []
    for a in range(0, per, 128):
        scenes = [sample_scene(rng) for _ in range(min(128, per - a))]
        caps = [str(brief_caption(s, rng) if rng.random() < share_brief else dense_caption(s, rng)) for s in scenes]
        x = torch.from_numpy(np.stack([render(s) for s in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1
        lat.append(encode(vae, x).half())
        text, mask = enc.encode(caps)
        tok.append(torch.stack(text, 2)[mask].bfloat16()); lens.append(mask.sum(1))
    off = torch.cat([torch.zeros(1, dtype=torch.long), torch.cat(lens).cumsum(0)])
    save_file(dict(latents=torch.cat(lat), tokens=torch.cat(tok), offsets=off, grid=torch.tensor([4, 4])), path + ".tmp")
    os.replace(path + ".tmp", path)
    print(part, per / (time.time() - t0), "per s", float(off[-1]) / per, "tokens", flush=True)
