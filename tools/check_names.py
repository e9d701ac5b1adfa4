"""Refuse the names and phrases that tools/names.toml lists, and print what to use instead.

python tools/check_names.py [PATHS]          every finding as file:line: name -> use instead; exit code 1 when there is one
python tools/check_names.py --count [PATHS]  how many there are in each room

Source is read with `ast`: only what a file binds counts, not what it calls in a library. Tests are searched for names of
the old interface, settings, metrics and commands only; docs for those and for phrases.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CODE = (
    "src",
    "tools",
    "benchmarks",
    "examples",
    "docs",
    "lab",
    "tests",
    ".ci",
    "Makefile",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".html", ".css", ".js", ".j2", ".jinja", ".toml", ""}
SECTIONS = "sft|reward|rl|classify"
# One private helper may share its name with another; from three on a reader cannot tell them apart.
HELPERS_ALIKE = 3


@dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    name: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.name} -> {self.instead}"


@dataclass(frozen=True)
class Pattern:
    regex: re.Pattern[str]
    instead: str


@dataclass(frozen=True)
class Rules:
    """The table, with its regular expressions compiled once."""

    table: dict[str, Any]
    everywhere: list[Pattern] = field(default_factory=list)
    prose: list[Pattern] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Rules:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        everywhere = [Pattern(re.compile(_word_regex(word)), instead) for word, instead in table["metrics"].items()]
        everywhere += [Pattern(re.compile(_code_regex(word)), instead) for word, instead in table["gone"].items()]
        everywhere += [Pattern(re.compile(_command_regex(name)), instead) for name, instead in table["commands"].items()]
        everywhere += [Pattern(re.compile(_setting_regex(name)), instead) for name, instead in table["settings"].items()]
        prose = [Pattern(re.compile(_phrase_regex(phrase), re.I), instead) for phrase, instead in table["phrases"].items()]
        return cls(table, everywhere, prose)

    @property
    def irregular(self) -> set[str]:
        return set(self.table["participles"]["irregular"].split())

    def allows(self, finding: Finding) -> bool:
        exceptions = (e for e in self.table["exceptions"] if finding.path.startswith(e["path"]))
        return any("*" in e["names"] or finding.name in e["names"] for e in exceptions)

    def refusal(self, name: str) -> str | None:
        """What to use instead of a bound name, None when it may stay."""
        bare = name.strip("_").lower()
        for variant in (name, name.strip("_")):
            if variant in self.table["gone"]:
                return str(self.table["gone"][variant])
        if name.strip("_") in self.table["classes"]:
            return str(self.table["classes"][name.strip("_")])
        if bare in self.table["names"]:
            return str(self.table["names"][bare])
        for part in bare.split("_") if "_" in bare else ():
            if part in self.table["parts"]:
                return str(self.table["parts"][part])
        hint = self.table["participles"]["hints"].get(
            bare, "a participle alone: name the content (rows, scores, settings, summary)"
        )
        return str(hint) if self.is_participle(bare) else None

    def is_participle(self, word: str) -> bool:
        if "_" in word or word in self.table["participles"]["nouns"]:
            return False
        regular = re.fullmatch(r"[a-z]{2,}([a-df-z]ed|ing)", word) is not None
        return regular or word in self.irregular


def _word_regex(word: str) -> str:
    """A prefix counts only where a string or a code span begins with it: a variable may."""
    return rf"(?<=[\"'`/.]){re.escape(word[:-1])}\w+" if word.endswith("*") else rf"\b{re.escape(word)}\b"


def _code_regex(word: str) -> str:
    """A name in code: in backticks, called, an attribute or imported. At a sentence's beginning it may be an ordinary word."""
    return rf"`{word}\b|\b{word}(?=[(\[.`])(?!\.\s)|(?<=\w\.){word}\b|(?<=import ){word}\b"


def _command_regex(name: str) -> str:
    return rf"(?<![\w-]){re.escape(name)}(?![\w-])"


def _phrase_regex(phrase: str) -> str:
    return r"\b" + r"[\s#]+".join(re.escape(word) for word in phrase.split()) + r"\b"


def _setting_regex(path: str) -> str:
    """A path is found behind `config.` too, and of guards at any depth, but not as the start of a longer key."""
    if ": " in path:
        key, value = path.split(": ")
        return rf"\b{key}: ?{value}\b|\b{key}={value}\b"
    section, key = path.split(".")
    between = r"(?:\w+\.)?" if section == "guards" else ""
    return rf"\b(?:{SECTIONS if section == '*' else section})\.{between}{key}(?![\w(])"


