"refine.py MINUTES [HOME]: sharpen the decoder of a saved ToyVAE; its latents stay as they are."
import sys, time, random, os, math
import numpy as np, torch
from torch.nn import functional as F
from lens_ref.vae.autoencoder import ToyVAE, edges, psnr
from toyworld.world import sample_scene
from toyworld.drawing import render
torch.set_num_threads(1)
CACHE="pilot/scratch_vae/cache"; os.makedirs(CACHE, exist_ok=True)
SH=[(64,96),(96,64),(80,80)]
def pics(name, n, seed, shape=(64,64), part="train"):
    p=f"{CACHE}/{name}.npy"
    if not os.path.exists(p):
        rng=random.Random(seed); t=time.time()
        a=np.stack([render(sample_scene(rng,part=part),*shape) for _ in range(n)])
        np.save(p,a); print(name, n, "rendered", round(time.time()-t,1), flush=True)
    return np.load(p, mmap_mode="r")
def t(a): return torch.from_numpy(np.ascontiguousarray(a)).permute(0,3,1,2).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
class Muon(torch.optim.Optimizer):
    def __init__(s, params, lr, m=0.95, wd=1e-3): super().__init__(params, dict(lr=lr, m=m, wd=wd))
    @torch.no_grad()
    def step(s):
        for g in s.param_groups:
            for p in g["params"]:
                st=s.state[p]
                if not st: st["b"]=torch.zeros_like(p)
                b=st["b"].lerp_(p.grad,1-g["m"]); u=p.grad.lerp(b,g["m"]).flatten(1)
                tr=u.shape[0]>u.shape[1]
                X=(u.T if tr else u).bfloat16(); X=X/(X.norm()+1e-7)
                for _ in range(5):
                    A=X@X.T; X=3.4445*X+(-4.7750*A+2.0315*A@A)@X
                X=X.T if tr else X
                p.mul_(1-g["lr"]*g["wd"]); p.add_(X.reshape(p.shape).to(p.dtype), alpha=-g["lr"]*0.2*math.sqrt(max(u.shape)))
def opts(m, kind, lr):
    mats=[p for n,p in m.named_parameters() if p.ndim==4]; rest=[p for p in m.parameters() if p.ndim!=4]
    if kind=="adam": return [torch.optim.AdamW([dict(params=mats,weight_decay=1e-3),dict(params=rest,weight_decay=0.)],lr,(0.9,0.99),fused=True)]
    first=[m.encoder[1].weight, m.decoder[-2].weight]; ids={id(p) for p in first}
    return [Muon([p for p in mats if id(p) not in ids],lr), torch.optim.AdamW(first+rest,lr,(0.9,0.99),weight_decay=0.,fused=True)]
def main(minutes, home="pilot/runs/vae16b", lr=4e-3, bs=16):
    "Train the decoder alone, encoder and statistics frozen; saves to HOME when better on held-out."
    flat=pics("flatb",30000,2); odd=[pics(f"oddb{i}",2400,40+i,s) for i,s in enumerate(SH)]; held=t(pics("held",512,99,part="test"))
    torch.manual_seed(int(time.time())); m=ToyVAE.from_pretrained(home).to(memory_format=torch.channels_last); c=m.config.latent_channels
    before=psnr(m.eval(),held); m.encoder.requires_grad_(False)
    mats=[p for p in m.decoder.parameters() if p.ndim==4][:-1]; ids={id(p) for p in mats}
    O=[Muon(mats,lr),torch.optim.AdamW([p for p in m.decoder.parameters() if id(p) not in ids],lr,(0.9,0.99),weight_decay=0.,fused=True)]
    t0=time.time(); i=0; end=60*float(minutes)
    while (now:=time.time()-t0)<end:
        r=min(1,(i+1)/100)*max(0.01,0.5*(1+math.cos(math.pi*now/end)))
        for o in O:
            for g in o.param_groups: g["lr"]=lr*r
        if i%8==7: x=t(odd[i//8%3][np.sort(np.random.randint(0,2400,bs*2//3))])
        else: x=t(flat[np.sort(np.random.randint(0,30000,bs))])
        with torch.autocast("cpu",torch.bfloat16):
            with torch.no_grad(): d=m.encode(x).latent_dist
            y=m.decode(d.mean+d.std*torch.randn_like(d.mean)).sample
            loss=F.l1_loss(y,x)+8*F.mse_loss(y,x)+sum(F.l1_loss(a,b) for a,b in zip(edges(y),edges(x)))
        for o in O: o.zero_grad()
        loss.backward(); torch.nn.utils.clip_grad_norm_(m.decoder.parameters(),1.0)
        for o in O: o.step()
        i+=1
        if i%200==0: print(i,f"{loss.item():.4f} {now:.0f}s",flush=True)
    after=psnr(m.eval(),held); print(f"held-out {before:.2f} -> {after:.2f} dB, {i} steps",flush=True)
    if after>before: m.save_pretrained(home)
if __name__=="__main__": main(*sys.argv[1:3])
