export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 PYTHONPATH=pilot:.; PY=python; cd pilot
while pgrep -f draw3.sh >/dev/null; do sleep 2; done
T="taskset -c 0"
$T $PY train_dit.py draw/run_g "draw/a.safetensors" --steps 100000 --minutes 8 --compile 0 --tokens 1024 --opt muon --lr 3e-3
$T $PY draw_score.py draw/run_g runs/vae16b 1