def bound_names(tree: ast.Module) -> Iterator[tuple[str, int, str]]:
    """(name, line, kind) of all that a module binds; kind is function, class, field (of a class's body) or name."""
    fields = {
        id(s.target) for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for s in c.body if isinstance(s, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, node.lineno, "function"
            case ast.ClassDef():
                yield node.name, node.lineno, "class"
            case ast.arg():
                yield node.arg, node.lineno, "name"
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno, "field" if id(node) in fields else "name"
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno, "name"
            case ast.alias(asname=str(alias)):
                yield alias, node.lineno, "name"
            case ast.ExceptHandler(name=str(error)):
                yield error, node.lineno, "name"


def check_bindings(path: str, text: str, rules: Rules) -> Iterator[Finding]:
    """The names that a Python file binds, the settings of the schema, and the events it writes."""
    tree = ast.parse(text, filename=path)
    settings = {key.split(".")[-1]: instead for key, instead in rules.table["settings"].items() if "." in key}
    for name, line, kind in bound_names(tree):
        instead = rules.refusal(name)
        if kind == "function":
            instead = instead or rules.table["functions"].get(name.strip("_"))
        if kind == "field" and path.startswith("src/sawyer/config/"):
            instead = instead or settings.get(name)
        if instead:
            yield Finding(path, line, name, instead)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in rules.table["events"]:
            yield Finding(path, node.lineno, node.value, f"event {rules.table['events'][node.value]}")


def check_text(path: str, text: str, patterns: Iterable[Pattern]) -> Iterator[Finding]:
    for pattern in patterns:
        for match in pattern.regex.finditer(text):
            yield Finding(path, text.count("\n", 0, match.start()) + 1, re.sub(r"[\s#]+", " ", match[0]), pattern.instead)


def check_yaml_keys(path: str, text: str, rules: Rules) -> Iterator[Finding]:
    """Keys of YAML, in files and in the docs' blocks, by their section: `clip` under `rl`. Commented keys count."""
    is_yaml = path.endswith((".yaml", ".yml"))
    open_keys: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_yaml, open_keys = line.strip() in ("```yaml", "```yml"), []
        match = re.match(r"( *)(?:# ?)?( *)(\w+):(\s|$)", line) if is_yaml else None
        if match is None:
            continue
        indent = len(match[1]) + len(match[2])
        open_keys = [*(pair for pair in open_keys if pair[0] < indent), (indent, match[3])]
        above = [key for _, key in open_keys[:-1]]
        for setting, instead in rules.table["settings"].items():
            section, _, key = setting.partition(".")
            parents = above[-2:] if section == "guards" else above[-1:]
            if key == match[3] and (section in parents or (section == "*" and above)):
                yield Finding(path, number, ".".join([*above, key]), instead)


def check_duplicates(sources: dict[str, str]) -> Iterator[Finding]:
    """A module or class name that the package has twice, and a private helper's name that many files have."""
    modules, classes, helpers = defaultdict(list), defaultdict(list), defaultdict(list)
    for path, text in sources.items():
        stem = Path(path).stem
        if not stem.startswith("__"):
            modules[stem].append((path, 1))
        tree = ast.parse(text, filename=path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append((path, node.lineno))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("_") and not node.name.startswith("__"):
                helpers[node.name].append((path, node.lineno))
    for kind, spots in (("module", modules), ("class", classes)):
        for name, at in spots.items():
            if len(at) > 1:
                others = ", ".join(f"{path}:{line}" for path, line in at[1:])
                yield Finding(*at[0], f"{kind} {name}", f"one {kind} a name; also {others}")
    for name, at in helpers.items():
        if len(at) >= HELPERS_ALIKE:
            yield from (Finding(path, line, name, f"say what it is of: {len(at)} files have one") for path, line in at)


def check_file(path: str, text: str, rules: Rules) -> Iterator[Finding]:
    """All findings of one file, by its path in the repository."""
    is_test = path.startswith("tests/")
    yield from check_text(path, text, rules.everywhere if is_test else [*rules.everywhere, *rules.prose])
    if path.endswith(".py") and not is_test:
        yield from check_bindings(path, text, rules)
    if path.startswith("src/sawyer/") and path.endswith(".py") and Path(path).stem in rules.table["modules"]:
        yield Finding(path, 1, f"module {Path(path).stem}", rules.table["modules"][Path(path).stem])
    if not path.endswith(".py"):
        yield from check_yaml_keys(path, text, rules)


def files_under(root: Path, paths: Iterable[str]) -> list[Path]:
    tops = [root / path for path in paths]
    files = (file for top in tops for file in (sorted(top.rglob("*")) if top.is_dir() else [top]))
    return [file for file in files if file.is_file() and file.suffix in SUFFIXES and "__pycache__" not in file.parts]


def check(root: Path = ROOT, paths: Iterable[str] = CODE, rules: Rules | None = None) -> list[Finding]:
    """The findings of these files and folders of the repository, sorted. Duplicates are sought in all of src/sawyer."""
    rules = rules or Rules.read(ROOT / "tools" / "names.toml")
    texts = {file.relative_to(root).as_posix(): file.read_text(encoding="utf-8") for file in files_under(root, paths)}
    findings = {finding for path, text in texts.items() for finding in check_file(path, text, rules)}
    package = {
        f.relative_to(root).as_posix(): f.read_text(encoding="utf-8") for f in sorted((root / "src/sawyer").rglob("*.py"))
    }
    findings |= {finding for finding in check_duplicates(package) if finding.path in texts}
    return sorted(finding for finding in findings if not rules.allows(finding))


def room_of(path: str) -> str:
    parts = path.split("/")
    depth = 3 if path.startswith("src/sawyer/") else 1
    return "/".join(parts[: 4 if parts[2:3] == ["stages"] and len(parts) > 4 else depth])


def main() -> int:
    parser = argparse.ArgumentParser(description="Refuse the names and phrases that tools/names.toml lists.")
    parser.add_argument(
        "paths", nargs="*", default=CODE, help="files and folders, from the repository's root; all when there are none"
    )
    parser.add_argument("--count", action="store_true", help="only how many there are in each room")
    arguments = parser.parse_args()
    paths = [Path(path).resolve().relative_to(ROOT).as_posix() if Path(path).exists() else path for path in arguments.paths]
    absent = [path for path in paths if arguments.paths is not CODE and not (ROOT / path).exists()]
    if absent:
        parser.error(f"no such file: {', '.join(absent)}")
    findings = check(paths=paths)
    if arguments.count:
        rooms = Counter(room_of(finding.path) for finding in findings)
        print("\n".join(f"{count:5} {room}" for room, count in sorted(rooms.items())))
    else:
        print("\n".join(map(str, findings)))
    print(f"{len(findings)} names to change", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
