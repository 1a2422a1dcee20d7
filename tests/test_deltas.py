"""A stage saved as its change of a base: what it says when the base is missing, another one, or of
another shape."""

import json
import shutil

import pytest
import torch

from lens_ref.core.config import CheckpointError, ConfigError
from lens_ref.core.files import data_path
from lens_ref.pretrain.deltas import save_change
from lens_ref.dit.transformer import LensTransformer2DModel
from lens_ref.pretrain.pipeline import LensPipeline

TOY = data_path("toy")


def nudged(scale=0.01):
    pipe = LensPipeline.from_pretrained(TOY)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in pipe.transformer.parameters():
            p += scale * torch.randn(p.shape, generator=g)
    return pipe


def save(pipe, folder, base, **kwargs):
    before = LensPipeline.from_pretrained(base).transformer.state_dict()
    return save_change(pipe.transformer.state_dict(), before, folder, base, pipe.defaults, **kwargs)


@pytest.fixture
def base(tmp_path):
    return shutil.copytree(TOY, tmp_path / "base")


def test_the_share_kept_is_that_of_what_is_loaded_and_the_pipeline_stays_as_it_was(base, tmp_path):
    pipe, start = nudged(), LensPipeline.from_pretrained(TOY).transformer.state_dict()
    before = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    kept = save(pipe, tmp_path / "stage", base, rank=8)
    loaded = LensPipeline.from_pretrained(tmp_path / "stage").transformer.state_dict()
    off = lambda a: sum((a[k].double() - before[k].double()).square().sum().item() for k in before)
    assert 0 < kept < 1  # random changes are not of low rank
    assert kept == pytest.approx(1 - off(loaded) / off(start), abs=1e-9)
    assert all(torch.equal(v, before[k]) for k, v in pipe.transformer.state_dict().items())
    assert json.loads((tmp_path / "stage/model_index.json").read_text())["base"] == "../base"


def test_a_transformer_that_is_given_is_taken_as_it_is(base, tmp_path):
    save(nudged(), tmp_path / "stage", base)
    other = nudged(0.1).transformer
    before = [p.clone() for p in other.parameters()]
    pipe = LensPipeline.from_pretrained(tmp_path / "stage", transformer=other)
    assert pipe.transformer is other and all(map(torch.equal, before, other.parameters()))


def test_the_folders_may_move_together_but_not_apart(base, tmp_path):
    save(nudged(), tmp_path / "stage", base)
    (tmp_path / "new").mkdir()
    for name in ("base", "stage"):
        shutil.move(tmp_path / name, tmp_path / "new" / name)
    LensPipeline.from_pretrained(tmp_path / "new/stage")
    shutil.move(tmp_path / "new/base", tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="base, which is not there"):
        LensPipeline.from_pretrained(tmp_path / "new/stage")


def test_another_base_is_refused(base, tmp_path):
    save(nudged(), tmp_path / "stage", base)
    nudged(1e-3).save_pretrained(base)
    with pytest.raises(CheckpointError, match="another base"):
        LensPipeline.from_pretrained(tmp_path / "stage")


def test_another_shape_is_refused_before_anything_is_written(base, tmp_path):
    pipe = LensPipeline.from_pretrained(TOY)
    small = LensTransformer2DModel(**{**pipe.transformer.config, "num_layers": 2})
    with pytest.raises(ConfigError, match="other shapes"):
        save(LensPipeline(small, pipe.vae, pipe.text_encoder), tmp_path / "stage", base)
    assert not (tmp_path / "stage").exists()


def test_a_cut_file_is_named(base, tmp_path):
    save(nudged(), tmp_path / "stage", base)
    path = tmp_path / "stage/change.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="change.safetensors"):
        LensPipeline.from_pretrained(tmp_path / "stage")
