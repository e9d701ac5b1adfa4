"""The RL stage against the page that explains it: the same weights and seeds must give the same numbers, update for update.

`examples/one_page_ppo.py` imports nothing of the package and is built otherwise: a vector an answer instead of padded tables
and masks, no cache in sampling, no micro-batches, no split of trunk and head. Where both agree it is hardly by accident.
"""

from __future__ import annotations

import ast
import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fp64 import double_precision
from torch import Tensor, nn

from sawyer.models import open_language_model, read_extra
from sawyer.models.load import load_reward, load_tokenizer
from sawyer.stages.rl.trainer import Trainer
from sawyer.train import batch_indices, generator

Fixture = Any
stage = import_module("sawyer.stages.rl.trainer")
PAGE = Path(__file__).parents[2] / "examples" / "one_page_ppo.py"
LONGEST, ALLOWED = 350, {"torch", "transformers"}

# How far apart two numbers of a kind may be. In double precision: as a share of the largest number of that kind. In single
# precision the same, but 1 at least counts as the largest: some figures are means of numbers around 1 that cancel.
DOUBLE, SINGLE = 1e-11, 5e-6

UPDATES, BATCH = 3, 12
SMALL: dict[str, Any] = {
    "episodes": (UPDATES + 1) * BATCH,  # so that the learning rate has not come to its end
    "batch_size": BATCH,
    "num_minibatches": 3,
    "epochs": 2,
    "learning_rate": 3e-3,
    "max_new_tokens": 16,
}
# Everything that can be asked for, none of it at a value where it would do nothing.
EVERYTHING: dict[str, Any] = SMALL | {
    "value_learning_rate": 5e-3,
    "temperature": 0.8,
    "gamma": 0.97,
    "gae_lambda": 0.9,
    "clip_range": 0.1,
    "value_clip_range": 0.05,
    "reward_clip": 0.15,
    "missing_eos_penalty": 1.5,
    "kl": {"coefficient": 0.2, "target": 0.3, "horizon": 60.0},
}
PLAIN: dict[str, Any] = SMALL | {"epochs": 1, "num_minibatches": 2, "kl": {"coefficient": 0.1}}

TABLES = {  # of all answers' tokens: the stage's name -> the page's
    "old_logprobs": "old",
    "ref_logprobs": "ref",
    "old_values": "old_values",
    "rewards": "rewards",
    "returns": "returns",
    "advantages": "advantages",
}
LEARNT = ("policy_loss", "value_loss", "clip_fraction", "approx_kl", "ratio", "grad_norm", "value_grad_norm")
TOLD = ("score", "reward", "kl", "length", "eos_rate")
SAME = ("batch_size", "epochs", "num_minibatches", "learning_rate", "max_new_tokens", "temperature", "gamma", "gae_lambda")
SAME += ("clip_range", "value_clip_range", "reward_clip", "missing_eos_penalty")

Figures = dict[str, Tensor]  # of one update, by name


@dataclass(frozen=True, kw_only=True)
class Case:
    """What was asked, what the RL stage did, and the networks that it started from."""

    config: Any
    double: bool
    ours: list[Figures]  # one an update
    prompts: list[Any]
    speaker: Any
    judge: Any
    extra: Mapping[str, Any]  # the reward model's shift and scale
    value_trunk: Any


