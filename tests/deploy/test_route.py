"""The router's unit and manifest: as confined as the daemon's, and true to its settings."""

from __future__ import annotations

import configparser
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.test_systemd import PROGRAMS, analyze, complaints, installed, security

__all__ = ["analyze"]  # the fixture

REPO = Path(__file__).parent.parent.parent
UNIT = REPO / "deploy" / "systemd" / "loggpt-route.service"
MANIFESTS = {
    doc["kind"]: doc for doc in yaml.safe_load_all((REPO / "deploy" / "kubernetes" / "route.yaml").read_text())
}
SETTINGS = yaml.safe_load((REPO / "configs" / "route.yaml").read_text())


def service() -> configparser.SectionProxy:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return unit["Service"]


def pod() -> dict[str, Any]:
    return dict(MANIFESTS["Deployment"]["spec"]["template"]["spec"])


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    return dict(only)


def test_systemd_has_nothing_to_say_about_the_unit(analyze: str, tmp_path: Path) -> None:
    assert complaints(analyze, installed(tmp_path, UNIT.read_text())) == ""


def test_the_service_is_better_confined_than_the_daemon(analyze: str, tmp_path: Path) -> None:
    told = security(analyze, installed(tmp_path, UNIT.read_text()), threshold=17)
    assert told.returncode == 0, told.stdout[-200:] + told.stderr


def test_the_unit_starts_the_router_with_its_own_settings_and_secrets() -> None:
    program, *arguments = service()["ExecStart"].split()
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    assert Path(program).parent == Path(PROGRAMS)
    assert Path(program).name in scripts
    assert arguments == ["route", "--config", "/etc/loggpt-stream/route.yaml"]
    assert service()["EnvironmentFile"] == "-/etc/loggpt-stream/route-secrets.env"
    assert (service()["Restart"], service()["KillSignal"], service()["TimeoutStopSec"]) == (
        "on-failure",
        "SIGTERM",
        "60",
    )


@pytest.mark.parametrize("release", ["1.29", kubernetes_validate.latest_version().rpartition(".")[0]])
@pytest.mark.parametrize("kind", ["Deployment", "PodDisruptionBudget"])
def test_manifests_follow_the_api_schema(kind: str, release: str) -> None:
    assert kubernetes_validate.validate(MANIFESTS[kind], release, strict=True) == release


def test_its_pods_are_not_taken_for_the_daemons() -> None:
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    daemon = yaml.safe_load((REPO / "deploy" / "kubernetes" / "deployment.yaml").read_text())
    assert labels != daemon["spec"]["selector"]["matchLabels"]
    for selector in (MANIFESTS["Deployment"]["spec"]["selector"], MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]):
        assert selector["matchLabels"] == labels


def test_probes_reach_the_port_of_the_settings() -> None:
    (port,) = container()["ports"]
    assert port["containerPort"] == SETTINGS["http_port"] == 9465
    assert container()["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": port["name"]}
    assert container()["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": port["name"]}


def test_it_reads_the_settings_that_are_mounted() -> None:
    (mount,) = container()["volumeMounts"]
    (volume,) = pod()["volumes"]
    assert mount["name"] == volume["name"]
    assert container()["args"] == ["route", "--config", f"{mount['mountPath']}/route.yaml"]


def test_it_runs_confined_as_the_user_of_the_dockerfile() -> None:
    security_context = pod()["securityContext"]
    assert security_context["runAsNonRoot"] is True
    user = f"USER {security_context['runAsUser']}:{security_context['runAsGroup']}\n"
    assert user in (REPO / "deploy" / "Dockerfile").read_text()
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_there_is_room_for_what_waits() -> None:
    assert SETTINGS["max_waiting_mb"] * 4 <= int(container()["resources"]["limits"]["memory"].removesuffix("Mi"))
