import time, torch
from lens_ref.vae.autoencoder import ToyVAE, vae_loss
torch.set_num_threads(1)
def run(bf16, comp, bs, width=32, secs=8, c=8):
    torch.manual_seed(0); bf16=bool(bf16)
    m = ToyVAE(c, width).to(memory_format=torch.channels_last)
    opt = torch.optim.AdamW(m.parameters(), 1e-3, fused=True)
    x = torch.rand(bs,3,64,64).mul(2).sub(1).contiguous(memory_format=torch.channels_last)
    def f(x, n):
        with torch.autocast('cpu', torch.bfloat16, enabled=bool(bf16)):
            return vae_loss(m, x, n)
    g = torch.compile(f) if comp else f
    t0=time.time(); n=0
    def step():
        loss,_ = g(x, torch.randn(bs,c,8,8)); opt.zero_grad(); loss.backward(); opt.step()
    step(); step(); t1=time.time()
    while time.time()-t1<secs: step(); n+=bs
    dt=time.time()-t1
    print(f"bf16={bf16} compile={comp} bs={bs} width={width} c={c}: {n/dt:.1f} pic/s, warm {t1-t0:.1f}s", flush=True)
for a in [(0,0,16),(1,0,16),(1,0,32),(1,1,16),(1,1,32),(0,1,16)]:
    try: run(*a)
    except Exception as e: print(a, repr(e)[:300], flush=True)
