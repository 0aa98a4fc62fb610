"""Rules for the front in every pod: Serve starts ours in HAProxy's place, with a token, in a folder of the pod alone.

Without it, Ray's HAProxy has an admin socket that every process of the pod may command, no limit on how long a request
may take to arrive, and a Gateway answers requests that did not come through HAProxy.
"""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from serve_app.config import Config
from serve_app.config.environment import front_variables
from serve_app.front.settings import BINARY, BOUNDS, PROGRAM, TOKEN
from serve_app.k8s.rules.pods import pods_of, variables
from serve_app.k8s.stopping import hook_folder, hook_of, hook_times

_PATHS = tuple(front_variables(PurePosixPath("/"), PurePosixPath("/")))


def front_mistakes(body: dict[str, Any], config: Config) -> Iterator[str]:
    """Sentences on every pod's front, and on what all pods must have in common."""
    pods = pods_of(body)
    head = _token(pods[0][2])
    for where, _, template in pods:
        env, token = variables(template), _token(template)
        program = PurePosixPath(env.get(BINARY) or "")
        if not program.is_absolute() or program.name != PROGRAM:
            yield f"{where}: env {BINARY} must be the path of jethro-front in the image; without it HAProxy is open"
        yield from _folder(where, template, env)
        # one that is written into the manifest is refused by the rules for pods
        if env.get(TOKEN) is None and (token is None or token.get("optional")):
            yield (
                f"{where}: env {TOKEN} is not given, or only optional; add it with secretKeyRef, or Gateways answer "
                "requests that did not come through HAProxy"
            )
        elif token is not None and token != head:
            yield f"{where}: env {TOKEN} differs from the head's; a Gateway refuses the HAProxies of other pods"
        try:
            bounds = json.loads(env.get(BOUNDS) or "{}")
        except ValueError:
            bounds = None
        if bounds != config.front_bounds():
            yield f"{where}: env {BOUNDS} is not what server and limits of the config say: render again"


def _folder(where: str, template: dict[str, Any], env: dict[str, str | None]) -> Iterator[str]:
    folders = {str(_folder_of(name, env.get(name) or "")) for name in _PATHS if name != BINARY}
    if len(folders) != 1 or folders == {"."}:
        yield f"{where}: HAProxy's files must be in one folder: set {', '.join(n for n in _PATHS if n != BINARY)}"
        return
    (folder,) = folders
    spec = template["spec"]
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    # a mount without a volume is refused by the rules for pods
    own = [m for m in spec["containers"][0].get("volumeMounts", []) if "emptyDir" in volumes.get(m["name"], "emptyDir")]
    mounts = [m["mountPath"] for m in own]
    # the mount itself is the kubelet's, and every user may write in it
    if not any(PurePosixPath(mount) in PurePosixPath(folder).parents for mount in mounts):
        yield f"{where}: HAProxy's files are in {folder}, which is not below an emptyDir of this pod alone"
    command = hook_of(template)
    if hook_times(command) is not None and PurePosixPath(hook_folder(command)) != PurePosixPath(folder):
        yield f"{where}: the preStop drains {hook_folder(command)} and HAProxy's files are in {folder}"


def _folder_of(name: str, value: str) -> PurePosixPath:
    return PurePosixPath(value) if name.endswith("_BASE") else PurePosixPath(value).parent


def _token(template: dict[str, Any]) -> dict[str, Any] | None:
    """The reference to the Secret that holds the token."""
    env = template["spec"]["containers"][0].get("env", [])
    found = [e.get("valueFrom", {}).get("secretKeyRef") for e in env if e["name"] == TOKEN]
    return found[0] if found else None
