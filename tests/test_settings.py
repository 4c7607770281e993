"""Settings: who wins, what is refused and how, and that secrets stay secret."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import pytest
from pydantic import Field, model_validator

from loggpt_stream.errors import UserError
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.settings import Section, Settings, load

SECRET = "hunter2-hunter2"


class Training(Section):
    epochs: int = Field(10, gt=0, description="at most so many epochs")


class Example(Settings):
    kafka: KafkaSettings = KafkaSettings()
    training: Training = Training()
    seed: int = Field(42, description="seed")


def loaded(*flags: str) -> Example:
    return load(Example, flags, prog="example", description="An example.")


def yaml(tmp_path: Path, text: str) -> str:
    file = tmp_path / "settings.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return str(file)


def test_flags_win_over_environment_over_yaml_over_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded().seed == 42
    file = yaml(tmp_path, "seed: 1\ntraining:\n  epochs: 3\nkafka:\n  bootstrap: yaml:1\n")
    assert loaded("--config", file).seed == 1
    monkeypatch.setenv("LOGGPT_SEED", "2")
    monkeypatch.setenv("LOGGPT_KAFKA__BOOTSTRAP", "env:1")
    both = loaded("--config", file)
    assert (both.seed, both.training.epochs, both.kafka.bootstrap) == (2, 3, "env:1")
    assert loaded("--config", file, "--seed", "5", "--kafka.bootstrap", "flag:1").kafka.bootstrap == "flag:1"
    monkeypatch.setenv("LOGGPT_CONFIG", file)
    assert loaded().training.epochs == 3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sede: 1", r"sede: no such setting; did you mean seed\?"),
        ("training:\n  epoch: 1", r"training\.epoch: no such setting; did you mean epochs\?"),
        ("training:\n  epochs: 0", r"training\.epochs = 0: .*greater than 0"),
        ("seed: many", r"seed = 'many': .*integer"),
        ("kafka:\n  security_protocol: TLS", r"kafka\.security_protocol = 'TLS': .*SASL_SSL"),
        ("- a\n- b", r"settings\.yaml: holds no settings; write them as `name: value`"),
        ("just words", r"settings\.yaml: holds no settings"),
        ("1: one", r"settings\.yaml: holds no settings"),
        ("seed: [", r"settings\.yaml, line 1, column 8: is no YAML"),
        ("seed: 1\n\tx: 2", r"settings\.yaml, line 2, column 1: is no YAML; .*quotes"),
        ("seed: \ud800", r"settings\.yaml: is no UTF-8"),
    ],
)
def test_a_mistake_in_yaml_names_key_value_and_what_would_be_right(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        loaded("--config", yaml(tmp_path, text))


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("LOGGPT_SEDE", "1", r"LOGGPT_SEDE: no such setting; did you mean seed\?"),
        ("LOGGPT_TRAINING__EPOCH", "1", r"training\.epoch: no such setting; did you mean epochs\?"),
        ("LOGGPT_TRAINING__EPOCHS", "-1", r"training\.epochs = '-1': .*greater than 0"),
    ],
)
def test_a_mistake_in_the_environment_is_one_too(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=named):
        loaded()


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert loaded("--config", yaml(tmp_path, "# only a comment\n")) == loaded("--config", yaml(tmp_path, ""))
    assert loaded("--config", yaml(tmp_path, "")).seed == 42


def test_a_key_of_another_command_is_no_mistake_and_a_typo_of_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGGPT_ALERT_TOPIC", "x")
    monkeypatch.setenv("LOGGPT_TRAINING__EPOCHS", "3")
    monkeypatch.setenv("LOGGPT_FROM", "2026-11-23")
    file = yaml(tmp_path, "drift: adapt\nfrom: 2026-11-23\ntokenizer:\n  vocabulary_size: 3\nseed: 7\n")
    assert loaded("--config", file).seed == 7
    with pytest.raises(UserError, match=r"drfit: no such setting; did you mean drift\?"):
        loaded("--config", yaml(tmp_path, "drfit: adapt\n"))
    monkeypatch.setenv("LOGGPT_DRFIT", "adapt")
    with pytest.raises(UserError, match=r"LOGGPT_DRFIT: no such setting; did you mean drift\?"):
        loaded()


class Strict(Example):
    limit: int = Field(1, ge=0)


def test_a_file_must_suit_the_command_that_it_is_for(tmp_path: Path) -> None:
    file = yaml(tmp_path, "limit: none\nseed: 7\n")

    def load_for(*flags: str) -> Example:
        return load(Example, flags, prog="example", description="", must_suit=Strict)

    with pytest.raises(UserError, match=r"limit = 'none': .*integer"):
        load_for("--config", file)
    assert load_for("--config", yaml(tmp_path, "limit: 3\nseed: many\n"), "--seed", "7").seed == 7


def test_an_unknown_flag_names_the_one_that_was_meant_and_shows_no_value() -> None:
    with pytest.raises(UserError, match=r"^--sede: no such flag; did you mean --seed\? See example --help$"):
        loaded("--sede", SECRET)
    with pytest.raises(UserError, match=r"--kafka\.pasword: no such flag; did you mean --kafka\.password") as caught:
        loaded(f"--kafka.pasword={SECRET}")
    assert SECRET not in str(caught.value)
    with pytest.raises(UserError, match="1 more argument than this command takes") as caught:
        loaded(SECRET)
    assert SECRET not in str(caught.value)
    with pytest.raises(UserError, match=r"argument --seed.*expected one argument"):
        loaded("--seed")


def test_missing_files_are_errors() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file.*configs/"):
        loaded("--config", "nowhere.yaml")
    with pytest.raises(UserError, match="directory"):
        loaded("--config", ".")


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        ([], "needs username and password: set LOGGPT_KAFKA__USERNAME and LOGGPT_KAFKA__PASSWORD"),
        (["--kafka.username", "me"], "needs password: set LOGGPT_KAFKA__PASSWORD"),
    ],
)
def test_sasl_without_a_login_is_an_error_that_says_what_to_set(flags: list[str], missing: str) -> None:
    with pytest.raises(UserError, match=missing):
        loaded("--kafka.security-protocol", "SASL_SSL", *flags)


def test_a_secret_shows_in_no_repr_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGGPT_KAFKA__PASSWORD", SECRET)
    settings = loaded("--kafka.security-protocol", "SASL_SSL", "--kafka.username", "me")
    assert SECRET not in repr(settings) + str(settings) + str(settings.model_dump())
    assert settings.kafka.client_options()["sasl_plain_password"] == SECRET
    with pytest.raises(UserError) as caught:
        loaded("--config", yaml(tmp_path, f"kafka:\n  password: [{SECRET}]\n"), "--seed", "x")
    assert SECRET not in str(caught.value)


class TwoThatDoNotFit(Example):
    @model_validator(mode="after")
    def never(self) -> Self:
        raise ValueError("seed and training do not go together")


def test_a_rule_over_several_settings_shows_no_other_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGGPT_KAFKA__PASSWORD", SECRET)
    with pytest.raises(UserError) as caught:
        load(TwoThatDoNotFit, (), prog="example", description="")
    assert str(caught.value) == "seed and training do not go together"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LOGGPT_KAFKA", f'{{"password": "{SECRET}"'),
        ("LOGGPT_KAFKA", f'["{SECRET}"]'),
        ("LOGGPT_KAFKA", f'{{"password": ["{SECRET}"]}}'),
        ("LOGGPT_KAFKA__PASWORD", SECRET),
        ("LOGGPT_PASSWORD", SECRET),
    ],
)
def test_a_mistake_around_a_secret_does_not_show_it(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as caught:
        loaded()
    assert SECRET not in str(caught.value)
    assert "kafka" in str(caught.value).lower()


@pytest.mark.parametrize(
    "text",
    [
        f"kafka:\n  password: {SECRET}: x\n",
        f"kafka:\n  password: '{SECRET}\n",
        f"kafka:\n  password: !{SECRET}\n",
        f"kafka:\n  password: *{SECRET}\n",
        f"kafka:\n  password: %{SECRET}\n",
        f"kafka:\n  password: @{SECRET}\n",
        f"kafka:\n  - password: {SECRET}\n",
        f"kafka:\n  pasword: {SECRET}\n",
    ],
)
def test_broken_yaml_around_a_secret_does_not_show_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as caught:
        loaded("--config", yaml(tmp_path, text))
    assert SECRET not in str(caught.value)


def test_a_missing_setting_says_all_three_ways_to_give_it() -> None:
    class Needy(Settings):
        bundle_dir: str = Field(description="needed")

    with pytest.raises(UserError, match=r"bundle_dir: is required: give --bundle-dir, LOGGPT_BUNDLE_DIR or bundle_dir"):
        load(Needy, (), prog="needy", description="")


def test_help_teaches_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        loaded("--help")
    shown = capsys.readouterr().out
    for said in (
        "An example.",
        "--training.epochs",
        "at most so many epochs",
        "--kafka.security-protocol",
        "default: 42",
    ):
        assert said in shown


def test_settings_do_not_change_once_loaded() -> None:
    settings = loaded()
    for owner, name in ((settings, "seed"), (settings.kafka, "bootstrap")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(owner, name, 1)


def test_an_unreadable_certificate_is_an_error_that_names_it() -> None:
    with pytest.raises(UserError, match=r"kafka\.ca_file"):
        KafkaSettings(security_protocol="SSL", ca_file=Path("/nowhere/ca.pem")).client_options()


class Selecting(Settings):
    select: dict[str, str] = Field({}, description="COLUMN=VALUE")


def test_a_flag_that_wants_key_and_value_says_so() -> None:
    with pytest.raises(UserError, match="KEY=VALUE"):
        load(Selecting, ["--select", "split"], prog="x", description="")
    assert load(Selecting, ["--select", "split=val"], prog="x", description="").select == {"split": "val"}
