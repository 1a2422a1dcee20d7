import sys, numpy as np, torch, time
from PIL import Image
from lens_ref.vae.autoencoder import *
torch.set_num_threads(1)
a=np.load("pilot/scratch_vae/cache/held.npy")[:512]
x=torch.from_numpy(a).permute(0,3,1,2).float()/127.5-1
def up(t): # [n,3,64,64]->row
    u=((t.clamp(-1,1)+1)*127.5).round().byte().permute(0,2,3,1).numpy()
    return np.concatenate(list(u),1)
torch.set_grad_enabled(False)
for name in sys.argv[1:]:
    v=ToyVAE.from_pretrained(f"pilot/runs/{name}").eval()
    z=encode(v,x); y=decode(v,z,(4,4))
    per=10*torch.log10(4/((y-x)**2).mean((1,2,3)))
    for _ in range(3): decode(v,z[:1],(4,4))
    t=time.time(); [decode(v,z[:1],(4,4)) for _ in range(20)]; dt=(time.time()-t)/20
    d=v.encode(x[:128]).latent_dist; 
    C=np.cov(z.reshape(-1,z.shape[-1]).numpy().T); e=np.linalg.eigvalsh(C).clip(1e-9); p=e/e.sum()
    m=d.mean; sm=(m[...,1:]*m[...,:-1]).mean((0,2,3))/(m**2).mean((0,2,3))
    print(f"{name}: {psnr(v,x):.2f} dB pooled, mean per picture {per.mean():.2f}, worst 5% {per.quantile(.05):.2f}; decode one {1e3*dt:.2f} ms; kl/number {(0.5*(d.mean**2+d.var-1-d.logvar)).mean():.2f} nats, per picture {(0.5*(d.mean**2+d.var-1-d.logvar)).sum()/128:.0f}; std of means {d.mean.std((0,2,3)).numpy().round(2)}; posterior std {d.std.mean((0,2,3)).detach().numpy().round(3)}; eff rank {np.exp(-(p*np.log(p)).sum()):.1f} of {len(e)}")
    n=14; rows=[]
    for r in range(4):
        s=slice(r*n,(r+1)*n); rows+= [up(x[s]),up(y[s])]
    im=Image.fromarray(np.concatenate(rows,0)); im.resize((im.width*2,im.height*2),0).save(f"pilot/runs/{name}.png")
    im3=Image.fromarray(np.concatenate([np.concatenate([up(x[r*8:r*8+8]),up(y[r*8:r*8+8])],0) for r in range(4)],0)); im3.resize((im3.width*3,im3.height*3),0).save(f"pilot/runs/{name}_3x.png")
