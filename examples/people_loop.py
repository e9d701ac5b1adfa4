"""The loop with people in it, on the built-in world with simulated people: does each round make the answers better?

    python examples/people_loop.py --seeds 0 1 2                   # honest people
    python examples/people_loop.py --seeds 0 --raters lazy         # and what lazy ones do

Every step is a command that a person would type: SFT and a first collection, votes over HTTP, reward model and RL on them; a
second collection from the RL model, votes, reward model and RL again. The folder of a seed is `OUT/SEED`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from sawyer.config import demo_config
from sawyer.runs import Layout

PROMPTS_A_ROUND = 300


def config_of(out: Path, seed: int, prompts: int) -> dict[str, Any]:
    """The demo's settings, but with people in place of its rater and without its file of judged answers."""
    tree = demo_config(str(out), seed, "people").model_dump(mode="json", exclude_none=True)
    tree["collect"]["limit"] = prompts
    tree["reward"]["data"] = []  # all judgements are the people's
    tree["compare"]["deliberate_limit"] = 0
    return tree


def sawyer(*words: str) -> None:
    """A command of SAWYER; its output goes to the screen."""
    print("$ sawyer", *words, flush=True)
    subprocess.run([sys.executable, "-m", "sawyer", *words], check=True)


def gold_figures(layout: Layout) -> dict[str, Any]:
    """Mean gold of SFT and RL at temperature 1 / 0.7 / greedy, and what the reward stage says of itself."""
    summary = json.loads(layout.summary.read_text(encoding="utf-8"))
    gold, reward = summary["gold"], summary["reward"]
    means = {model: [gold[model][setting] for setting in ("t1", "t07", "greedy")] for model in ("sft", "rl")}
    return means | {name: reward.get(name) for name in ("accuracy", "gold_accuracy", "verdict", "accuracy_ceiling")}


def run_seed(out: Path, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both rounds of one seed; the figures of each."""
    out.mkdir(parents=True, exist_ok=True)
    config = out.parent / f"{out.name}.yaml"
    if not config.exists():
        sawyer("world", "--out", str(out / "data"), "--seed", str(seed))
        config.write_text(yaml.safe_dump(config_of(out, seed, options.prompts)), encoding="utf-8")
    rating = [
        "rate",
        str(out),
        "--port",
        "0",
        "--as",
        options.method,
        "--simulate",
        str(options.people),
        "--simulate-raters",
        options.raters,
    ]
    figures = []
    for number in range(1, options.rounds + 1):
        if number == 1:
            sawyer("run", str(config), *options.set)  # SFT; the answers wait
        else:
            sawyer("collect", str(config), "--round", str(number), *options.set)
        sawyer(*rating, "--seed", str(seed), *(["--votes", str(options.votes)] if options.votes else []))
        sawyer("run", str(config), *options.set)
        figures.append(gold_figures(Layout(out)))
    return figures


def main() -> None:
    """Run the seeds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/people"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=PROMPTS_A_ROUND, help="judged prompts of a round")
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--raters", default="honest", help="in turn: honest, length_lover, lazy, flipper")
    parser.add_argument("--votes", type=int, default=0, help="votes of a round; 0: all that there are to give")
    parser.add_argument("--as", dest="method", default="graded", help="pair, graded, rank or score")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the runs, such as rl.kl.coefficient=0.1")
    options = parser.parse_args()
    rows = {seed: run_seed(options.out / str(seed), seed, options) for seed in options.seeds}
    print("\nGold at temperature 1 / 0.7 / greedy")
    for seed, figures in rows.items():
        before = figures[0]["sft"]
        print(f"seed {seed}: SFT {' / '.join(f'{value:.2f}' for value in before)}")
        for number, row in enumerate(figures, 1):
            gold = " / ".join(f"{value:.2f}" for value in row["rl"])
            print(f"  round {number}: RL {gold}; {', '.join(f'{k} {row[k]}' for k in row if k not in ('sft', 'rl'))}")


if __name__ == "__main__":
    main()
