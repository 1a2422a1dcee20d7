"""Settings that must hold before torch starts, and the `gpu` marker."""

import os

import pytest

for name, value in dict(
    OMP_WAIT_POLICY="PASSIVE",
    OMP_NUM_THREADS="2",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    MPLBACKEND="agg",
).items():
    os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items):
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in wanting:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
