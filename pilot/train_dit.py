"""Pilot: train the transformer on caches. python train_dit.py OUT CACHE_GLOB --steps N ..."""
import argparse, glob, os, sys, time, json, math
import torch, torch.distributed as dist
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights
from lens_ref.pretrain.step import TrainConfig, draw_chances, velocity_errors
from safetensors.torch import save_file, load_file
from muon import Muon, split

ap = argparse.ArgumentParser()
ap.add_argument("out"); ap.add_argument("cache")
ap.add_argument("--steps", type=int, default=6000); ap.add_argument("--batch", type=int, default=96)
ap.add_argument("--lr", type=float, default=3e-3); ap.add_argument("--opt", default="muon"); ap.add_argument("--adam_lr", type=float, default=1.5e-3)
ap.add_argument("--width", type=int, default=128); ap.add_argument("--layers", type=int, default=5)
ap.add_argument("--compile", type=int, default=1); ap.add_argument("--bf16", type=int, default=1)
ap.add_argument("--minutes", type=float, default=0); ap.add_argument("--seed", type=int, default=0)
ap.add_argument("--decay", type=float, default=0.3); ap.add_argument("--ema", type=float, default=0.998)
ap.add_argument("--val", default=""); ap.add_argument("--tokens", type=int, default=0)
a = ap.parse_args()
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
torch.set_num_threads(int(os.environ.get("NT", 1)))
if world > 1:
    dist.init_process_group("gloo")
    os.sched_setaffinity(0, {rank})
os.makedirs(a.out, exist_ok=True)
log = lambda *x: rank == 0 and (print(*x, flush=True), open(f"{a.out}/log.txt", "a").write(" ".join(map(str, x)) + "\n"))
parts = [load_file(p) for p in sorted(glob.glob(a.cache))]
lat = torch.cat([p["latents"] for p in parts]); lens = torch.cat([p["offsets"].diff() for p in parts])
toks = [p["tokens"] for p in parts]; base = []; where = []
for i, p in enumerate(parts):
    where.append(torch.full((len(p["latents"]),), i)); base.append(p["offsets"][:-1])
where, base = torch.cat(where), torch.cat(base)
N, C, D, L = len(lat), lat.shape[2], toks[0].shape[2], toks[0].shape[1]
g = round(lat.shape[1] ** 0.5)
log("samples", N, "channels", C, "mean tokens", lens.float().mean().item())
tc = TrainConfig.preset("toy", steps=max(a.steps, 1000), batch_size=a.batch)

