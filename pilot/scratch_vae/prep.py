import random, time, numpy as np, sys
from toyworld.world import sample_scene
from toyworld.drawing import render
t=time.time(); rng=random.Random(7)
n=2000
a=np.stack([render(sample_scene(rng,part="train")) for _ in range(n)])
print("render/s", n/(time.time()-t))
