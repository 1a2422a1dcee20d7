export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 PYTHONPATH=pilot:.; PY=python; cd pilot
while pgrep -f draw2.sh >/dev/null; do sleep 2; done
T="taskset -c 0"
$T $PY train_dit.py draw/run_e "draw/a.safetensors" --steps 100000 --minutes 8 --compile 0 --tokens 3072 --width 256
$T $PY draw_score.py draw/run_e runs/vae16b 1
