cd pilot; export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 PYTHONPATH=pilot; PY=python
echo -9 > /proc/self/autogroup
$PY -W ignore scratch_vae/train2.py v16b 16 5e-3 3600 muon 6e-3 vae16b
