from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

REPO = Path(__file__).parent.parent.parent
FOLDER = REPO / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS = {
    doc["kind"]: doc for name in KUSTOMIZATION["resources"] for doc in yaml.safe_load_all((FOLDER / name).read_text())
}
# The oldest release that clusters still in use are likely to have, and the newest that the schemas know.
RELEASES = ["1.29", kubernetes_validate.latest_version().rpartition(".")[0]]


def config_map() -> dict[str, Any]:
    """Return what kustomize makes of the generator, less the hash in its name."""
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    files = dict(entry.split("=") for entry in generator["files"])
    data = {name: (FOLDER / path).read_text() for name, path in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}


def container() -> dict[str, Any]:
    (only,) = MANIFESTS["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_every_manifest_is_part_of_the_kustomization() -> None:
    # The router's is applied by itself: the kustomization's labels would make its pods look like the daemon's.
    beside = {"kustomization.yaml", "route.yaml"}
    assert {path.name for path in FOLDER.iterdir()} == {*beside, *KUSTOMIZATION["resources"]}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests_follow_the_api_schema(kind: str, release: str) -> None:
    assert kubernetes_validate.validate(MANIFESTS[kind], release, strict=True) == release


@pytest.mark.parametrize("release", RELEASES)
def test_the_settings_make_a_config_map(release: str) -> None:
    made = config_map()
    assert isinstance(yaml.safe_load(made["data"]["daemon.yaml"]), dict)
    assert kubernetes_validate.validate(made, release, strict=True) == release


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ["spec", "replicas"], "two"),
        ("Deployment", ["spec", "template", "spec", "terminationGracePeriod"], 60),
        ("Deployment", ["spec", "template", "spec", "containers", 0, "livenessProbe", "httpGet", "ports"], "http"),
        ("Deployment", ["spec", "selector"], "loggpt-stream"),
        ("Service", ["spec", "ports", 0, "port"], "9464"),
        ("PodDisruptionBudget", ["spec", "maxUnavailabel"], 1),
    ],
)
def test_a_broken_manifest_does_not(kind: str, path: list[str | int], value: object) -> None:
    broken = copy.deepcopy(MANIFESTS[kind])
    *above, name = path
    place: Any = broken
    for step in above:
        place = place[step]
    place[name] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, RELEASES[-1], strict=True)


def test_selectors_find_the_pods() -> None:
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    for selector in (
        MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"],
        MANIFESTS["Service"]["spec"]["selector"],
        MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels


def test_probes_and_service_reach_the_port_of_the_settings() -> None:
    settings = yaml.safe_load(config_map()["data"]["daemon.yaml"])
    (port,) = container()["ports"]
    assert port["containerPort"] == settings["http_port"] == 9464
    assert container()["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": port["name"]}
    assert container()["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": port["name"]}
    assert MANIFESTS["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]


def test_it_is_given_longer_to_finish_than_it_takes() -> None:
    settings = yaml.safe_load(config_map()["data"]["daemon.yaml"])
    grace_s = MANIFESTS["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s == 60
    # 20 s: what an end takes at most beyond that, see tests/integration/test_limits.py.
    assert settings["shutdown_grace_s"] + 20 < grace_s


def test_volumes_are_mounted_where_the_program_looks() -> None:
    pod = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert set(mounts) == set(volumes)
    assert volumes["settings"]["configMap"]["name"] == config_map()["metadata"]["name"]
    assert container()["args"][-1] == f"{mounts['settings']}/daemon.yaml"
    assert (
        volumes["bundle"]["persistentVolumeClaim"]["claimName"]
        == MANIFESTS["PersistentVolumeClaim"]["metadata"]["name"]
    )


def test_the_bundle_is_a_folder_of_its_volume_because_the_root_of_ext4_holds_more_than_was_signed() -> None:
    (mount,) = (each for each in container()["volumeMounts"] if each["name"] == "bundle")
    settings = yaml.safe_load(config_map()["data"]["daemon.yaml"])
    assert (Path(mount["mountPath"]).name, mount["subPath"]) == (settings["bundle"].rpartition("/")[2], "bundle")
    assert "kubectl cp bundle POD:/claim\n" in (FOLDER / "bundle.yaml").read_text()


def test_it_runs_confined() -> None:
    pod = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_image_and_user_are_those_of_the_dockerfile() -> None:
    pod = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
    user = pod["securityContext"]["runAsUser"]
    assert f"USER {user}:{pod['securityContext']['runAsGroup']}\n" in (REPO / "deploy" / "Dockerfile").read_text()
    assert container()["image"] == KUSTOMIZATION["images"][0]["name"]
