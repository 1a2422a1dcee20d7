export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 PYTHONPATH=pilot:.; PY=python; cd pilot
T="taskset -c 1"
$T $PY draw_cache.py draw/bb runs/vae8 50000 1
$T $PY train_dit.py draw/run_b "draw/bb.safetensors" --steps 100000 --minutes 26 --compile 0 --tokens 3072
$T $PY draw_score.py draw/run_b runs/vae8 1
