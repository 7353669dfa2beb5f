"""The command ``odeformer serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from launcher import preflight
from launcher.cli.options import TrackingUri, parse_depths
from launcher.cli.output import check_installed, make_progress, say


def serve(
    model: Annotated[
        str, Argument(help="models:/<name>@<alias>, models:/<name>/<version>, or a checkpoint folder.")
    ],
    adapter: Annotated[
        list[str] | None, Option(help="Registered name of an adapter to serve; may be repeated.")
    ] = None,
    all_adapters: Annotated[
        bool, Option("--all-adapters", help="Serve every registered adapter of the model.")
    ] = False,
    depths: Annotated[
        str, Option(help="Depths N to offer, comma-separated. Default: those trained at.")
    ] = "",
    host: Annotated[
        str, Option(help="Address to listen on; any but a local one requires --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    cpus: Annotated[int, Option(min=1, max=4096, help="CPU cores for decoding.")] = 1,
    keys: Annotated[
        Path | None, Option(help="File of hashed API keys, made by odeformer serve --add-key.")
    ] = None,
    add_key: Annotated[
        str | None, Option(metavar="NAME", help="Add an API key to --keys, print it once, and exit.")
    ] = None,
    webhook_secret: Annotated[
        Path | None,
        Option(help="File with the secret of MLflow's webhooks, which report moved aliases at once."),
    ] = None,
    address: Annotated[
        str | None, Option(help="Address of a running Ray cluster. Default: a private one on this machine.")
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Serve a model over an OpenAI-compatible HTTP API.

    Example: odeformer serve models:/tiny@champion --depths 4,8
    """
    if add_key is not None:
        from cluster.serving.keys import add_key as added

        if keys is None:
            raise ValueError("--add-key needs --keys, the file to add it to")
        say(added(keys, add_key))
        return
    chosen = parse_depths(depths)
    if host not in ("127.0.0.1", "localhost", "::1") and keys is None:
        raise ValueError(f"--host {host} can be reached from other machines: give --keys")
    check_installed("serve", "openai")
    preflight.at_model(model, tracking_uri)
    from cluster.connection.connect import ray_cluster
    from cluster.names import absolute_name
    from cluster.serving.settings import ServeSettings
    from launcher.serving import serve_until_stopped

    settings = ServeSettings(
        model=absolute_name(model),
        adapters=tuple(adapter or ()),
        all_adapters=all_adapters,
        depths=chosen,
        cpus=cpus,
        tracking_uri=tracking_uri,
        keys=keys and keys.absolute(),
        webhook_secret=webhook_secret and webhook_secret.absolute(),
    )
    with ray_cluster(address, finetune_slots=1, cpus_per_worker=cpus + 1):
        serve_until_stopped(settings, host, port, make_progress(), is_ours=address is None)
