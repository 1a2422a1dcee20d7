export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 PYTHONPATH=pilot:.; PY=python; cd pilot
T="taskset -c 0"; M=9
arm() { # name vae zoom
 [ -f draw/$1.safetensors ] || $T $PY draw_cache.py draw/$1 $2 $4 $3
 $T $PY train_dit.py draw/run_$1 "draw/$1.safetensors" --steps 100000 --minutes $M --compile 0 --tokens 3072 $5
 V=$2; [ -d draw/$1_vae ] && V=draw/$1_vae
 $T $PY draw_score.py draw/run_$1 $V $3
}
arm c runs/vae16b 2 8000
