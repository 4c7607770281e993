"""The bundle: a directory with all that scoring means, verified at load.

Hugging Face tools open it (config.json, model.safetensors, tokenizer.json). `lines.json` holds what the training
sessions consist of, line by line; `sessions.safetensors` the fingerprints of the sessions used, so that a later
evaluation can refuse them; `loggpt.json` masks, session rules, passes, calibration and the SHA-256 of every file, and
is itself sealed by `fingerprint`, the SHA-256 of the rest of it. There is no pickle in it.

All of that detects damage. It does not stop somebody who may write to the directory from sealing a bundle of their
own: for that there is a detached signature of `loggpt.json`, made and verified with `openssl pkeyutl` (Ed25519,
RFC 8032), in `loggpt.json.sig`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from loggpt_stream import __version__
from loggpt_stream.errors import BundleError
from loggpt_stream.lines.masks import MaskRule, Masks
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.model.calibration import Calibration
from loggpt_stream.model.line_frequencies import LineFrequencies
from loggpt_stream.model.manifest import MANIFEST, require_bundle
from loggpt_stream.model.scoring import Scorer
from loggpt_stream.model.sequence import Passes
from loggpt_stream.model.tokenizer import END, PAD, LineTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

# One small file is read and written in milliseconds: no bars.
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

FORMAT: Final = 2
SIGNATURE: Final = f"{MANIFEST}.sig"
_SESSIONS: Final = "sessions.safetensors"
_LINES: Final = "lines.json"
_MODEL_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json", _LINES)
_OPENSSL_TIMEOUT_S: Final = 30.0
_NO_SESSIONS: Final = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a model needs to read lines as it learned them: masks, session rules, tokens kept of a line, passes."""

    mask_rules: tuple[MaskRule, ...]
    session_rules: SessionRules
    max_line_tokens: int
    passes: Passes = Passes()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle on disk.

    model_fingerprint: 16 hex digits of weights, tokenizer and preprocessing (calibration does not change it).
    fingerprint: SHA-256 of everything. training: what the trainer wrote about itself. used_sessions: int64 session
    fingerprints by role (`train`, `validation`, `calibration`).
    """

    path: Path
    preprocessing: Preprocessing
    model_fingerprint: str
    fingerprint: str
    calibration: Calibration | None
    training: dict[str, Any]
    used_sessions: dict[str, np.ndarray] = field(repr=False)

    def masks(self) -> Masks:
        """Return the compiled masks (a new object: it is not shared between threads)."""
        return Masks(self.preprocessing.mask_rules)

    def tokenizer(self) -> LineTokenizer:
        """Return the tokenizer (a new object: it is not shared between threads)."""
        return LineTokenizer(
            Tokenizer.from_file(str(self.path / "tokenizer.json")), max_line_tokens=self.preprocessing.max_line_tokens
        )

    def model(self) -> GPT2LMHeadModel:
        """Return the model with its weights, in fp32 on the CPU."""
        model: GPT2LMHeadModel = GPT2LMHeadModel.from_pretrained(self.path, local_files_only=True, use_safetensors=True)
        return model

    def line_frequencies(self) -> dict[str, LineFrequencies]:
        """Return what the training sessions consist of, by session kind."""
        line_frequencies: dict[str, Any] = json.loads((self.path / _LINES).read_bytes())
        return {kind: LineFrequencies.from_json(frequencies) for kind, frequencies in line_frequencies.items()}

    def scorer(self, device: torch.device, *, batch_tokens: int = 8192, ranks: bool = False) -> Scorer:
        """Return a scorer with this bundle's model on `device`; with `ranks` it gives `top_k_misses` too."""
        uses_ranks = self.calibration is not None and self.calibration.uses("top_k_misses")
        return Scorer(
            self.model(),
            self.tokenizer(),
            device,
            line_frequencies=self.line_frequencies(),
            passes=self.preprocessing.passes,
            batch_tokens=batch_tokens,
            ranks=ranks or uses_ranks,
        )


def save_bundle(
    path: Path,
    *,
    model: GPT2LMHeadModel,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    line_frequencies: Mapping[str, LineFrequencies],
    training: Mapping[str, Any],
    used_sessions: Mapping[str, np.ndarray],
) -> Bundle:
    """Write an uncalibrated bundle to `path` (replaced whole, or not at all) and return it.

    Raises `BundleError` where `path` exists and is not a bundle.
    """
    with _replacing(path) as new:
        model.save_pretrained(new)
        tokenizer.save(str(new / "tokenizer.json"))
        _write_json(
            new / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "eos_token": END},
        )
        # Not orjson: log text may hold lone surrogates, which it refuses to write and to read.
        lines = {kind: frequencies.to_json() for kind, frequencies in sorted(line_frequencies.items())}
        (new / _LINES).write_text(json.dumps(lines, separators=(",", ":")))
        _seal(new, preprocessing, dict(training), None, used_sessions)
    return load_bundle(path, calibrated=False)


