"""`sawyer check`: every problem of the files, as training would meet them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sawyer.errors import DataError
from sawyer.records.formats import Want, prompt_in, shape_of
from sawyer.records.problems import Problem
from sawyer.records.read import Length, Scan, scan_file
from sawyer.records.rows import TEXT_SUFFIXES, expand, raw_rows
from sawyer.records.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """One file: what it was taken for, how many records it gives, all its problems."""

    file: str
    want: Want
    format: str
    records: int
    problems: tuple[Problem, ...]

    @property
    def refused(self) -> bool:
        """Whether training would refuse the file."""
        return any(problem.fatal for problem in self.problems) or self.records == 0

    @property
    def counts(self) -> Mapping[str, int]:
        """Kind of problem -> how often."""
        return Counter(problem.kind for problem in self.problems)


def check(
    paths: Sequence[str],
    *,
    held_out: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    length: Length | None = None,
    context: int | None = None,
) -> list[FileReport]:
    """Read every file as training would. A file's purpose is told by its rows: comparisons, demonstrations or prompts.

    `held_out` files are read too, and a prompt that is also in one of `paths` is a leak. `length` counts a prompt's tokens for
    a model that reads `context` of them. Raises DataError for a file that is not there.
    """
    reports, prompts = [], dict[object, str]()
    for path in expand(list(paths)):
        report, found = _check(path, columns or {}, length, context)
        reports.append(report)
        prompts |= {prompt.messages: str(prompt.where) for prompt in found}
    for path in expand(list(held_out)) if held_out else []:
        report, found = _check(path, columns or {}, length, context)
        leaks = [
            Problem(
                where=str(prompt.where),
                kind="leak",
                message=f"the prompt is also in the training file ({prompts[prompt.messages]})",
                todo="remove it from one of the two: a model is not tested on what it has seen",
                fatal=True,
            )
            for prompt in found
            if prompt.messages in prompts
        ]
        reports.append(
            FileReport(
                file=path,
                want=report.want,
                format=report.format,
                records=report.records,
                problems=(*report.problems, *leaks),
            )
        )
    return reports


def _check(
    path: str, columns: Mapping[str, str], length: Length | None, context: int | None
) -> tuple[FileReport, list[Prompt]]:
    scan = Scan()
    want: Want = "prompts"
    try:
        want = _purpose(path, columns)
        scan_file(path, want, columns, scan)
    except DataError as error:
        scan.problems.append(Problem(where=error.where or path, kind="file", message=error.given, todo=error.todo, fatal=True))
    prompts = [prompt_in(record) for record in scan.records if not isinstance(record, str)]
    if length is not None and context is not None:
        for prompt in prompts:
            tokens = length(prompt)
            if tokens >= context:
                message = f"the prompt has {tokens:,} tokens, the model reads {context:,}"
                scan.problems.append(
                    Problem(
                        where=str(prompt.where),
                        kind="long",
                        message=message,
                        todo="shorten it; training leaves it out",
                        fatal=False,
                    )
                )
    report = FileReport(
        file=path, want=want, format=" + ".join(scan.shapes), records=len(scan.records), problems=tuple(scan.problems)
    )
    return report, prompts


def _purpose(path: str, columns: Mapping[str, str]) -> Want:
    """What the file is for, by the first row that has a shape: the richest use it has."""
    if any(path.lower().removesuffix(".gz").endswith(suffix) for suffix in TEXT_SUFFIXES):
        return "prompts"
    for row in raw_rows(path, []):
        if isinstance(row.value, Mapping):
            named = {columns.get(name, name): item for name, item in row.value.items()}
            for want in ("comparisons", "demonstrations", "prompts"):
                if shape_of(named, want) is not None:
                    return want
    return "demonstrations"
