import time, torch
from lens_ref.vae.autoencoder import ToyVAE, vae_loss
from torch.profiler import profile, ProfilerActivity
torch.set_num_threads(1)
m = ToyVAE(8,32).to(memory_format=torch.channels_last)
opt = torch.optim.AdamW(m.parameters(), 1e-3, fused=True)
x = torch.rand(16,3,64,64).mul(2).sub(1).contiguous(memory_format=torch.channels_last)
def step():
    with torch.autocast('cpu', torch.bfloat16):
        loss,_ = vae_loss(m, x, torch.randn(16,8,8,8))
    opt.zero_grad(); loss.backward(); opt.step()
for _ in range(5): step()
with profile(activities=[ProfilerActivity.CPU]) as p:
    for _ in range(10): step()
print(p.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=40))
