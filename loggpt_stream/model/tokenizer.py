"""Masked line → token ids: a byte-level BPE of the domain, with whole frequent lines as single tokens.

A few hundred distinct masked lines make up nearly all of an OpenStack log (252,478 lines of one training set have 739
forms), so such a line is one token: short sequences, a small vocabulary, and a loss that is the line's own. Lines that
were not frequent in training fall back to byte-level BPE pieces. Both are one standard BPE model: `ignore_merges` makes
the tokenizer take a whole line that is in the vocabulary before it merges pieces.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import orjson
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from loggpt_stream.lines.names import SessionKind

if TYPE_CHECKING:
    from collections.abc import Iterable

PAD: Final = "<|PAD|>"
LOG: Final = "<|LOG|>"
END: Final = "<|END|>"
# Begins a line set. The token has the name of version 0.1.0, since bundles hold it.
LINE_SET: Final = "<|DIGEST|>"
KIND_TOKENS: Final[dict[str, str]] = {kind: f"<|{kind}|>" for kind in SessionKind}
SPECIAL_TOKENS: Final = (PAD, LOG, END, LINE_SET, *KIND_TOKENS.values())

_MEMO_LINES: Final = 65_536


def train_tokenizer(lines: Iterable[str], *, vocabulary_size: int, piece_vocabulary_size: int) -> Tokenizer:
    """Fit a tokenizer to masked `lines` (repeats count).

    At most `piece_vocabulary_size` tokens are bytes and BPE pieces; the rest, up to `vocabulary_size`, are the most
    frequent whole lines. A line seen once is among them as long as there is room: it costs a few nats when it comes
    again, and a line never seen, in pieces, a hundred. Raises `ValueError` where the sizes do not fit together.
    """
    if not len(SPECIAL_TOKENS) + 256 <= piece_vocabulary_size <= vocabulary_size:
        raise ValueError(
            f"vocabulary sizes {piece_vocabulary_size} and {vocabulary_size}: need "
            f"{len(SPECIAL_TOKENS) + 256} <= pieces <= vocabulary"
        )
    counts = Counter(lines)
    # In a fixed order, so that two runs over the same lines give the same tokenizer.
    frequent = sorted(counts, key=lambda line: (-counts[line], line))
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    pieces.train_from_iterator(
        # Once each: pieces serve lines that were never seen, for which the forms count and not their frequency.
        frequent,
        trainers.BpeTrainer(
            vocab_size=piece_vocabulary_size,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
        length=len(frequent),
    )
    fitted = orjson.loads(pieces.to_str())["model"]
    vocabulary: dict[str, int] = fitted["vocab"]
    whole_line = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for line in frequent:
        if len(vocabulary) >= vocabulary_size:
            break
        ((as_bytes, _),) = whole_line.pre_tokenize_str(line) or (("", None),)
        if as_bytes:
            vocabulary.setdefault(as_bytes, len(vocabulary))
    merges = [tuple(pair) for pair in fitted["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = whole_line
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


class LineTokenizer:
    """Token ids of masked lines, remembered (bounded). Not shared between threads."""

    def __init__(self, tokenizer: Tokenizer, *, max_line_tokens: int) -> None:
        """Wrap a fitted tokenizer. A line keeps its first `max_line_tokens` tokens."""
        self.tokenizer = tokenizer
        self.max_line_tokens = max_line_tokens
        self.pad_id = self._id(PAD)
        self.log_id = self._id(LOG)
        self.end_id = self._id(END)
        self.line_set_id = self._id(LINE_SET)
        self.kind_ids: dict[str, int] = {kind: self._id(token) for kind, token in KIND_TOKENS.items()}
        self._memo: dict[str, tuple[int, ...]] = {}

    @property
    def vocabulary_size(self) -> int:
        """Return how many token ids there are."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, line: str) -> tuple[int, ...]:
        """Return the ids of one masked line: at least one, at most `max_line_tokens`, never a special token."""
        ids = self._memo.get(line)
        if ids is None:
            # An escape for text that spells a special token: log text must not be able to end a session.
            plain = line.replace("<|", "< |") if "<|" in line else line
            encoded = self.tokenizer.encode(plain or " ", add_special_tokens=False)
            ids = tuple(encoded.ids[: self.max_line_tokens])
            if len(self._memo) >= _MEMO_LINES:
                self._memo.clear()
            self._memo[line] = ids
        return ids

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token}")
        return int(found)
