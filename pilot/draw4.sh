export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 PYTHONPATH=pilot:.; PY=python; cd pilot
while pgrep -f "draw.sh" >/dev/null; do sleep 2; done
T="taskset -c 1"
$T $PY train_dit.py draw/run_f "draw/a.safetensors" --steps 100000 --minutes 8 --compile 0 --tokens 3072 --lr 1e-2
$T $PY draw_score.py draw/run_f runs/vae16b 1
