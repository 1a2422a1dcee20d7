"""python draw_cache.py OUT VAE N ZOOM: scenes told as fact tokens, to see how drawing is learned."""
import sys, random, torch, numpy as np, time
import toyworld.world as W, toyworld.drawing as D
out, vaef, N, zoom = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
turn = float(sys.argv[5]) if len(sys.argv) > 5 else 1.0
if zoom != 1:
    W.unit = D.unit = lambda h, w: min(h, w) / 64
torch.set_num_threads(1)
from lens_ref.vae.autoencoder import ToyVAE, encode, decode, fit_statistics
from safetensors.torch import save_file
vae = ToyVAE.from_pretrained(vaef).eval(); side = round(64 * zoom)
rng = random.Random(3); g = torch.Generator().manual_seed(0)
table = {}
def token(x):
    if x not in table:
        import zlib
        table[x] = torch.randn(3, 160, generator=torch.Generator().manual_seed(zlib.crc32(x.encode())))
    return table[x]
def told(s):
    out = [token("setting " + s.setting)]
    for t in s.things:
        r, c = W.place_name(t.x, t.y)
        # one token for each thing: bound by construction
        out.append(sum(token(v) for v in ("kind " + t.kind, "color " + t.color, "size " + t.size, f"place {r} {c}")) / 2)
    if s.sign:
        out += [token(f"sign {s.sign.color} {s.sign.place}")] + [token(f"letter {i} {len(s.sign.word)} {ch}") for i, ch in enumerate(s.sign.word)]
    return torch.stack(out)
lat, tok, lens, psnr = [], [], [], []
t0 = time.time()
x = torch.from_numpy(np.stack([D.render(W.sample_scene(rng), side, side) for _ in range(256)])).permute(0, 3, 1, 2).float() / 127.5 - 1
if zoom != 1: fit_statistics(vae, x); vae.save_pretrained(out + "_vae")
for a in range(0, N, 100):
    S = [W.sample_scene(rng) for _ in range(100)]
    x = torch.from_numpy(np.stack([D.render(s, side, side) for s in S])).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16): z = encode(vae, x)
    lat.append(z.half())
    if a == 0: y = decode(vae, z.float(), (side // 16, side // 16)); print("dB", (10 * torch.log10(4 / ((x - y) ** 2).mean())).item(), flush=True)
    for s in S: k = told(s); tok.append(k.bfloat16()); lens.append(len(k))
off = torch.cat([torch.zeros(1, dtype=torch.long), torch.tensor(lens).cumsum(0)])
save_file(dict(latents=torch.cat(lat), tokens=torch.cat(tok), offsets=off, grid=torch.tensor([side // 16] * 2)), out + ".safetensors")
print(N / (time.time() - t0), "per s")
