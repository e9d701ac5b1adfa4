"""Tiny models and a whole tiny run, made once; every test works in folders of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sawyer.config import Config, parse_config
from sawyer.models import new_policy, new_reward, save_model, train_tokenizer
from sawyer.models.load import load_tokenizer
from sawyer.runs import Layout, Run, open_run, replace_folder
from sawyer.text import set_template
from sawyer.train import OptimizerStep
from sawyer.train.micro_batches import MicroBatches
from sawyer.train.optimizer_step import Update
from sawyer.worlds import comparisons, demonstrations, tasks

CONTEXT, VOCABULARY, WIDTH = 160, 400, 16


@dataclass(frozen=True)
class Tiny:
    """Folders and files that all tests share; nobody writes there."""

    base: Path  # an untrained language model
    sft: Path  # the same after some fine-tuning: it ends most answers
    reward: Path  # an untrained reward model on the SFT model's trunk, with a shift and a scale
    instructions: Path
    comparisons: Path
    prompts: Path

    def config(self, out: Path, **sections: Any) -> Config:
        """A config from plain values; `micro_batch_tokens` and the like are sections too."""
        tree = {"out": str(out), "model": str(self.base), "precision": "fp32", "device": "cpu", "save_every_seconds": 1e9}
        return parse_config({**tree, **sections})

    def rl_config(self, out: Path, **rl: Any) -> Config:
        """A config whose RL section differs from a small default by `rl`; `rl__x` stands for the config's own `x`."""
        own = {name.removeprefix("rl__"): rl.pop(name) for name in list(rl) if name.startswith("rl__")}
        asked = {"prompts": [str(self.prompts)], "episodes": 16, "batch_size": 8, "num_minibatches": 2, "epochs": 1}
        asked |= {"max_new_tokens": 12, "temperature": 1.0, "eval_prompts": 6, "eval_fraction": 0.2, "learning_rate": 1e-3}
        stages = {"sft": {"data": [str(self.instructions)]}, "reward": {"data": [str(self.comparisons)]}}
        return self.config(out, **{**stages, "rl": {**asked, **rl}, **own})

    @contextmanager
    def run(self, out: Path, *models: str) -> Iterator[Run]:
        """An open run in `out` that already holds copies of these stages' models (`sft`, `reward`)."""
        with open_run(out) as run:
            for stage in models:
                if not run.layout.model(stage).exists():
                    shutil.copytree(getattr(self, stage), run.layout.model(stage))
            yield run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Made once: a base model, a slightly trained SFT model, a reward model, and small files of the built-in world."""
    root = tmp_path_factory.mktemp("tiny")
    shown = demonstrations(240, 0)
    rows = [{"instruction": d.prompt.text, "output": d.response} for d in shown]
    (root / "instructions.json").write_text(json.dumps(rows))
    judged = [
        {
            "user_input": record.prompt.text,
            "responses_and_scores": [{"response": a.response, "score": a.score} for a in record.answers],
        }
        for record in comparisons(60, 0, answers=4)
    ]
    (root / "comparisons.json").write_text(json.dumps(judged))
    prompts = "".join(json.dumps({"prompt": task.prompt}) + "\n" for task in tasks("train", 40, 0))
    (root / "prompts.jsonl").write_text(prompts)
    texts = [f"Question: {d.prompt.text}\nResponse: {d.response}" for d in shown]
    tokenizer = train_tokenizer(texts, VOCABULARY, CONTEXT)
    set_template(tokenizer, "question")
    policy = new_policy(
        vocab_size=len(tokenizer),
        layers=1,
        width=WIDTH,
        heads=2,
        context=CONTEXT,
        seed=0,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    layout = Layout(root / "run")
    layout.root.mkdir()
    with replace_folder(layout.model("base")) as folder:
        save_model(folder, policy, tokenizer)
    found = Tiny(
        base=layout.model("base"),
        sft=layout.model("sft"),
        reward=layout.model("reward"),
        instructions=root / "instructions.json",
        comparisons=root / "comparisons.json",
        prompts=root / "prompts.jsonl",
    )
    _fine_tune(found, layout.root)
    reward = new_reward(found.sft, load_tokenizer(found.sft), seed=5)
    with replace_folder(found.reward) as folder:
        save_model(folder, reward, load_tokenizer(found.sft), {"reward_shift": 0.5, "reward_scale": 2.0})
    return found


@pytest.fixture(scope="session")
def tiny64(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The same models with weights of float64, to be read inside `fp64.double_precision`."""
    root = tmp_path_factory.mktemp("tiny64")
    for name in ("base", "sft", "reward"):
        shutil.copytree(getattr(tiny, name), root / name)
        weights = root / name / "model.safetensors"
        save_file({key: weight.double() for key, weight in load_file(weights).items()}, weights, {"format": "pt"})
    return replace(tiny, base=root / "base", sft=root / "sft", reward=root / "reward")


def _fine_tune(tiny: Tiny, out: Path) -> None:
    from sawyer.stages.sft import train

    asked = {"data": [str(tiny.instructions)], "epochs": 2, "batch_size": 12, "learning_rate": 2e-2, "max_new_tokens": 24}
    with open_run(out) as run:
        train(tiny.config(out, sft=asked), run)


@dataclass
class Captured:
    """What a learner was asked to do: for each update the number of parts, the count, and the gradient."""

    counts: list[float] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


Size = Callable[[Any], float]


@pytest.fixture
def capture() -> Callable[..., Captured]:
    """`capture(learner)`: from now on its updates leave the gradient here, unclipped, and the weights as they are.

    `capture(learner, size)` does what must not be done: each part's loss is divided by the part's own size, and the parts'
    means are averaged.
    """

    def put(learner: OptimizerStep, size: Size | None = None) -> Captured:
        found = Captured()
        learner.max_norm = 1e9

        def update(batch: Any, loss: Callable[[Any], Tensor], count: float, **_: Any) -> Update:
            listed = list(batch.parts if isinstance(batch, MicroBatches) else batch)
            learner.optimizer.zero_grad(set_to_none=True)
            if size is None:
                total, norm = learner.accumulate(listed, loss, count)
            else:
                norms = [size(part) * len(listed) for part in listed]
                total, norm = 0.0, 0.0
                for part, divisor in zip(listed, norms, strict=True):
                    (loss(part) / divisor).backward()
            found.parts.append(len(listed))
            found.counts.append(count)
            found.losses.append(total)
            found.gradients.append(flat(learner))
            return Update(loss=total, grad_norm=norm, learning_rate=learner.learning_rate)

        learner.update = update  # type: ignore[method-assign]
        return found

    return put


def flat(learner: OptimizerStep) -> Tensor:
    grads = [w.grad if w.grad is not None else torch.zeros_like(w) for w in learner.parameters]
    return torch.cat([grad.flatten() for grad in grads]).clone()


@pytest.fixture
def events() -> Callable[[Run, str], list[dict[str, Any]]]:
    """`events(run, kind)`: the journal's events of a kind."""
    from sawyer.runs import read_rows

    def found(run: Run, kind: str) -> list[dict[str, Any]]:
        return [row for row in read_rows(run.layout.events) if row["kind"] == kind]

    return found


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[[Sequence[dict[str, Any]]], Path]:
    """`write_rows(rows)`: a JSON file of rows in the test's own folder."""

    def write(rows: Sequence[dict[str, Any]], name: str = "rows.json") -> Path:
        (tmp_path / name).write_text(json.dumps(list(rows)))
        return tmp_path / name

    return write
