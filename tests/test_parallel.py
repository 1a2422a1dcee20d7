"""Two processes train the model that one would have trained, stop together, and fail together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lens_ref.core.config import ConfigError, DataError
from lens_ref.core.parallel import Shard, rank, together
from lens_ref.core.runs import read_checkpoint
from lens_ref.pretrain.toy import LineageConfig, ToyWorld, build

TINY = dict(vae_steps=2, texts=100, text_steps=2, samples=64, steps=6, batch_size=16)


def quiet(line):
    pass


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "The folder of a run in one process; the stages before the transformer serve the other runs."
    folder = tmp_path_factory.mktemp("alone")
    build(folder, LineageConfig(**TINY, workers=1), log=quiet)
    return folder


def copy_inputs(alone, folder):
    for name in ("vae", "text_encoder", "cache", "made"):
        os.symlink(alone / name, folder / name)
    return folder


def test_two_processes_train_the_model_of_one(alone, tmp_path):
    build(copy_inputs(alone, tmp_path), LineageConfig(**TINY, workers=2), log=quiet)
    one, two = (read_checkpoint(f / "transformer_run/step_00000006.pt") for f in (alone, tmp_path))
    assert [r["step"] for r in one["history"]] == [r["step"] for r in two["history"]]
    assert one["history"][-1]["val_loss"] == pytest.approx(two["history"][-1]["val_loss"], abs=1e-5)
    # AdamW turns rounding of a tiny gradient into part of a step of 1.5e-3.
    for k, v in one["model"].items():
        assert torch.allclose(v, two["model"][k], atol=2e-4), k
    assert torch.allclose(one["bins"]["count"], two["bins"]["count"]) and torch.equal(
        one["generator"], two["generator"]
    )


def test_stages_side_by_side_are_the_stages_in_a_row(alone, tmp_path):
    build(tmp_path, LineageConfig(**TINY | dict(steps=2), workers=2), log=quiet)
    for name in (
        "vae/diffusion_pytorch_model",
        "text_encoder/model",
        *(f"cache/{i}" for i in range(8)),
    ):
        a, b = (load_file(f / f"{name}.safetensors") for f in (alone, tmp_path))
        assert a.keys() == b.keys() and all(
            torch.allclose(a[k].float(), b[k].float(), atol=1e-2) for k in a
        ), name
    made = {
        m["stage"]: m
        for m in json.loads((tmp_path / "pipeline/lineage.json").read_text())["stages"]
    }
    assert (
        made.keys() == {"vae", "text_encoder", "transformer"}
        and made["transformer"]["steps"] == 2
        and made["vae"]["processes"] == 2
    )


def test_a_signal_to_one_stops_both(alone, tmp_path):
    copy_inputs(alone, tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY | dict(steps=400, workers=2)))
    argv = ["train", "--config", str(config), "--out", str(tmp_path)]
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys; from lens_ref.cli.main import main; sys.exit(main({argv!r}))",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in child.stdout:
        if "transformer  step 10/" in line:
            child.send_signal(signal.SIGTERM)
            break
    rest, _ = child.communicate(timeout=60)
    assert child.returncode == 0 and "stopped at step" in rest
    saved = read_checkpoint(sorted((tmp_path / "transformer_run").glob("step_*.pt"))[-1])
    assert 10 <= saved["step"] < 400 and not (tmp_path / "pipeline").exists()
    deadline = time.monotonic() + 10
    while (
        subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True).stdout
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert not subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True).stdout


def test_a_signal_to_one_stops_the_other_while_they_train_apart(tmp_path):
    "Autoencoder and language model train side by side; a signal reaches one of them."
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY | dict(vae_steps=5000, text_steps=5000, workers=2)))
    argv = ["train", "--config", str(config), "--out", str(tmp_path)]
    code = f"import sys; from lens_ref.cli.main import main; sys.exit(main({argv!r}))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    seen = set()
    for line in child.stdout:
        seen |= {name for name in ("vae", "text") if f"{name}  step 10/" in line}
        if len(seen) == 2:
            child.send_signal(signal.SIGTERM)
            break
    rest, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    assert "vae stopped at step" in rest and "text stopped at step" in rest
    for name in ("vae", "text"):
        saved = read_checkpoint(sorted((tmp_path / f"{name}_run").glob("step_*.pt"))[-1])
        assert 10 <= saved["step"] < 5000


class Broken(ToyWorld):
    "Captions cannot be read: the second process meets that while the first trains the autoencoder."

    def captions(self, n, seed):
        raise DataError("metadata.jsonl:7: the caption `text` is empty")


def test_an_error_in_the_second_process_reaches_the_first(tmp_path):
    with pytest.raises(DataError, match="metadata.jsonl:7"):
        build(tmp_path, LineageConfig(**TINY, workers=2), Broken(), log=quiet)


def test_alone_a_process_has_all_rows_of_any_batch():
    class Tokens:
        def batch(self, step):
            return dict(ids=torch.arange(6)[:, None] + step)

    own = Shard(Tokens()).batch(2)
    assert own["place"] == [0, 1, 2, 3, 4, 5] and own["ids"][:, 0].tolist() == [2, 3, 4, 5, 6, 7]


def test_workers_must_divide_the_batch_and_processes_must_start():
    with pytest.raises(ConfigError, match="workers.*must divide batch_size=48"):
        LineageConfig(workers=5)
    with pytest.raises(ConfigError, match="samples"):
        LineageConfig(samples=4, batch_size=2)
    assert LineageConfig(workers=3).processes == 3 and together(1, max, 2, 5) == 5


def beat(folder):
    "Each process says that it is alive, again and again."
    while True:
        (folder / str(rank())).write_text(str(time.monotonic()))
        time.sleep(0.05)


def test_processes_end_with_the_one_that_started_them(tmp_path):
    "Killed outright, it cannot take its helpers along: they notice."
    code = "import sys, test_parallel as T; T.together(2, T.beat, T.Path(sys.argv[1]))"
    starter = subprocess.Popen(
        [sys.executable, "-c", f"if __name__ == '__main__': {code}", str(tmp_path)],
        env=os.environ
        | dict(PYTHONPATH=f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"),
    )
    for _ in range(3000):  # a busy machine may take its time to start two processes
        if (tmp_path / "1").exists() or starter.poll() is not None:
            break
        time.sleep(0.1)
    assert starter.poll() is None and (tmp_path / "1").exists()
    starter.kill()
    starter.wait()
    time.sleep(1.5)
    before = (tmp_path / "1").read_text()
    time.sleep(0.5)
    assert (tmp_path / "1").read_text() == before
