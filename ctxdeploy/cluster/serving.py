"""Search over shards on Ray Serve: a deployment for each part of an archive's shards, and a front before them.

    serve run ctxdeploy.cluster.serving:application archive=/data/photos.ctxindex parts=4 replicas=2

    request ─ Ray's proxy ─ front ─┬─ part-1-of-4: one of its replicas ─┐
                                   └─ …                                 ┴─ merge ─ answer

Ray starts replicas, looks after their health, starts them again, and chooses who is asked. Messages, states, deadlines,
the merge and coverage are those of ``ctxdeploy serve --shard``.
"""

import os
from typing import Any

from ctxdeploy.cluster.serving_config import EXTRA, ServingConfig
from ctxdeploy.core.errors import MissingExtraError
from ctxdeploy.core.extras import require
from ctxdeploy.core.part import Part

FRONT = "front"


def application(arguments: dict[str, Any]) -> Any:
    """Return the application, for ``serve run``, ``serve build`` and ``import_path`` of a file of Ray Serve.

    Args:
        arguments: fields of ``ServingConfig``, as texts or as YAML has them.

    Raises:
        ConfigError: an argument or a setting cannot be used.
        MissingExtraError: the extra ``serve`` or ``ray-serve`` is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # where `serve run` starts a cluster after this
    serve = _ray_serve()
    for module in ("fastapi", "python_multipart", "prometheus_client", "pydantic_settings"):
        require(module, "serve")
    from ctxdeploy.cluster.part_replica import PartReplica

    config = ServingConfig.of(arguments)
    settings = config.settings()
    config.places(settings)
    limits = settings.service
    deployment = serve.deployment(PartReplica)
    parts = [
        deployment.options(
            name=deployment_name(part),
            num_replicas=config.replicas,
            max_ongoing_requests=limits.max_running + limits.max_queue,
        ).bind(config, part)
        for part in config.all_parts
    ]

    def build() -> Any:  # in each replica of the front
        from ctxdeploy.cluster.serving_front import front_app

        return front_app(
            config, {part: serve.get_deployment_handle(deployment_name(part)) for part in config.all_parts}
        )

    front = serve.deployment(serve.ingress(build)()).options(
        name=FRONT,
        num_replicas=config.fronts,
        max_ongoing_requests=limits.max_connections,
        graceful_shutdown_timeout_s=limits.grace_seconds,
    )
    return front.bind(*parts)


def deployment_name(part: Part) -> str:
    """Return what a part's deployment is called."""
    return f"part-{part.number}-of-{part.count}"


def _ray_serve() -> Any:
    """Return Ray Serve; ``MissingExtraError`` names what it lacks of what it imports itself."""
    try:
        return require("ray.serve", EXTRA)
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "ray.serve", EXTRA) from error
