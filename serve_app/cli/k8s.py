"""`jethro k8s`: manifests from the one config, and their check without a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.options import new_group

group = new_group(help="Kubernetes: manifests from the one config, and their check without a cluster.")


@group.command()
def render(
    config: Annotated[str, typer.Option(help="A YAML file (or a profile's name): the one config.")],
    overlay: Annotated[
        str, typer.Option(help="cpu (kind, minikube), gpu (scarce GPUs) or ha (Redis, two of everything).")
    ] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write a kustomization into; without it the objects are printed.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="The image of all pods, with its tag.")] = None,
    add: Annotated[
        list[str] | None,
        typer.Option("--add", help="A component: auth; ingress comes with kubernetes.ingress. May be repeated."),
    ] = None,
    tree: Annotated[
        Path | None,
        typer.Option(help="Refer to base/ and components/ of this folder; without it they are copied into --out."),
    ] = None,
) -> None:
    """Write Kubernetes manifests for a config: pools become worker groups, with GPUs, CPUs, memory and bounds.

    \b
    Examples:
      jethro k8s render --config my.yaml > all.yaml && kubectl apply -f all.yaml
      jethro k8s render --config my.yaml --overlay gpu --image registry.example.com/jethro:0.1.0 --out manifests
      jethro k8s render --config my.yaml --add auth --out manifests

    The config's `kubernetes` has namespace, claims, ingress and all other options.
    """
    from serve_app.config import check_file
    from serve_app.k8s.delivery import elsewhere
    from serve_app.k8s.extras import build_command
    from serve_app.k8s.pods import IMAGE
    from serve_app.k8s.render import RenderOptions, printed, written

    options = RenderOptions(overlay, tuple(add or ()), image, Path(config).name)
    parsed = check_file(config)
    if out is None:
        typer.echo(printed(parsed, options, tree), nl=False)
    else:
        for name in written(parsed, options, tree, out):
            typer.echo(f"{out / name}")
        typer.echo(f"check them with: jethro k8s check {out}")
    if elsewhere(parsed):
        typer.echo(
            "note: the router is not on this machine, so kubernetes.extras and scorer.replicas are taken as they are",
            err=True,
        )
    typer.echo(f"image: {build_command(parsed, image or IMAGE)}", err=True)


@group.command()
def pack(
    config: Annotated[str, typer.Option(help="A YAML file (or a profile's name): the one config.")],
    out: Annotated[Path, typer.Option(help="The archive to write, a .tar.gz.")] = Path("jethro-artefacts.tar.gz"),
) -> None:
    """Pack the routers, chains and cascade routers that a config names, for pods to load before they start.

    Upload the archive to where pods can read it by http or https, and put its URL and sha256 into the config.

    \b
    Examples:
      jethro k8s pack --config my.yaml --out artefacts.tar.gz
    """
    from serve_app.config import check_file
    from serve_app.k8s.pack import pack as packed

    digest, found = packed(check_file(config), out)
    for named in found:
        typer.echo(f"{named.packed}: {named.path} ({named.key})")
    typer.echo(f"{out}: {out.stat().st_size} bytes; write into {config}:")
    typer.echo("kubernetes:\n  artefacts:")
    typer.echo(f"    url: https://...  # where you upload {out.name}\n    sha256: {digest}")


@group.command()
def check(
    what: Annotated[list[Path], typer.Argument(help="Kustomize folders, folders of YAML files, or YAML files.")],
) -> None:
    """Check manifests without a cluster: schemas, the Serve config, and what only KubeRay's operator would refuse.

    Every mistake at once. Files and folders given together are one set: what refers to each other must be there.

    \b
    Examples:
      jethro k8s check k8s/overlays/mine
      jethro k8s render --config my.yaml > all.yaml && jethro k8s check all.yaml
    """
    from serve_app.errors import ConfigError
    from serve_app.k8s.check import check_documents
    from serve_app.k8s.documents import read

    documents = read(what)
    if mistakes := check_documents(documents):
        raise ConfigError("\n".join(mistakes))
    typer.echo(f"{len(documents)} objects: good")