def rows(index):
    S = int(lens[index].max()); S = -(-S // 16) * 16
    text = torch.zeros(len(index), S, L, D); mask = torch.zeros(len(index), S, dtype=torch.bool)
    for j, i in enumerate(index.tolist()):
        n = int(lens[i]); o = int(base[i])
        text[j, :n] = toks[where[i]][o : o + n].float(); mask[j, :n] = True
    return dict(latents=lat[index].float(), text=list(text.unbind(2)), text_mask=mask, grid=(g, g), place=None)

budget = a.tokens or a.batch * (16 + 80)
def order(epoch):
    r = torch.Generator().manual_seed(a.seed * 100003 + epoch)
    p = torch.randperm(N, generator=r)
    out = []
    for q in p.split(48 * a.batch):
        q = q[lens[q].argsort(stable=True)]
        at = 0
        while at < len(q):
            n = a.batch
            for _ in range(4):
                S = -(-int(lens[q[min(at + n, len(q)) - 1]]) // 16) * 16
                n = max(16, min(3 * a.batch, int(budget / (lat.shape[1] + S))) // 16 * 16)
            b = q[at : at + n]
            at += n
            if len(b) == n: out.append(b)
    return [out[i] for i in torch.randperm(len(out), generator=r).tolist()]

torch.manual_seed(a.seed)
size = preset("toy", enc_hidden_dim=D, in_channels=C, out_channels=C // 4, num_layers=a.layers, inner_dim=a.width, num_attention_heads=a.width // 32, **({} if a.width == 128 else {}))
model = init_weights(LensTransformer2DModel(**size.to_dict()))
log("params", sum(p.numel() for p in model.parameters()) / 1e6)
ema = {k: v.clone() for k, v in model.state_dict().items()}
if a.opt == "muon":
    opt = Muon(*split(model), lr=a.lr, adam_lr=a.adam_lr)
else:
    opt = torch.optim.AdamW(model.parameters(), lr=a.adam_lr, betas=(0.9, 0.99), weight_decay=0, fused=True)
base_lr = [gr["lr"] for gr in opt.param_groups]
step = 0; spent = 0.0; seen = 0
ck = f"{a.out}/ck.pt"
if os.path.exists(ck):
    s = torch.load(ck, weights_only=False); model.load_state_dict(s["model"]); ema = s["ema"]; opt.load_state_dict(s["opt"]); step = s["step"]; spent = s["spent"]; seen = s["seen"]
    if a.opt == "muon": opt.n = s["n"]
    log("resumed at", step)
torch._dynamo.config.cache_size_limit = 64
f = torch.compile(model, dynamic=False) if a.compile else model
val = None
if a.val:
    v = load_file(a.val); vi = torch.arange(256)
gen = torch.Generator()
def loss_of(m, b, seed):
    gen.manual_seed(seed)
    mask, t, noise = draw_chances(b, tc, gen)
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(a.bf16)):
        return velocity_errors(m, b, mask, noise, t)
def save(final=False):
    if rank == 0:
        st = dict(model=model.state_dict(), ema=ema, opt=opt.state_dict(), step=step, spent=spent, seen=seen, n=getattr(opt, "n", 0), size=size.to_dict())
        torch.save(st, ck + ".tmp"); os.replace(ck + ".tmp", ck)
        m = LensTransformer2DModel(**size.to_dict()); m.load_state_dict(ema); m.save_pretrained(f"{a.out}/transformer")
start = time.time(); seen_at = time.time(); last = step; last_seen = seen; tot = 0.0; k = 0
ep, od, at = 0, order(0), step
while at >= len(od):
    at -= len(od); ep += 1; od = order(ep)
while step < a.steps:
    if at >= len(od): ep, at = ep + 1, 0; od = order(ep)
    idx = od[at]; at += 1; own = len(idx) // world; seen += len(idx)
    b = rows(idx[rank * own : (rank + 1) * own]); b["place"] = list(range(rank * own, (rank + 1) * own))
    done = step / a.steps if not a.minutes else min(1, (time.time() - start) / 60 / a.minutes)
    if done >= 1: break
    lr = min(1, (step + 1) / 100) * (1 if done < 1 - a.decay else max(0.02, (1 - done) / a.decay))
    for gr, l0 in zip(opt.param_groups, base_lr): gr["lr"] = l0 * lr
    loss = loss_of(f, b, 7919 * step + a.seed).mean(); loss.backward()
    ps = [p for p in model.parameters() if p.grad is not None]
    if world > 1:
        flat = torch.cat([p.grad.flatten() for p in ps]); dist.all_reduce(flat); flat /= world
        at = 0
        for p in ps: p.grad.copy_(flat[at : at + p.numel()].view_as(p)); at += p.numel()
    torch.nn.utils.clip_grad_norm_(ps, 1.0)
    opt.step(); opt.zero_grad(set_to_none=True)
    d = min(a.ema, (step + 1) / (step + 10))
    torch._foreach_lerp_([ema[k_] for k_ in ema], [x for x in model.state_dict().values()], 1 - d)
    step += 1; tot += loss.item(); k += 1
    if step in (5, 20) or step % 100 == 0:
        now = time.time(); rate = (seen - last_seen) / (now - seen_at)
        spent += (now - seen_at) / 60
        log(f"step {step} loss {tot/k:.4f} {rate:.0f} pic/s spent {spent:.1f} min seen {seen} ETA {(a.steps-step)*(now-seen_at)/(step-last)/60:.0f} min"); tot = 0.0; k = 0; last, seen_at, last_seen = step, now, seen
    if step % 500 == 0: save()
save(True); log("done")
