cd pilot; export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 PYTHONPATH=pilot; PY=python
$PY scratch_vae/train1.py a 8 5e-3 250 adam 2e-3 -
$PY scratch_vae/train1.py b 8 5e-3 250 muon 4e-3 -
$PY scratch_vae/train1.py c 8 5e-3 250 muon 1e-2 -
