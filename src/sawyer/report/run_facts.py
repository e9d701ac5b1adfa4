"""What a run's folder says, read once; whatever is missing is empty."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A gate's last verdict. `value` and `threshold` are text where they were not finite."""

    stage: str
    name: str
    verdict: Verdict
    value: float | str
    threshold: float | str
    message: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A run as its folder tells it."""

    root: Path
    config: Mapping[str, Any]  # the resolved config; {} without one
    config_text: str
    versions: Mapping[str, str]
    states: Mapping[str, Mapping[str, Any]]  # stage -> its entry in run.json
    metrics: Mapping[str, Sequence[Mapping[str, Any]]]  # stage -> rows in order
    events: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    compared: Sequence[Mapping[str, Any]]  # rows of compare.jsonl
    summary: Mapping[str, Any]
    trust: Mapping[str, Any]  # the reward model's trust report; {} without one
    checks: Sequence[Check]
    gone: Sequence[str]  # journal files that somebody moved away since rows were saved in them

    def status(self, stage: str) -> str:
        """pending, running, waiting, done, failed or interrupted."""
        return str(self.states.get(stage, {}).get("status", "pending"))

    def figures(self, stage: str) -> Mapping[str, Any]:
        """What the stage found."""
        found: Mapping[str, Any] = self.states.get(stage, {}).get("figures") or self.summary.get(stage) or {}
        return found

    def worst(self, stage: str) -> Verdict | None:
        """The gravest verdict of the stage's gates; None where none has spoken."""
        verdicts = [check.verdict for check in self.checks if check.stage == stage]
        return max(verdicts, key=lambda verdict: SEVERITY[verdict], default=None)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that this run asks for or has done, in order."""
        return tuple(s for s in STAGES if self.config.get(s) or s in self.states or s in self.metrics)


def gather(root: Path) -> Facts:
    """Read the folder. Raises RunError when there is no run in it, or a file of it cannot be read for what it is."""
    layout = Layout(root)
    if not any(map(os.path.exists, (layout.manifest, layout.metrics, layout.events, layout.config))):
        raise RunError(
            f"there is no run in {root}",
            expected="a folder that `sawyer run` or `sawyer demo` wrote",
            todo="check the path; `sawyer runs` lists the runs",
        )
    gone = [path.name for path in check_journal(layout)]  # failed gates must not vanish with rows that were cut off
    manifest = read_manifest(layout.manifest)
    events = _rows(layout.events)
    metrics: dict[str, list[Mapping[str, Any]]] = {}
    for row in _rows(layout.metrics):
        metrics.setdefault(str(row.get("stage")), []).append(row)
    try:
        config_text = layout.config.read_text(encoding="utf-8", errors="replace") if layout.config.exists() else ""
    except OSError as error:
        raise _unreadable(layout.config, error) from error
    return Facts(
        root=root,
        config=_config(config_text, layout.config),
        config_text=config_text,
        versions=manifest.get("versions") or {},
        states={name: state for name, state in (manifest.get("stages") or {}).items() if isinstance(state, dict)},
        metrics=metrics,
        events=events,
        samples=_rows(layout.samples),
        compared=_rows(layout.compare),
        summary=_values(layout.summary),
        trust=_values(layout.trust),
        checks=tuple(_checks(events)),
        gone=tuple(dict.fromkeys([*gone, *(name for row in events if isinstance(name := row.get("gone"), str))])),
    )


def _checks(events: Sequence[Mapping[str, Any]]) -> Iterator[Check]:
    """Each gate's last verdict, in the order of the stages; what was said of a stage before it began anew does not count."""
    said = [row for row in last_gates(events) if str(row.get("verdict")) in SEVERITY]
    order = {stage: place for place, stage in enumerate(STAGES)}
    for row in sorted(said, key=lambda row: order.get(str(row.get("stage")), len(order))):
        yield Check(
            stage=str(row.get("stage")),
            name=str(row.get("name")),
            verdict=row["verdict"],
            value=row.get("value", ""),
            threshold=row.get("threshold", ""),
            message=str(row.get("message", "")),
            advice=str(row.get("advice", "")),
        )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [row for row in read_rows(path) if isinstance(row, dict)]
    except ValueError as error:
        raise _unreadable(path, error) from error


def _config(text: str, path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:  # as PyYAML lets them
        raise _unreadable(path, error) from error
    return found if isinstance(found, dict) else {}


def _values(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    return found if isinstance(found, dict) else {}


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(
        f"{path} cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]})",
        expected="the file as the run wrote it",
        why="a report of half the facts would mislead",
        todo="restore the file, or move it away: the report leaves out what is not there",
    )