def flat(net: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


def moved(policy: nn.Module, value: nn.Module, before: tuple[Tensor, Tensor]) -> Figures:
    """Both networks' weights, and by how much the update changed them."""
    now = flat(policy), flat(value)
    return {"policy": now[0], "value": now[1], "policy step": now[0] - before[0], "value step": now[1] - before[1]}


def laid(rows: Any) -> Tensor:
    """Token ids end to end, -1 between the rows."""
    return torch.tensor([token for row in rows for token in (*row, -1)])


def of_the_stage(work: Trainer, double: bool) -> list[Figures]:
    """Three updates of the RL stage, noted on their way."""
    found: list[Figures] = []
    estimate, update = stage.estimate_advantages, stage.update_on_rollout

    def noting_estimate(*given: Any, use_sampled_logprobs: bool, **more: Any) -> Any:
        # The sampler's log-probs are fp32.
        experience = estimate(*given, use_sampled_logprobs=use_sampled_logprobs and not double, **more)
        found.append({name: getattr(experience, name)[experience.mask] for name in TABLES})
        found[-1] |= {"scores": experience.scores, "tokens": laid(row.ids for row in experience.rows)}
        return experience

    def noting_update(*given: Any, **more: Any) -> Any:
        before = flat(work.policy.model), flat(work.value.model)
        report = update(*given, **more)
        found[-1] |= {name: torch.tensor(report.metrics[name]) for name in LEARNT}
        found[-1] |= moved(work.policy.model, work.value.model, before)
        return report

    with pytest.MonkeyPatch.context() as patch, double_precision() if double else nullcontext():
        patch.setattr(stage, "estimate_advantages", noting_estimate)
        patch.setattr(stage, "update_on_rollout", noting_update)
        # The gates read the saved reward model again, which cannot be read while fp32 is called fp64; the page has no gates.
        patch.setattr(Trainer, "_read_again", lambda *_: None)
        for number in range(UPDATES):
            told = work.step(number)
            assert told is not None
            found[-1] |= {name: torch.tensor(told[name]) for name in TOLD}
            found[-1] |= {"beta": torch.tensor(work.kl.coefficient)}
    return found


def case(tiny: Fixture, out: Path, asked: Mapping[str, Any], double: bool) -> Case:
    config = tiny.rl_config(out, **asked, rl__micro_batch_tokens=300)  # several micro-batches a minibatch
    speaker, tokenizer = open_language_model(tiny.sft), load_tokenizer(tiny.reward)
    judge = load_reward(tiny.reward, tokenizer)
    trunk = copy.deepcopy(judge.base_model)
    with tiny.run(out, "sft", "reward") as run:
        work = Trainer(config, run)
        ours = (work.policy.model, work.value.model, work.reference, work.scorer.model)
        for net in (*ours, speaker.model, judge, trunk) if double else ():
            net.double()
        return Case(
            config=config,
            double=double,
            ours=of_the_stage(work, double),
            prompts=list(work.prompts),
            speaker=speaker,
            judge=judge,
            extra=read_extra(tiny.reward),
            value_trunk=trunk,
        )


def read_page(*change: str) -> Any:
    """The page as a module; with `change` (old, new) one place of its text is another."""
    text = PAGE.read_text(encoding="utf-8")
    if change:
        assert text.count(change[0]) == 1, f"{change[0]!r} must be on the page once"
        text = text.replace(*change)
    page = ModuleType("one_page_ppo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, page.__name__, page)  # where a dataclass looks for its module
        exec(compile(text, str(PAGE), "exec"), page.__dict__)
    return page


def of_the_page(page: Any, case: Case) -> Iterator[Figures]:
    """The page's updates, one by one. The package gives it networks, prompts, and the names of its seeds."""
    rl, seed, prompt_encoder, policy = (
        case.config.rl,
        case.config.seed,
        case.speaker.prompt_encoder,
        copy.deepcopy(case.speaker.model),
    )
    known = {prompt_encoder.prompt(prompt): prompt for prompt in case.prompts}

    def score(prompt: Any, answer: Any) -> float:
        row = prompt_encoder.answer(known[tuple(prompt)], prompt_encoder.decode(answer))
        hidden = case.judge.transformer(input_ids=torch.tensor([row.ids])).last_hidden_state[0, -1]
        return float((case.judge.score(hidden) - case.extra["reward_shift"]) / case.extra["reward_scale"])

    settings = page.Settings(
        eos=prompt_encoder.eos_id,
        never=(prompt_encoder.pad_id,),
        updates=rl.episodes // rl.batch_size,
        value_learning_rate=rl.learning_rate if rl.value_learning_rate is None else rl.value_learning_rate,
        kl_coefficient=rl.kl.coefficient,
        kl_target=rl.kl.target,
        kl_horizon=rl.kl.horizon,
        **{name: getattr(rl, name) for name in SAME},
    )
    with double_precision() if case.double else nullcontext():
        value = page.Value(copy.deepcopy(case.value_trunk), case.speaker.width)
        ppo = page.Ppo(policy, value, score, settings)
        for number in range(UPDATES):
            order = batch_indices(len(case.prompts), BATCH, number, total=rl.episodes, seed=seed, stage="rl")
            asked = [prompt_encoder.prompt(case.prompts[i]) for i in order]
            orders = [torch.randperm(BATCH, generator=generator(seed, "rl", "epoch", number, e)) for e in range(rl.epochs)]
            before = flat(policy), flat(value)
            episodes, told = ppo.update(asked, generator(seed, "rl", "rollout", number), orders)
            figures = {name: torch.cat([getattr(e, here) for e in episodes]) for name, here in TABLES.items()}
            figures |= {"scores": torch.tensor([e.score for e in episodes])}
            figures |= {"tokens": laid([*e.prompt, *e.answer] for e in episodes)}
            figures |= {name: torch.tensor(told[name]) for name in (*LEARNT, *TOLD)}
            yield figures | moved(policy, value, before) | {"beta": torch.tensor(ppo.beta)}


def differing(page: Any, case: Case) -> list[str]:
    """What differs in the first update in which anything does."""
    tolerance, least = (DOUBLE, 0.0) if case.double else (SINGLE, 1.0)
    for number, (ours, theirs) in enumerate(zip(case.ours, of_the_page(page, case), strict=True)):
        assert ours.keys() == theirs.keys()
        if not torch.equal(ours["tokens"], theirs["tokens"]):
            return [f"update {number}: tokens"]
        found = []
        for name, required_section in ours.items():
            a, b = required_section.double(), theirs[name].double()
            far, size = float((a - b).abs().max()), float(a.abs().max())
            if not far <= tolerance * max(size, least):
                found.append(f"update {number}: {name} up to {far:.2g} apart, largest {size:.2g}")
        if found:
            return found
    return []


@pytest.fixture(scope="module")
def whole(tiny: Fixture, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Everything that can be asked for, in double precision."""
    return case(tiny, tmp_path_factory.mktemp("whole"), EVERYTHING, double=True)


@pytest.mark.slow
def test_the_stage_and_the_page_agree(whole: Case) -> None:
    assert differing(read_page(), whole) == []


@pytest.mark.parametrize("asked", [EVERYTHING, PLAIN], ids=["everything", "plain"])
def test_they_agree_in_single_precision(tiny: Fixture, tmp_path: Path, asked: dict[str, Any]) -> None:
    assert differing(read_page(), case(tiny, tmp_path, asked, double=False)) == []


def test_everything_that_is_compared_happens(whole: Case) -> None:
    """Answers that end and that do not, clipped ratios, clipped scores, a KL, a coefficient that is steered."""
    first, last = whole.ours[0], whole.ours[-1]
    assert all(figures["policy step"].dtype == torch.float64 for figures in whole.ours)
    assert 0 < first["eos_rate"] < 1 and 0 < first["clip_fraction"] < 1
    assert bool((first["scores"].abs() > EVERYTHING["reward_clip"]).any())
    assert bool((first["scores"].abs() < EVERYTHING["reward_clip"]).any())
    assert first["kl"] == 0 and last["kl"].abs() > 0.1 and last["beta"] != EVERYTHING["kl"]["coefficient"]
    assert not bool(first["old_values"].any()) and bool(last["old_values"].all())
    assert first["grad_norm"] > 1  # so that it was clipped
    assert min(float(figures[name].abs().max()) for figures in whole.ours for name in ("policy step", "value step")) > 1e-3


MUTANTS = {
    "KL's sign flipped": ("rewards = -beta * (old - ref)", "rewards = beta * (old - ref)"),
    "KL left out": ("rewards = -beta * (old - ref)", "rewards = 0 * old"),
    "KL absolute": ("rewards = -beta * (old - ref)", "rewards = -beta * (old - ref).abs()"),
    "score at the first token": ("rewards[-1] += score", "rewards[0] += score"),
    "score at every token": ("rewards[-1] += score", "rewards += score"),
    "no penalty": ("score if ended else score - s.missing_eos_penalty", "score"),
    "penalty for ending": ("score if ended else", "score if not ended else"),
    "penalty clipped": ("rewards[-1] += score", "rewards[-1] += max(-s.reward_clip, score)"),
    "scores not clipped": ("else max(-s.reward_clip, min(s.reward_clip, score))", "else score"),
    "V of the same state": ("gamma * next_value - values[t]", "gamma * values[t] - values[t]"),
    "V after the end": ("next_value = next_advantage = torch.zeros(())", "next_value, next_advantage = values[-1], 0"),
    "gamma not in the decay": ("delta + gamma * lam * next", "delta + lam * next"),
    "lambda left out": ("delta + gamma * lam * next", "delta + gamma * next"),
    "V one token late": ("self.head(hidden)[:, :-1, 0]", "self.head(hidden)[:, 1:, 0]"),
    "V's head not zero": ("nn.init.zeros_(self.head.weight)", "nn.init.constant_(self.head.weight, 0.01)"),
    "not whitened": ("e.advantages = white", "pass"),
    "whitened, answer by answer": ("[(a - mean) / torch.sqrt(variance", "[(a - a.mean()) / torch.sqrt(a.var(correction=0)"),
    "whitened, mean kept": ("[(a - mean) /", "[a /"),
    "whitened, sample variance": ("tokens.var(correction=0)", "tokens.var(correction=1)"),
    "returns of whitened advantages": ("e.advantages = white", "e.advantages, e.returns = white, white + e.old_values"),
    "policy, min for max": ("return torch.maximum(-advantages * rho,", "return torch.minimum(-advantages * rho,"),
    "policy, never clipped": ("rho.clamp(1 - clip, 1 + clip)", "rho"),
    "policy, sign flipped": ("loss = policy_loss(new, old, advantages,", "loss = policy_loss(new, old, -advantages,"),
    "policy, mean of a fixed number": ("rho.clamp(1 - clip, 1 + clip)).mean()", "rho.clamp(1 - clip, 1 + clip)).sum() / 30"),
    "policy, old is new": ("loss = policy_loss(new, old,", "loss = policy_loss(new, new.detach(),"),
    "value, not halved": ("return 0.5 * torch.maximum", "return torch.maximum"),
    "value, never clipped": ("near_old = old + (new - old).clamp(-clip, clip)", "near_old = new"),
    "value, min for max": ("0.5 * torch.maximum((", "0.5 * torch.minimum(("),
    "log-probs without temperature": (".logits[:, :-1] / temperature", ".logits[:, :-1]"),
    "sampled without temperature": ("(logits / s.temperature).double()", "logits.double()"),
    "log-probs of the next place": ("row[len(x) - 1 : len(x) - 1 + len(y)]", "row[len(x) - 2 : len(x) - 2 + len(y)]"),
    "Adam's usual eps": ("eps=1e-5", "eps=1e-8"),
    "weight decay": ("weight_decay=0.0", "weight_decay=0.01"),
    "learning rate constant": ("* (1 - self.done / self.steps)", ""),
    "learning rate a step ahead": ("(1 - self.done / self.steps)", "(1 - (self.done + 1) / self.steps)"),
    "gradients not clipped": ("self.net.parameters(), self.max_norm", "self.net.parameters(), 1e9"),
    "reference trained along": ("copy.deepcopy(policy), judge, s.kl", "policy, judge, s.kl"),
    "beta steered the other way": ("kl / s.kl_target - 1))", "1 - kl / s.kl_target))"),
    "beta steered once an update": ("* answers / s.kl_horizon", "/ s.kl_horizon"),
    "beta's error not clipped": ("max(-0.2, min(0.2, kl / s.kl_target - 1))", "(kl / s.kl_target - 1)"),
    "beta stays": ("if s.kl_target is None:", "if True:"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", MUTANTS.values(), ids=MUTANTS.keys())
def test_one_thing_wrong_is_seen(whole: Case, change: tuple[str, str]) -> None:
    assert differing(read_page(*change), whole) != []


# The page itself


def test_the_page_is_one_page_and_needs_nothing_of_ours() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    nodes = list(ast.walk(ast.parse(text)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} <= ALLOWED | set(sys.stdlib_module_names)


@pytest.mark.slow
def test_the_page_runs_by_itself_and_learns(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(PAGE)], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    rows = [[float(x.rstrip("%")) for x in line.split()] for line in done.stdout.splitlines() if re.match(r" *\d", line)]
    points = [row[2] for row in rows]
    assert len(rows) > 5 and rows[0][3] == 0  # no KL before the first update
    assert points[0] < 0 and points[-1] > 1.5 and points[-1] == max(points)
    assert "before" in done.stdout and "after" in done.stdout
