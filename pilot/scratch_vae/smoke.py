import sys, time, torch, shutil
torch.set_num_threads(1)
from toyworld.ablate_vae import *
from toyworld import ablate_vae as A
class Dummy:
    pass
out="pilot/scratch_vae/smoke"
if "--new" in sys.argv: shutil.rmtree(out, ignore_errors=True)
def score(images, scenes, skills): return [float(((x.mean()>0).item())) for x in images]
asked=Asked(FactTokens(), lambda s: s, score)
c=AblationConfig(arms=("few","many_semantic","noisy"), seeds=2, pictures=96, held_out=32, fact_steps=4, vae_steps=6, steps=6, batch_size=16, layers=2, score_every=2, per_skill=1, sampling_steps=2)
t=time.time()
r=ablate(out,c,asked)
print(time.time()-t)
print(table(r)); print(predictors(r)); plot(r).savefig(out+"/plot.png")
