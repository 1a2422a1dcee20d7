cd pilot; export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 PYTHONPATH=pilot; PY=python
$PY -W ignore scratch_vae/train1.py v16 16 1e-2 1500 muon 8e-3 vae16
$PY -W ignore scratch_vae/train1.py v8 8 5e-3 1500 muon 8e-3 vae8
