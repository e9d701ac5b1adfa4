"""How transformers may load a model: where it may look, whose code may run, and its errors in plain words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sawyer.errors import ModelError
from sawyer.models.attention_span import context_in
from sawyer.models.fast import model_families
from sawyer.runs import ADAPTER, base_of, is_adapter, is_local, model_in_run, on_disk, settings_of

Kind = Literal["causal", "classifier"]
# Settings that are counts, and the most that is believed: transformers builds something for each before it looks at weights.
COUNTS = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 10_000),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "num_labels"), 1_000_000),
}

_trusted: ContextVar[bool] = ContextVar("trust_remote_code", default=False)


@contextlib.contextmanager
def remote_code(trusted: bool) -> Iterator[None]:
    """Within it code from model folders may run if `trusted` (the config's `trust_remote_code`), or where it may already.
    Outside it never may."""
    before = _trusted.set(trusted or _trusted.get())
    try:
        yield
    finally:
        _trusted.reset(before)


def remote_code_kwargs(source: str | Path) -> dict[str, Any]:
    """What `from_pretrained` may do: a folder touches no network, and code that lies with the weights runs only where it was
    allowed, without a prompt on the console."""
    return {"local_files_only": is_folder(source), "trust_remote_code": _trusted.get()}


def family_problem(source: str | Path, kind: Kind) -> str:
    """Why the model of a folder or cached hub id cannot be opened as a language model or as a classifier, from its config.json
    alone; empty where it can be, or where the config is not on this disk."""
    config = settings_of(source)
    family = config.get("model_type")
    if not isinstance(family, str):
        return ""
    from transformers import CONFIG_MAPPING

    if kind == "classifier":
        auto, what = "AutoModelForSequenceClassification", "classifier"
    else:
        auto, what = "AutoModelForCausalLM", "language model"
    what, maps = f"no {what} ({auto})", config.get("auto_map")
    code = maps if isinstance(maps, dict) else {}
    if family in model_families(auto):
        return ""
    if auto in code:
        return "" if _trusted.get() else BRINGS_CODE
    if family not in CONFIG_MAPPING:
        unknown = f"the installed transformers knows no family {family!r}"
        return f"{unknown}, and the code that the model brings has {what}" if code else unknown
    sees = kind == "causal" and family in model_families("AutoModelForImageTextToText")
    return f"transformers has {what} for the family {family!r}{', which reads images and text together' if sees else ''}"


BRINGS_CODE = "it brings code of its own, which would have to run to load it"
ALLOW = (
    "if you trust where it comes from, set `trust_remote_code: true` in the config; a command without one takes "
    "--trust-remote-code, and sawyer.Chat, Scorer and Classifier take trust_remote_code=True"
)


def check_config(source: str | Path) -> None:
    """Raise ModelError for a config.json with numbers of which no network can be made (transformers would try for hours), and
    for one that names an attention of the hub: that is code, which would be fetched and run."""
    config = settings_of(source)
    text = config.get("text_config")
    for settings in (config, text if isinstance(text, dict) else {}):
        for name, most in COUNTS.items():
            count = settings.get(name)
            if count is not None and not (type(count) is int and 0 <= count <= most):
                raise ModelError(
                    f"{source}: {name} is {str(count)[:40]!r} in config.json",
                    expected=f"a whole number, at most {most:,}",
                    todo="copy config.json again from where the model came from",
                )
        for name in ("attn_implementation", "_attn_implementation"):
            if "/" in str(settings.get(name)) and not _trusted.get():
                raise ModelError(
                    f"{source}: {name} is {str(settings[name])[:80]!r} in config.json, which is code on the hub",
                    expected="none, or one that transformers has",
                    why="that code would be fetched and run",
                    todo=f"delete `{name}` from config.json, or, {ALLOW}",
                )


def check_family(source: str | Path, kind: Kind) -> None:
    """Raise ModelError for a config.json of which no network of this kind can be made (`family_problem`)."""
    check_config(source)
    problem = family_problem(source, kind)
    if problem == BRINGS_CODE:
        raise brings_code(source)
    if problem:
        todo = "name a model of another family"
        if "no family" in problem:
            todo = "install a newer transformers (`pip install --upgrade transformers`), or " + todo
        elif kind == "classifier":
            todo += "; a reward model need not be of the policy's"
        raise ModelError(f"{source}: {problem}", expected="a family such as GPT-2, Llama, Qwen or Gemma", todo=todo)


def table_rows(source: str | Path) -> int | None:
    """How many embeddings a model has, as its config.json says; of adapters the model's below. None: it does not say."""
    config = settings_of(source)
    text = config.get("text_config")
    rows = (text if isinstance(text, dict) else config).get("vocab_size")
    return rows if isinstance(rows, int) else None


def brings_code(source: str | Path) -> ModelError:
    """The error for a model whose own code was not allowed to run."""
    return ModelError(
        f"{source}: {BRINGS_CODE}",
        expected="a model whose family is part of transformers",
        why="code from a model folder can do on this machine whatever you can",
        todo=ALLOW,
    )


def is_folder(source: str | Path) -> bool:
    """Whether a name is a folder here."""
    return os.path.isdir(source)


def check_folder(source: str | Path, *, weights: bool = False) -> None:
    """Raise ModelError for a local name behind which there is no model's folder, or none with weights."""
    if not is_local(source):
        return
    path = Path(source)
    if not os.path.isdir(path):
        raise ModelError(
            f"there is no model folder {source}",
            expected="a folder with config.json, weights and a tokenizer, or a hub id",
            todo="check the path; it is taken from the folder the command runs in",
        )
    if not os.path.isfile(path / "config.json") and not os.path.isfile(path / ADAPTER):
        if inside := model_in_run(source):
            raise ModelError(f"{source} is a run's folder", expected="a model's folder", todo=inside)
        raise ModelError(
            f"{source} has no config.json",
            expected="a folder in Hugging Face's format",
            todo="write it with `save_pretrained`, or name another folder",
        )
    if weights and not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise ModelError(
            f"{source} has no weights",
            expected="model.safetensors (or pytorch_model.bin) beside config.json",
            why="a model with random weights would train without a word and answer nonsense",
            todo="copy the whole folder again",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a model's config.json says of it."""

    context: int  # the most tokens it reads
    is_encoder: bool  # reads a prompt and an answer as a pair of texts, without a template


def model_facts(source: str | Path, kind: Kind) -> ModelFacts:
    """What a folder or hub id (or the model that its adapters belong to) is; its weights are looked for, not loaded.

    Raises ModelError where it cannot be opened as that kind: training would come to the same end, after all stages before it.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

    base = on_disk(base_of(source)) if is_adapter(source) else source
    for folder in dict.fromkeys((source, base)):
        check_folder(folder, weights=True)
    check_family(base, kind)
    with explain_load_errors(base, "language model" if kind == "causal" else "classifier"), quiet():
        config: Any = AutoConfig.from_pretrained(base, **remote_code_kwargs(base))
    check_family(base, kind)  # of a hub id that was not in the cache before
    is_encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if kind == "causal" and is_encoder:
        raise ModelError(
            f"{source} is an encoder (of the family {config.model_type!r}), which reads and does not write",
            expected="a decoder such as GPT-2, Llama or Qwen",
            why="it has to write answers",
            todo="name a decoder; an encoder can only be a reward model or a classifier",
        )
    return ModelFacts(context=context_in(config), is_encoder=is_encoder)


@contextlib.contextmanager
def explain_load_errors(source: str | Path, what: str) -> Iterator[None]:
    """The many errors of loading, in one sentence and with what to do."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # transformers, safetensors and the hub each have their own classes
        if "trust_remote_code" in str(error):
            raise brings_code(source) from error
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        offline = "" if is_folder(source) else "; without a network only local folders and cached hub ids load"
        raise ModelError(
            f"{source} does not load as a {what}: {first}",
            expected="a folder or hub id that transformers loads",
            todo=f"check the name and that the folder is whole{offline}",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Loading reports and progress bars of transformers are for its own users; ours see what matters to them."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
