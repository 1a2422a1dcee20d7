"train1.py NAME channels kl steps opt lr [save] [width]"
import sys, time, random, os, math
import numpy as np, torch
from lens_ref.vae.autoencoder import ToyVAE, vae_loss, fit_statistics, psnr
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
def main(name, c, kl, steps, kind, lr, save, width=32, bs=16, init=None):
    c,kl,steps,lr,width=int(c),float(kl),int(steps),float(lr),int(width)
    flat=pics("flat",20000,1); odd=[pics(f"odd{i}",1200,20+i,s) for i,s in enumerate(SH)]; held=t(pics("held",512,99,part="test"))
    torch.manual_seed(0)
    m=ToyVAE(c,width).to(memory_format=torch.channels_last)
    if init: m.load_state_dict(ToyVAE.from_pretrained(init).state_dict())
    O=opts(m,kind,lr); warm=50; t0=time.time(); order=np.random.RandomState(0).permutation(20000); k=0
    for i in range(steps):
        r=min(1,(i+1)/warm)*(0.5*(1+math.cos(math.pi*max(0,i-warm)/(steps-warm)))*0.99+0.01)
        for o in O:
            for g in o.param_groups: g["lr"]=lr*r
        if i%8==7:
            src=odd[i//8%3]; n=bs*2//3; idx=np.random.RandomState(i).randint(0,1200,n); x=t(src[np.sort(idx)])
        else:
            idx=order[np.arange(k,k+bs)%20000]; k+=bs; x=t(flat[np.sort(idx)])
        with torch.autocast("cpu",torch.bfloat16):
            loss,q=vae_loss(m,x,torch.randn(x.shape[0],c,x.shape[2]//8,x.shape[3]//8),kl)
        for o in O: o.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(),1.0)
        for o in O: o.step()
        if i%200==199: print(name,i+1,f"{loss.item():.4f} {q.item():.2f} dB {time.time()-t0:.0f}s",flush=True)
    m.eval(); fit_statistics(m, t(flat[:1024]))
    print(name, sys.argv[2:], f"HELD {psnr(m,held):.2f} dB, {time.time()-t0:.0f}s", flush=True)
    if save!="-": m.save_pretrained(f"pilot/runs/{save}")
main(*sys.argv[1:8], *sys.argv[8:9])
