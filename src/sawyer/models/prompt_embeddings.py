"""What a text means to a model, as a vector; and rows that mean the same, of which the first is kept."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.maths import deduplicate, mean_cosine
from sawyer.models.map_rows import MapRows, map_here
from sawyer.text import Row, batches

MOST_LETTERS = 60  # of a text in the journal's sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """What thinning leaves of N rows, in their order, and the pair it was least sure of."""

    indices: tuple[int, ...]  # indices of the rows kept
    of: int  # N
    usual: float  # the mean cosine of two rows: what tells little
    pair: tuple[int, int] | None  # (kept, left out) with the lowest similarity; None where none was left out
    similarity: float  # of that pair

    def summary(self, texts: Sequence[str], threshold: float) -> str:
        """The sentence for the journal; `texts` are those of all N rows."""
        message = (
            f"dedup_threshold: {threshold:g} leaves out {self.of - len(self.indices):,} of {self.of:,} as near-duplicates "
            f"(two rows have a similarity of {self.usual:.3f} on average)"
        )
        if self.pair is None:
            return message
        first, other = (_shorten_text(texts[index]) for index in self.pair)
        return f"{message}; the least alike of them: {other!r} after {first!r} at {self.similarity:.3f}"


def near_duplicates(
    model: nn.Module,
    rows: Sequence[Row],
    threshold: float,
    *,
    pad_id: int,
    token_budget: int,
    groups: Sequence[Hashable] | None = None,
    map_rows: MapRows = map_here,
) -> NearDuplicates:
    """Rows whose mean-pooled states have a cosine of `threshold` or more with an earlier row that is kept are left out.

    With `groups`, a name a row, only rows of one group are compared: two texts nearly alike whose labels differ are what a
    classifier learns from.
    """
    vectors = mean_pooled(model, rows, pad_id=pad_id, token_budget=token_budget, map_rows=map_rows)
    members: dict[Hashable, list[int]] = {}
    for index in range(len(rows)):
        members.setdefault(groups[index] if groups is not None else None, []).append(index)
    row_indices: list[int] = []
    out: list[tuple[float, int, int]] = []
    for indices in members.values():
        duplicates = deduplicate(vectors[indices], threshold)
        row_indices += [index for index, stays in zip(indices, duplicates.keep.tolist(), strict=True) if stays]
        pairs = zip(indices, duplicates.keep.tolist(), duplicates.twin.tolist(), duplicates.similarity.tolist(), strict=True)
        out += [(similarity, indices[twin], index) for index, stays, twin, similarity in pairs if not stays]
    least = min(out, default=None)
    return NearDuplicates(
        indices=tuple(sorted(row_indices)),
        of=len(rows),
        usual=mean_cosine(vectors),
        pair=(least[1], least[2]) if least else None,
        similarity=least[0] if least else 0.0,
    )


@torch.no_grad()
def mean_pooled(
    model: nn.Module, rows: Sequence[Row], *, pad_id: int, token_budget: int, map_rows: MapRows = map_here
) -> Tensor:
    """(N, D) fp32 on the CPU: the mean of the trunk's last hidden states over each row's real tokens, in the rows' order."""
    trunk: Any = getattr(model, "base_model", model)
    device = next(model.parameters()).device

    def read(mine: list[int]) -> Tensor:
        vectors: dict[int, Tensor] = {}
        for indices, batch in batches([rows[i] for i in mine], pad_id=pad_id, token_budget=token_budget):
            on_device = batch.to(device)
            states = trunk(input_ids=on_device.ids, attention_mask=on_device.mask.long()).last_hidden_state.float()
            mask = on_device.mask.unsqueeze(2)
            means = states.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)
            vectors |= dict(zip(indices, means.cpu(), strict=True))
        return torch.stack([vectors[index] for index in range(len(mine))])

    return map_rows([len(row.ids) for row in rows], read)


def _shorten_text(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"
