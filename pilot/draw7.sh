export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 PYTHONPATH=pilot:.; PY=python; cd pilot
T="taskset -c 0"
$T $PY -W ignore scratch_vae/train1.py v4 4 5e-3 1300 muon 8e-3 vae4
$T $PY draw_cache.py draw/v4 runs/vae4 16000 1
$T $PY train_dit.py draw/run_v4 "draw/v4.safetensors" --steps 100000 --minutes 8 --compile 0 --tokens 3072
$T $PY draw_score.py draw/run_v4 runs/vae4 1