def save_calibrated(
    bundle: Bundle, path: Path, *, calibration: Calibration, calibration_sessions: np.ndarray
) -> Bundle:
    """Write `bundle` with a calibration to `path` (may be the bundle's own) and return it.

    Raises `BundleError` where a file of `bundle` is no longer what it was, or `path` exists and is not a bundle.
    """
    used = {**bundle.used_sessions, "calibration": calibration_sessions}
    with _replacing(path) as new:
        manifest = _manifest(bundle.path)
        if manifest.get("fingerprint") != bundle.fingerprint:
            raise BundleError(f"{bundle.path} is another bundle than the one that was read. Calibrate again.")
        for file, sha256 in manifest["files"].items():
            _verify(bundle.path / file, sha256)  # what is sealed below is what was scored with
            shutil.copyfile(bundle.path / file, new / file)
        _seal(new, bundle.preprocessing, bundle.training, calibration, used)
    return load_bundle(path)


def load_bundle(path: Path, *, calibrated: bool = True, key: Path | None = None) -> Bundle:
    """Verify the bundle at `path` and return it. Weights are read later, by `Bundle.model`.

    key: PEM file of the public key that the bundle must be signed for; None asks for no signature.

    Raises `BundleError` with what to do, where the bundle is missing, partial, altered, of another format, not signed
    as it must be, or (unless `calibrated` is False) not calibrated.
    """
    manifest = _manifest(path, key)
    try:
        stated = manifest.pop("fingerprint")
        if stated != _digest(manifest):
            raise BundleError(f"{path / MANIFEST} was altered after it was written. Train and calibrate again.")
        files: dict[str, str] = manifest["files"]
        _check_names(path, files, signed=key is not None)
        for name, sha256 in files.items():
            _verify(path / name, sha256)
        rules: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in manifest["session_rules"].items()
        }
        preprocessing = Preprocessing(
            tuple(MaskRule(**rule) for rule in manifest["masks"]),
            SessionRules(**rules),
            manifest["max_line_tokens"],
            Passes.from_json(manifest["passes"]),
        )
        kinds = manifest["calibration"]
        calibration = Calibration.from_json(kinds) if kinds else None
        model_fingerprint, training = manifest["model_fingerprint"], manifest["training"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{path / MANIFEST} does not hold what this version reads ({error!r}). Train and calibrate again."
        ) from error
    if calibrated and calibration is None:
        raise BundleError(f"The bundle {path} is not calibrated. Run: loggpt-calibrate --bundle {path} INPUT")
    return Bundle(
        path=path,
        preprocessing=preprocessing,
        model_fingerprint=model_fingerprint,
        fingerprint=stated,
        calibration=calibration,
        training=training,
        used_sessions=load_file(path / _SESSIONS),
    )


def _seal(
    path: Path,
    preprocessing: Preprocessing,
    training: dict[str, Any],
    calibration: Calibration | None,
    used_sessions: Mapping[str, np.ndarray],
) -> None:
    roles = {role: used_sessions.get(role, _NO_SESSIONS) for role in ("train", "validation", "calibration")}
    save_file({role: np.sort(prints.astype(np.int64)) for role, prints in roles.items()}, path / _SESSIONS)
    for file in path.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone, but the daemon has a user of its own
    files = {file.name: _sha256(file) for file in sorted(path.iterdir()) if file.name != MANIFEST}
    means = {
        "masks": [asdict(rule) for rule in preprocessing.mask_rules],
        "session_rules": asdict(preprocessing.session_rules),
        "max_line_tokens": preprocessing.max_line_tokens,
        "passes": preprocessing.passes.to_json(),
    }
    manifest: dict[str, Any] = {
        "format": FORMAT,
        **means,
        "model_fingerprint": _digest({**means, **{name: files[name] for name in _MODEL_FILES}})[:16],
        "training": training,
        "calibration": calibration.to_json() if calibration else None,
        "versions": {
            "loggpt-stream": __version__,
            **{name: version(name) for name in ("torch", "transformers", "tokenizers")},
        },
        "files": files,
    }
    _write_json(path / MANIFEST, {**manifest, "fingerprint": _digest(manifest)})


