"""Settings of `loggpt-train`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from loggpt_stream.history.settings import SourceSettings
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.model.sequence import Passes
from loggpt_stream.model.shape import ModelShape
from loggpt_stream.model.tokenizer import SPECIAL_TOKENS
from loggpt_stream.settings import Section

_RULES: Final = SessionRules()
_SHAPE: Final = ModelShape()
_PASSES: Final = Passes()
_SMALLEST_VOCABULARY: Final = len(SPECIAL_TOKENS) + 256
LEAST_BATCH_TOKENS: Final = 64


class SessionSettings(Section):
    """How lines become sessions. It goes into the bundle: the daemon gathers lines by the same rules."""

    key_order: tuple[str, ...] = Field(
        _RULES.key_order, description="where a session key is looked for, in this order; left out means off"
    )
    unkeyed: Literal["drop", "window"] = Field("drop", description="lines without a key: drop, or window (by host)")
    idle_gap_s: float = Field(_RULES.idle_gap_s, description="a session without a line for so many seconds closes")
    max_age_s: float = Field(_RULES.max_age_s, description="an older session closes; the rest becomes its next part")
    max_lines: int = Field(_RULES.max_lines, description="a longer session closes; the rest becomes its next part")
    terminal: tuple[str, ...] = Field(_RULES.terminal, description="pieces of text that end an instance's session")
    revival: tuple[str, ...] = Field(_RULES.revival, description="pieces of text that cancel a terminal line")
    grace_s: float = Field(_RULES.grace_s, description="seconds that a session waits after a terminal line")
    max_future_s: float = Field(_RULES.max_future_s, description="a line dated further ahead counts as this far ahead")
    tombstone_s: float = Field(_RULES.tombstone_s, description="lines so many seconds after a terminal close are late")

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self.rules()
        return self

    def rules(self) -> SessionRules:
        """Return the session rules."""
        return SessionRules(**self.model_dump())


class TokenizerSettings(Section):
    """How a masked line becomes tokens."""

    vocabulary_size: int = Field(8192, description="at most so many tokens, frequent whole lines among them")
    piece_vocabulary_size: int = Field(
        1024, ge=_SMALLEST_VOCABULARY, description="of these, at most so many bytes and pieces for lines never seen"
    )
    max_line_tokens: int = Field(32, gt=0, description="a line keeps so many tokens")

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.vocabulary_size < self.piece_vocabulary_size:
            raise ValueError(
                f"vocabulary_size {self.vocabulary_size} must be at least piece_vocabulary_size "
                f"{self.piece_vocabulary_size}"
            )
        return self


class ReadingSettings(Section):
    """How a session is read, in three passes. It goes into the bundle."""

    block_lines: int = Field(_PASSES.block_lines, gt=0, description="a line is read with at most so many before it")
    tail_lines: int = Field(
        _PASSES.tail_lines, ge=0, description="read the end once more, after so many last lines; 0: do not"
    )
    digest: bool = Field(_PASSES.line_set, description="also read each distinct line once: shows missing lines")
    hygiene: bool = Field(_PASSES.isolate_unseen, description="keep lines never seen out of the context of others")
    separator: bool = Field(_PASSES.separator, description="a token <|LOG|> before each line")

    def passes(self) -> Passes:
        """Return the passes."""
        return Passes.from_json(self.model_dump())


class ModelSettings(Section):
    """Size of the GPT."""

    layers: int = Field(_SHAPE.layers, gt=0, description="transformer layers")
    width: int = Field(_SHAPE.width, gt=0, description="size of a token's vector")
    heads: int = Field(_SHAPE.heads, gt=0, description="attention heads; they divide the width")
    context_tokens: int = Field(_SHAPE.context_tokens, gt=0, description="longest window it reads, in tokens")
    dropout: float = Field(_SHAPE.dropout, ge=0, lt=1, description="share of activations dropped in training")

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self

    def shape(self) -> ModelShape:
        """Return the model shape."""
        return ModelShape(**self.model_dump())


class TrainingSettings(Section):
    """How the model learns."""

    epochs: int = Field(12, gt=0, description="at most so many passes over the training sessions")
    patience: int = Field(4, gt=0, description="stop after so many epochs without a better validation loss")
    batch_tokens: int = Field(
        1536, ge=LEAST_BATCH_TOKENS, description="tokens a step, padding included, over all processes"
    )
    learning_rate: float = Field(2e-3, gt=0, description="highest learning rate")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's weight decay")
    warmup_steps: int = Field(30, ge=0, description="steps until the highest learning rate")
    gradient_clip: float = Field(1.0, gt=0, description="greatest norm of the gradient")


class TrainerSettings(SourceSettings):
    """Settings of `loggpt-train`."""

    out: Path = Field(Path("bundle"), description="directory of the bundle to write; an older bundle there is replaced")
    report: Path | None = Field(None, description="directory of the report (default: <out>-report)")

    labels: Path | None = Field(None, description="CSV whose first column is the session key or group; not needed")
    select: dict[str, str] = Field({}, description="learn only from sessions with these labels: COLUMN=VALUE")
    exclude: dict[str, str] = Field({}, description="never learn from sessions with these labels: COLUMN=VALUE")
    group_column: str | None = Field(None, description="label column: sessions of one value are not split")
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="share of the sessions held out for validation")
    validation: Literal["latest", "random"] = Field("latest", description="which sessions are held out")

    sessions: SessionSettings = SessionSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    reading: ReadingSettings = ReadingSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()

    search: bool = Field(
        default=False, description="try sizes and rates on the held-out sessions first, and train with the best"
    )
    search_minutes: float = Field(20, gt=0, description="all trials of a search take at most so many minutes")
    search_trials: int = Field(30, gt=0, description="a search makes at most so many trials")

    seed: int = Field(42, ge=0, lt=2**31, description="same seed, data and machine: same bundle")
    max_minutes: float | None = Field(None, gt=0, description="stop after so many minutes of training (no limit)")
    resume: bool = Field(
        default=True, description="go on from <out>.checkpoint if a run of the same command was cut off"
    )
    device: str = Field("auto", description="auto (CUDA if there is one, else CPU), cpu, cuda or cuda:N")
    threads: int | None = Field(None, gt=0, description="CPU threads of a process (one for every two cores)")

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.labels is None and (self.select or self.exclude or self.group_column):
            raise ValueError("select, exclude and group_column name columns of a label file: give labels too")
        if self.model.context_tokens < self.tokenizer.max_line_tokens + 4:
            raise ValueError(
                f"model.context_tokens {self.model.context_tokens} must be at least tokenizer.max_line_tokens "
                f"{self.tokenizer.max_line_tokens} + 4"
            )
        return self

    @property
    def report_directory(self) -> Path:
        """Return where the report goes: never into the bundle, which is sealed."""
        return self.report or self.beside("-report")

    @property
    def checkpoint_directory(self) -> Path:
        """Return where an unfinished run keeps its state."""
        return self.beside(".checkpoint")

    def beside(self, suffix: str) -> Path:
        """Return the path of something that stands beside the bundle."""
        out = self.out.absolute()
        return out.with_name(out.name + suffix)


def what_decides(settings: TrainerSettings) -> dict[str, object]:
    """Return the settings that decide what is learned from given data; the sealed bundle states them."""
    return {
        "seed": settings.seed,
        "validation": settings.validation,
        "validation_fraction": settings.validation_fraction,
        "tokenizer": settings.tokenizer.model_dump(),
        "reading": settings.reading.model_dump(),
        "model": asdict(settings.model.shape()),
        "training": settings.training.model_dump(),
    }
