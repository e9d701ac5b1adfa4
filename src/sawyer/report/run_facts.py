"""The contents of a run's folder, read once. Whatever is missing is empty."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from sawyer.errors import RunError
from sawyer.runs import STAGES, Layout, check_journal, last_gates, read_manifest, read_rows

Verdict = Literal["ok", "warn", "fail"]
SEVERITY: Mapping[str, int] = {"ok": 0, "warn": 1, "fail": 2}
# What yaml.safe_load raises for a damaged file: PyYAML lets the later ones through.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A gate's last verdict. `value` and `threshold` are text if they were not finite."""

    stage: str
    name: str
    verdict: Verdict
    value: float | str
    threshold: float | str
    message: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A run, as its folder has it."""

    root: Path
    config: Mapping[str, Any]  # the resolved config; {} without one
    config_text: str
    versions: Mapping[str, str]
    states: Mapping[str, Mapping[str, Any]]  # stage -> its entry in run.json
    metrics: Mapping[str, Sequence[Mapping[str, Any]]]  # stage -> rows in order
    events: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, Any]]  # rows of compare.jsonl
    summary: Mapping[str, Any]
    trust: Mapping[str, Any]  # the reward model's trust report; {} without one
    agreement: Mapping[str, Any]  # of the people who judged; {} where nobody did
    checks: Sequence[Check]
    gone: Sequence[str]  # journal files that have been moved away since the run wrote to them

    def status(self, stage: str) -> str:
        """pending, running, waiting, done, failed or interrupted."""
        return str(self.states.get(stage, {}).get("status", "pending"))

    def figures(self, stage: str) -> Mapping[str, Any]:
        """The stage's figures."""
        figures: Mapping[str, Any] = self.states.get(stage, {}).get("figures") or self.summary.get(stage) or {}
        return figures

    def worst(self, stage: str) -> Verdict | None:
        """The worst verdict of the stage's gates; None without a verdict."""
        verdicts = [check.verdict for check in self.checks if check.stage == stage]
        return max(verdicts, key=lambda verdict: SEVERITY[verdict], default=None)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the config names or the run has done, in order."""
        return tuple(s for s in STAGES if self.config.get(s) or s in self.states or s in self.metrics)


def gather(root: Path) -> Facts:
    """Read the folder. Raises RunError if it holds no run, or if one of its files is damaged."""
    layout = Layout(root)
    if not any(map(os.path.exists, (layout.manifest, layout.metrics, layout.events, layout.config))):
        raise RunError(
            f"there is no run in {root}",
            expected="a folder that `sawyer run` or `sawyer demo` wrote",
            todo="check the path; `sawyer runs` lists the runs",
        )
    gone = [path.name for path in check_journal(layout)]  # failed gates must not vanish with a file
    manifest = read_manifest(layout.manifest)
    events = _journal_rows(layout.events)
    metrics: dict[str, list[Mapping[str, Any]]] = {}
    for row in _journal_rows(layout.metrics):
        metrics.setdefault(str(row.get("stage")), []).append(row)
    try:
        config_text = layout.config.read_text(encoding="utf-8", errors="replace") if layout.config.exists() else ""
        config = yaml.safe_load(config_text)
    except (OSError, *YAML_ERRORS) as error:
        raise _damage_error(layout.config, error) from error
    return Facts(
        root=root,
        config=config if isinstance(config, dict) else {},
        config_text=_without_names(config, config_text),
        versions=manifest.get("versions") or {},
        states={name: state for name, state in (manifest.get("stages") or {}).items() if isinstance(state, dict)},
        metrics=metrics,
        events=events,
        samples=_journal_rows(layout.samples),
        answers=_journal_rows(layout.compare),
        summary=_json_object(layout.summary),
        trust=_json_object(layout.trust),
        agreement=_json_object(layout.agreement),
        checks=tuple(_last_checks(events)),
        gone=tuple(dict.fromkeys([*gone, *(name for row in events if isinstance(name := row.get("gone"), str))])),
    )


def _without_names(config: Any, text: str) -> str:
    """The config's text; where it names raters, with numbers in place of their names: the page may be shown to anybody."""
    reward = config.get("reward") if isinstance(config, dict) else None
    raters = reward.get("raters") if isinstance(reward, dict) else None
    if not isinstance(raters, dict) or not raters:
        return text
    weights = {f"rater {number}": weight for number, weight in enumerate(raters.values(), 1)}
    settings = {**config, "reward": {**(reward or {}), "raters": weights}}
    return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _last_checks(events: Sequence[Mapping[str, Any]]) -> Iterator[Check]:
    """Each gate's last verdict, in the order of the stages. Verdicts from before a stage restarted do not count."""
    order = {stage: index for index, stage in enumerate(STAGES)}
    gates = [row for row in last_gates(events) if str(row.get("verdict")) in SEVERITY]
    for row in sorted(gates, key=lambda row: order.get(str(row.get("stage")), len(order))):
        yield Check(
            stage=str(row.get("stage")),
            name=str(row.get("name")),
            verdict=row["verdict"],
            value=row.get("value", ""),
            threshold=row.get("threshold", ""),
            message=str(row.get("message", "")),
            advice=str(row.get("advice", "")),
        )


def _journal_rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [row for row in read_rows(path) if isinstance(row, dict)]
    except ValueError as error:
        raise _damage_error(path, error) from error


def _json_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damage_error(path, error) from error
    return value if isinstance(value, dict) else {}


def _damage_error(path: Path, error: Exception) -> RunError:
    return RunError(
        f"{path} cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]})",
        expected="the file as the run wrote it",
        why="a report of half the facts would mislead",
        todo="restore the file, or move it away: the report leaves out what is missing",
    )
