import time, torch
torch.set_num_threads(1)
from toyworld.ablate_vae import *
from toyworld.vae_arms import *
asked=Asked(FactTokens(), lambda s:s, None)
sc=[scene_of(i) for i in range(512)]; text=text_of(asked,sc); print({k:v.shape for k,v in text.items()}, "facts", text["offsets"].diff().float().mean())
for name in ("few","many"):
  arm=ARMS[name]; c=AblationConfig()
  print(name,"equal steps",equal_steps(arm,text,c))
  for prec in ("fp32","bf16"):
    m=init_weights(LensTransformer2DModel(**transformer_sizes(arm,text,c.layers).to_dict()))
    tc=transformer_config(c,500,0).replace(precision=prec)
    L=Learner(m,tc); d=CachedData(dict(latents=torch.randn(512,16,4*arm.channels).half(),grid=torch.tensor(GRID),**text),64,0)
    t=time.time(); n=0
    for i in range(2000):
        L.advance(pretrain_step,d.batch(i)); n+=1
        if time.time()-t>5: break
    print(name,prec,sum(p.numel() for p in m.parameters())/1e6,"M", n*64/(time.time()-t),"pictures/s")
