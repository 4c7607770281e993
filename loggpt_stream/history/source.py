"""Where recorded logs come from: files, or a stretch of a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loggpt_stream.history.corpus import read_corpus
from loggpt_stream.history.topic import read_topic
from loggpt_stream.lines.shapes import known_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from loggpt_stream.history.corpus import Corpus
    from loggpt_stream.history.files import Reading
    from loggpt_stream.history.settings import SourceSettings
    from loggpt_stream.lines.masks import MaskRule
    from loggpt_stream.lines.rules import SessionRules


def read_source(
    source: SourceSettings,
    rules: SessionRules,
    mask_rules: tuple[MaskRule, ...],
    watch: Callable[[Reading], None],
) -> Corpus:
    """Read the files or the topic to closed sessions; `watch` sees how far the reading is.

    Raises `UserError` for what cannot be read.
    """
    if source.topic is not None:
        return read_topic(
            source.kafka,
            source.topic,
            rules,
            mask_rules,
            from_s=source.from_time.timestamp() if source.from_time else None,
            to_s=source.to.timestamp() if source.to else None,
            shape=known_shape(source.shape),
            watch=watch,
        )
    return read_corpus(source.inputs, rules, mask_rules, shape=known_shape(source.shape), watch=watch)
