import time, torch, numpy as np
torch.set_num_threads(1)
from toyworld.vae_arms import *
from toyworld.ablate_vae import judged, train, Learner
imgs=draw_scenes(scene_of(i) for i in range(8000)); labels=fact_labels([scene_of(i) for i in range(8000)])
print({k:v.shape for k,v in labels.items()}, (labels["kinds"]>0).float().mean())
net=FactNet().to(memory_format=torch.channels_last)
s=conv_config(500); L=Learner(net,s,ConvMuon(net,s,[net.fine[1].weight])); t=time.time()
for st in train(L,fact_step,PictureBatches(imgs,16,labels=labels)):
    if st.step%100==0: print(st.step, round(st.loss,3), st.metrics, f"{st.rate:.0f}/s {time.time()-t:.0f}s", flush=True)
h=draw_scenes(scene_of(i,"test") for i in range(512)); hl=fact_labels([scene_of(i,"test") for i in range(512)])
net.eval(); print(judged(net,signed(h),hl))
torch.save(net.state_dict(),"pilot/scratch_vae/facts.pt")
for a in ARMS.values(): print(a.name, steps_at_cost(a,net,32,1500))
for n in ("vae16b","vae8"):
    v=ToyVAE.from_pretrained("pilot/runs/"+n).eval(); m=measure(v,net,signed(h),hl); print(n,{k:(round(x,3) if isinstance(x,float) else None) for k,x in m.items()})
