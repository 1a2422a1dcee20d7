"""A distilled model beside its teacher: python benchmarks/turbo_quality.py --out turbo_shipped.json

Toy GenEval, diversity, Fréchet distance, passes of the network and seconds."""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from lens_ref.core.files import atomic_write, data_path
from lens_ref.pretrain.pipeline import LensPipeline
from lens_ref.turbo.findings import (
    TEACHERS,
    TurboAblationConfig,
    feature_net,
    frechet,
    measure_student,
    paired_seconds,
    real_features,
    turbo_table,
)


def main():
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--teacher", default=str(data_path("toy-rl")))
    ask.add_argument("--student", default=str(data_path("toy-turbo")))
    ask.add_argument("--per-skill", type=int, default=50)
    ask.add_argument("--out", required=True, help="JSON file of the rows")
    a = ask.parse_args()
    torch.set_num_threads(1)
    teacher, student = map(LensPipeline.from_pretrained, (a.teacher, a.student))
    config = TurboAblationConfig(per_skill=a.per_skill)
    with tempfile.TemporaryDirectory() as folder:
        net = feature_net(Path(folder) / "features.safetensors", config.feature_steps)
    real = real_features(net, a.per_skill, 0)
    rows = [
        dict(arm=name, seed=0, minutes=0.0, **measure_student(teacher, config, net, real, **how))
        for name, how in TEACHERS.items()
    ]
    rows[0]["floor"] = round(frechet(real_features(net, a.per_skill, 10_000), real), 4)
    made = Path(a.student) / "lineage.json"
    minutes = json.loads(made.read_text("utf8"))["turbo"]["minutes"] if made.is_file() else 0.0
    rows.append(
        dict(
            arm="student",
            seed=0,
            minutes=minutes,
            **measure_student(student, config, net, real),
            seconds=paired_seconds(teacher, student),
            by_steps={
                n: measure_student(student, config, net, real, num_inference_steps=n)
                for n in (1, 2, 8)
            },
        )
    )
    with atomic_write(a.out) as tmp:
        Path(tmp).write_text(json.dumps(dict(per_skill=a.per_skill, rows=rows)), "utf8")
    print(turbo_table(rows))


if __name__ == "__main__":
    main()
