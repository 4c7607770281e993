"""A signed bundle: made with openssl alone, and refused when anything is not as it was signed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from loggpt_stream.checks.host import check_bundle
from loggpt_stream.cli import main
from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.errors import BundleError
from loggpt_stream.kafka.finding import Level
from loggpt_stream.model.bundle import SIGNATURE, _digest, load_bundle
from loggpt_stream.model.manifest import MANIFEST
from testing.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from loggpt_stream.model.bundle import Bundle


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def new_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Return (private, public) key files, made as docs/security.md says."""
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    return private, public


def sign(bundle: Path, private: Path) -> None:
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", bundle / MANIFEST, "-out", bundle / SIGNATURE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("made") / "bundle", steps=3)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return new_key(tmp_path, "bundle")


@pytest.fixture
def signed(made: Bundle, tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    path = Path(shutil.copytree(made.path, tmp_path / "bundle"))
    sign(path, keys[0])
    return path


def seal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as somebody would who may write to the directory: with all hashes right again."""
    manifest = orjson.loads((path / MANIFEST).read_bytes())
    del manifest["fingerprint"]
    change(manifest)
    (path / MANIFEST).write_bytes(orjson.dumps({**manifest, "fingerprint": _digest(manifest)}))


def raise_threshold(manifest: dict[str, Any]) -> None:
    next(iter(manifest["calibration"].values()))["threshold"] += 1000.0


def test_a_signed_bundle_is_taken_and_its_signature_is_not_asked_for_without_a_key(
    signed: Path, keys: tuple[Path, Path], made: Bundle
) -> None:
    assert load_bundle(signed, key=keys[1]).fingerprint == made.fingerprint
    assert load_bundle(signed).fingerprint == made.fingerprint


def test_an_unsigned_bundle_is_refused_with_how_to_sign_it(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / SIGNATURE).unlink()
    with pytest.raises(BundleError, match=r"is not signed.*openssl pkeyutl -sign -rawin"):
        load_bundle(signed, key=keys[1])


def test_a_bundle_sealed_anew_passes_every_hash_and_is_refused_by_its_signature(
    signed: Path, keys: tuple[Path, Path]
) -> None:
    seal(signed, raise_threshold)
    load_bundle(signed)
    with pytest.raises(BundleError, match=r"is no signature of .*the bundle was altered"):
        load_bundle(signed, key=keys[1])


def test_the_signature_of_another_key_is_refused(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    sign(signed, new_key(tmp_path, "stranger")[0])
    with pytest.raises(BundleError, match="is no signature"):
        load_bundle(signed, key=keys[1])


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"x" * 1_000_000])
def test_a_signature_file_that_holds_none_is_refused(signed: Path, keys: tuple[Path, Path], content: bytes) -> None:
    (signed / SIGNATURE).write_bytes(content)
    with pytest.raises(BundleError, match="is no signature"):
        load_bundle(signed, key=keys[1])


def test_altered_weights_are_refused_though_the_signature_is_right(signed: Path, keys: tuple[Path, Path]) -> None:
    weights = signed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(BundleError, match=r"model\.safetensors was altered"):
        load_bundle(signed, key=keys[1])


def test_a_file_beside_the_signed_ones_is_refused(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / "adapter_config.json").write_text("{}")
    with pytest.raises(BundleError, match=r"adapter_config\.json.*does not cover"):
        load_bundle(signed, key=keys[1])


@pytest.mark.parametrize("content", [None, "junk"])
def test_a_key_file_that_holds_none_says_how_to_make_one(signed: Path, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "no.pub"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BundleError, match=r"bundle_key .*no\.pub: is no public key.*-pubout"):
        load_bundle(signed, key=file)


def test_without_openssl_it_is_said(signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BundleError, match="needs the program openssl"):
        load_bundle(signed, key=keys[1])
    load_bundle(signed)


def test_the_doctor_refuses_what_the_daemon_would(made: Bundle, signed: Path, keys: tuple[Path, Path]) -> None:
    checked = {path: check_bundle(DaemonSettings(bundle=path, bundle_key=keys[1])) for path in (made.path, signed)}
    assert [finding.level for finding, _ in checked.values()] == [Level.FAILURE, Level.OK]
    assert "sign" in checked[made.path][0].found


def test_the_daemon_refuses_to_start_with_an_unsigned_bundle(
    signed: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (signed / SIGNATURE).unlink()
    assert main(["run", "--bundle", str(signed), "--bundle-key", str(keys[1])]) == 2
    assert "is not signed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "sub/file"])
def test_a_manifest_that_names_files_elsewhere_is_refused(signed: Path, name: str) -> None:
    seal(signed, lambda manifest: manifest["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match="names a file elsewhere"):
        load_bundle(signed)


def test_a_manifest_that_leaves_the_weights_out_is_refused(signed: Path) -> None:
    seal(signed, lambda manifest: manifest["files"].pop("model.safetensors"))
    with pytest.raises(BundleError, match=r"does not name model\.safetensors"):
        load_bundle(signed)
