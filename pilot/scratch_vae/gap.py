import numpy as np, torch, random, time
from lens_ref.vae.autoencoder import *
from toyworld.world import sample_scene
from toyworld.drawing import render
torch.set_num_threads(1); torch.set_grad_enabled(False)
t=lambda a: torch.from_numpy(np.ascontiguousarray(a)).permute(0,3,1,2).float()/127.5-1
v=ToyVAE.from_pretrained("pilot/runs/vae16b").eval()
seen=np.load("scratch_vae/cache/flatb.npy",mmap_mode="r")[:384]
rng=random.Random(777)
fresh=np.stack([render(sample_scene(rng)) for _ in range(384)])
test=np.load("scratch_vae/cache/held.npy")[:384]
def f(x):
    y=decode(v,encode(v,x),(4,4)); e=((y-x)**2).mean((1,2,3)); return f"pooled {10*torch.log10(4/e.mean()):.2f} mean {(10*torch.log10(4/e)).mean():.2f}; batches of 16 {np.mean([10*np.log10(4/b.mean().item()) for b in e.split(16)]):.2f}"
for n,a in (("seen",seen),("fresh",fresh),("test",test)): print(n,f(t(a)))
print("odd seen", f(t(np.load("scratch_vae/cache/oddb0.npy")[:96])) if 0 else "")
ts=[]
z=torch.randn(1,16,64)
for _ in range(60):
    s=time.perf_counter(); decode(v,z,(4,4)); ts.append(time.perf_counter()-s)
print("decode one, fastest", min(ts)*1e3)
z=torch.randn(32,16,64); ts=[]
for _ in range(6):
    s=time.perf_counter(); decode(v,z,(4,4)); ts.append(time.perf_counter()-s)
print("decode 32, fastest per picture", min(ts)*1e3/32)