def _manifest(path: Path, key: Path | None = None) -> dict[str, Any]:
    require_bundle(path)
    try:
        content = (path / MANIFEST).read_bytes()
        if key is not None:
            _verify_signature(path, content, key)
        manifest = orjson.loads(content)
    except (OSError, orjson.JSONDecodeError) as error:
        raise BundleError(f"{path / MANIFEST} cannot be read ({error}). Train and calibrate again.") from error
    if isinstance(manifest, dict) and isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        versions = manifest.get("versions")
        writer = versions.get("loggpt-stream", "?") if isinstance(versions, dict) else "?"
        raise BundleError(
            f"{path} is a bundle of format {manifest['format']}, which loggpt-stream {writer} wrote; this is "
            f"{__version__}, which reads format {FORMAT}. Run {writer} or newer, or train and calibrate with this one."
        )
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path} is not a bundle of format {FORMAT}. Train and calibrate with this version.")
    return manifest


def _check_names(path: Path, files: Mapping[str, str], *, signed: bool) -> None:
    """Refuse a manifest that names a file elsewhere or leaves a needed one out, and files beside a signed bundle's."""
    elsewhere = [name for name in files if Path(name).name != name]
    missing = sorted({*_MODEL_FILES, _SESSIONS} - files.keys())
    if elsewhere or missing:
        fault = f"names a file elsewhere, {elsewhere[0]!r}" if elsewhere else f"does not name {', '.join(missing)}"
        raise BundleError(f"{path / MANIFEST} {fault}: it was not written by loggpt-train. Train and calibrate again.")
    # What stands beside them may be read too: transformers takes further files by name.
    known = {*files, MANIFEST, SIGNATURE}
    others = sorted(file.name for file in path.iterdir() if file.name not in known and not file.name.startswith("."))
    if signed and others:
        raise BundleError(
            f"{path} holds {others[0]!r}, which the signature does not cover. Remove it, or give the bundle a folder "
            "of its own."
        )


def _verify_signature(path: Path, content: bytes, key: Path) -> None:
    """Raise `BundleError` unless SIGNATURE in `path` is one of `content` by the holder of `key`'s private half."""
    signature = path / SIGNATURE
    if _openssl("pkey", "-pubin", "-in", str(key), "-noout") != 0:
        raise BundleError(
            f"bundle_key {key}: is no public key in PEM form that can be read. Make it with: "
            "openssl pkey -in PRIVATE_KEY -pubout -out PUBLIC_KEY"
        )
    if not signature.exists():
        raise BundleError(
            f"The bundle {path} is not signed, and bundle_key asks for it. Sign it where the private key is: "
            f"openssl pkeyutl -sign -rawin -inkey PRIVATE_KEY -in {path / MANIFEST} -out {signature}"
        )
    with tempfile.TemporaryDirectory() as folder:
        # The very bytes that are read here: the file may be another one a moment later.
        signed = Path(folder) / MANIFEST
        signed.write_bytes(content)
        arguments = ("-pubin", "-inkey", str(key), "-rawin", "-in", str(signed), "-sigfile", str(signature))
        if _openssl("pkeyutl", "-verify", *arguments) != 0:
            raise BundleError(
                f"{signature} is no signature of {path / MANIFEST} by the key {key}: the bundle was altered, "
                "calibrated anew, or signed with another key. Use it only after you know which; then sign it again."
            )


def _openssl(*arguments: str) -> int:
    command = ["openssl", *arguments]
    try:
        return subprocess.run(  # noqa: S603 - our own arguments, no shell
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_OPENSSL_TIMEOUT_S
        ).returncode
    except OSError as error:
        raise BundleError(f"bundle_key needs the program openssl ({error.strerror}): install it.") from error
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"openssl did not answer within {_OPENSSL_TIMEOUT_S:.0f} s. Try again.") from error


def _verify(file: Path, sha256: str) -> None:
    try:
        found = _sha256(file)
    except PermissionError as error:
        raise BundleError(f"{file}: permission denied. Let this user read the bundle: chmod -R a+rX.") from error
    except OSError as error:
        raise BundleError(f"The bundle is partial: {file} cannot be read. Copy it whole, or train again.") from error
    if found != sha256:
        raise BundleError(f"{file} was altered or damaged (SHA-256 differs). Copy the bundle again, or train again.")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a new directory that takes the place of `path` if the block succeeds."""
    if path.exists() and not (path / MANIFEST).exists() and (path.is_file() or any(path.iterdir())):
        raise BundleError(f"{path} exists and is not a bundle: name another place.")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield new
        new.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
            path.rename(old / path.name)
            try:
                new.rename(path)
            except OSError:
                (old / path.name).rename(path)
                old.rmdir()
                raise
            shutil.rmtree(old)
        else:
            new.rename(path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_bytes(orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
