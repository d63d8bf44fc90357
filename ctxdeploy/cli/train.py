"""``ctxdeploy train``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxdeploy.cli.options import PATH, check_there, configured, echo, json_option, options_of, print_json, quiet_option
from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.export.networks import (
    PRETRAINED,
    Architecture,
    Edges,
    NetworkConfig,
    Refinement,
    Smoothing,
    find_weights,
    pretrained_config,
)
from ctxdeploy.models import find_checkpoint
from ctxdeploy.training import RECIPES, OptimiserConfig, RunConfig, TrainConfig

if TYPE_CHECKING:
    from ctxdeploy.training import Start
    from ctxdeploy.training.sets import PhotoSet

# From a trained network on: the slides' loss, the trunk at a tenth of the learning rate of what is new.
_NO_PHOTOS = "no photos to train on: give --landmarks, --photos or --sfm120k"
_RECIPE, _RECIPE_OF_TRAINED = "pairs", "contrastive"
_TRAINED_STEPS, _TRAINED_RATE, _TRAINED_BACKBONE = 1000, 1e-4, 0.1
# From a trunk that ImageNet trained: the same share for the trunk, and an average over fewer steps, as there are fewer.
_RECIPE_OF_TRUNK, _TRUNK_STEPS = "transfer", 1200
_OF_TRUNK: dict[str, Any] = {"learning_rate": 1e-3, "backbone_factor": 0.1, "warmup": 50, "averaging": 0.995}
# Of TrainConfig; the learning rate has an option of its own.
_OF_RUN = ("accumulate", "photo_size")


def _settable(*kinds: type) -> list[str]:
    """Return the names that --set takes of dataclasses, each once, in the order of their fields."""
    names = dict.fromkeys(field.name for kind in kinds for field in fields(kind))
    return [name for name in names if name != "learning_rate"]


def _epilog() -> str:
    """Return which settings --set takes: those of every recipe, and of each recipe its own."""
    of_recipes = "; ".join(f"{name}: {', '.join(_settable(kind))}" for name, kind in RECIPES.items())
    return f"Settings of --set: {', '.join((*_settable(OptimiserConfig), *_OF_RUN))}. And of a recipe, {of_recipes}."


@click.command("train", epilog=_epilog())
@click.argument("folder", type=PATH)
@click.option("--landmarks", type=PATH, multiple=True, metavar="DIR", help="Folder of folders, one landmark each.")
@click.option(
    "--photos", type=PATH, multiple=True, metavar="DIR", help="Photos without labels: pairs are made of them."
)
@click.option("--sfm120k", type=PATH, multiple=True, metavar="DIR", help="SfM-120k as cirtorch stores it.")
@click.option("--weights", type=PATH, metavar="FILE", help="CSV: landmark, factor of how often it is drawn; 0 never.")
@click.option(
    "--init",
    type=PATH,
    metavar="FILE|NAME",
    help="Network to start from, or a trunk that ImageNet trained: efficientnet-lite0, -lite1, -lite2 "
    "[default: none, from nothing].",
)
@click.option(
    "--block", type=int, help="Whose expansion ends the trunk, from efficientnet-lite [default: 11 of lite0]."
)
@click.option("--architecture", help="Trunk, from nothing [default: resnet18-half].")
@click.option("--skip-layer", type=int, help="Layers of the trunk that are left out, from nothing [default: 1].")
@click.option("--dim", type=int, help="Of the descriptors, from nothing [default: 128].")
@click.option("--smoothing", type=click.Choice(["none", "average", "gaussian"]), help="[default: average, or --init's]")
@click.option("--kernel-size", type=int, help="Of --smoothing [default: 3].")
@click.option("--graph", type=int, metavar="BLOCKS", help="Graph refinement [default: none, or --init's].")
@click.option("--edges", type=click.Choice([e.value for e in Edges]), help="Of --graph [default: threshold].")
@click.option(
    "--recipe", type=click.Choice(list(RECIPES)), help="[default: pairs; contrastive or transfer with --init]"
)
@click.option(
    "--steps", type=int, help=f"[default: {TrainConfig.steps}; {_TRAINED_STEPS} or {_TRUNK_STEPS} with --init]"
)
@click.option(
    "--learning-rate",
    type=float,
    help=f"[default: {OptimiserConfig.learning_rate:g}; {_TRAINED_RATE:g} with --init, a tenth for the trunk]",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Other settings, named below.")
@options_of(TrainConfig, RunConfig)
@json_option
@quiet_option
def command(
    folder: Path,
    landmarks: tuple[Path, ...],
    photos: tuple[Path, ...],
    sfm120k: tuple[Path, ...],
    weights: Path | None,
    init: Path | None,
    block: int | None,
    architecture: str | None,
    skip_layer: int | None,
    dim: int | None,
    smoothing: str | None,
    kernel_size: int | None,
    graph: int | None,
    edges: str | None,
    recipe: str | None,
    steps: int | None,
    learning_rate: float | None,
    settings: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a HOW or ctx network in FOLDER. Run it again to continue after an interruption.

    FOLDER gets model.pth (a checkpoint for export), log.csv, validation.csv and the state of the run.
    """
    if init is not None and _trunk_of(init) is None:
        check_there(CheckpointError, find_checkpoint(init))
    check_there(ConfigError, *landmarks, *sfm120k, weights)
    if not (landmarks or photos or sfm120k):
        raise ConfigError(_NO_PHOTOS)
    require("torch", "export")
    from ctxdeploy.training import train

    config = _config(recipe, steps, learning_rate, settings, _Defaults.of(init))
    run, named = configured(RunConfig), {"--block": block, "--architecture": architecture, "--skip-layer": skip_layer}
    named |= {"--dim": dim, "--smoothing": smoothing, "--kernel-size": kernel_size, "--graph": graph, "--edges": edges}
    with _naming(named):
        start = _start(init, block, architecture, skip_layer, dim, smoothing, kernel_size, _refinement(graph, edges))
    photo_set = _photo_set({"landmarks": landmarks, "photos": photos, "sfm120k": sfm120k}, weights)
    display = Display(quiet=quiet, as_json=as_json)
    display.say(f"{counted(len(photo_set.paths), 'photo')}; recipe {config.recipe.kind}, {config.steps} steps")
    try:
        trained = train(folder, photo_set, start, config, run, display)
    except KeyboardInterrupt:
        echo("ctxdeploy: run the same command again to continue", err=True)
        raise
    if trained.unreadable:
        display.say(f"{counted(trained.unreadable, 'photo')} could not be read: others stood in")
    if as_json:
        print_json({**vars(trained), "model": str(trained.model)})
        return
    score = "" if trained.score is None else f", mAP {100 * trained.score:.2f}"
    echo(f"{printable(str(trained.model))}: {trained.steps} steps{score}")


@contextmanager
def _naming(options: Mapping[str, str | int | None]) -> Iterator[None]:
    """Let what a network's configuration says of its own fields begin with the options that were given."""
    try:
        yield
    except ConfigError as error:
        given = " ".join(f"{flag} {value}" for flag, value in options.items() if value is not None)
        if not given or "--" in str(error):
            raise
        raise ConfigError(f"{given}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Defaults:
    """What is not given, by what a training starts from."""

    recipe: str
    steps: int
    optimiser: Mapping[str, Any]

    @classmethod
    def of(cls, init: Path | None) -> "_Defaults":
        if init is None:
            return cls(recipe=_RECIPE, steps=TrainConfig.steps, optimiser={})
        if _trunk_of(init) is not None:
            return cls(recipe=_RECIPE_OF_TRUNK, steps=_TRUNK_STEPS, optimiser=_OF_TRUNK)
        rates = {"learning_rate": _TRAINED_RATE, "backbone_factor": _TRAINED_BACKBONE}
        return cls(recipe=_RECIPE_OF_TRAINED, steps=_TRAINED_STEPS, optimiser=rates)


def _trunk_of(init: Path) -> str | None:
    """Return the name of a trunk with weights of its own; None for the name of a model, or of a file that is there."""
    known = {architecture.label for architecture in PRETRAINED}
    return str(init) if str(init) in known and not init.is_file() else None


def _config(
    recipe: str | None,
    steps: int | None,
    learning_rate: float | None,
    settings: tuple[str, ...],
    defaults: _Defaults,
) -> TrainConfig:
    kind = RECIPES[recipe or defaults.recipe]
    given = _parsed(settings)
    optimiser = dict(defaults.optimiser)
    if learning_rate is not None:
        optimiser["learning_rate"] = learning_rate
    own: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in given.items():
        owner = next((o for o, k in ((own, kind), (optimiser, OptimiserConfig)) if name in _names(k)), rest)
        owner[name] = value
    unknown = sorted(set(rest) - set(_OF_RUN))
    if "learning_rate" in given:
        raise ConfigError(f"--set learning_rate={given['learning_rate']} has an option of its own: --learning-rate")
    if unknown:
        known = sorted({*_settable(kind, OptimiserConfig), *_OF_RUN})
        raise ConfigError(f"--set {unknown[0]} is unknown: the recipe {kind.kind} has {', '.join(known)}")
    return replace(
        configured(TrainConfig),
        recipe=kind(**own),
        optimiser=OptimiserConfig(**optimiser),
        steps=defaults.steps if steps is None else steps,
        **rest,
    )


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def _parsed(settings: tuple[str, ...]) -> dict[str, int | float | None]:
    values: dict[str, int | float | None] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        try:
            values[name.replace("-", "_")] = None if text == "none" else int(text) if text.isdigit() else float(text)
        except ValueError:
            raise ConfigError(f"--set {setting}: write NAME=NUMBER, or NAME=none") from None
    return values


def _refinement(blocks: int | None, edges: str | None) -> Refinement | None:
    if blocks is None:
        if edges is not None:
            raise ConfigError(f"--edges {edges} is of the graph refinement: give --graph BLOCKS too")
        return None
    return Refinement(blocks=blocks, edges=Edges.THRESHOLD if edges is None else Edges(edges))


def _start(
    init: Path | None,
    block: int | None,
    architecture: str | None,
    skip_layer: int | None,
    dim: int | None,
    smoothing: str | None,
    kernel_size: int | None,
    refinement: Refinement | None,
) -> "Start":
    from ctxdeploy.training import Start

    size = 3 if kernel_size is None else kernel_size
    chosen = None if smoothing is None else Smoothing(kind=smoothing, kernel_size=size)
    trunk = None if init is None else _trunk_of(init)
    if trunk is not None:
        for flag, value in (("--architecture", architecture), ("--skip-layer", skip_layer)):
            if value is not None:
                raise ConfigError(f"{flag} {value} is for a network from nothing: leave out {flag} or --init")
        return _start_on(trunk, block, 128 if dim is None else dim, chosen or Smoothing(kernel_size=size), refinement)
    if block is not None:
        raise ConfigError(f"--block {block} is for --init {PRETRAINED[0].label} and its like: leave it out")
    if init is not None:
        if kernel_size is not None and smoothing is None:
            raise ConfigError(f"--kernel-size {kernel_size} is of --smoothing, which --init's network has: give both")
        for flag, value in (("--architecture", architecture), ("--skip-layer", skip_layer), ("--dim", dim)):
            if value is not None:
                raise ConfigError(f"{flag} {value} is for a network from nothing: leave out {flag} or --init")
        return Start(checkpoint=find_checkpoint(init), smoothing=chosen, refinement=refinement)
    network = NetworkConfig(
        family=_family(chosen, refinement),
        architecture=Architecture.parse(architecture or Architecture.RESNET18_HALF.label),
        skip_layer=1 if skip_layer is None else skip_layer,
        dim=128 if dim is None else dim,
        smoothing=chosen or Smoothing(kernel_size=size),
        refinement=refinement,
    )
    return Start(network=network)


def _start_on(label: str, block: int | None, dim: int, smoothing: Smoothing, refinement: Refinement | None) -> "Start":
    """Return a start from a trunk of a package, with new smoothing, refinement and whitening on it."""
    from ctxdeploy.training import Start

    network = replace(
        pretrained_config(label, block=block, dim=dim),
        family=_family(smoothing, refinement),
        smoothing=smoothing,
        refinement=refinement,
    )
    return Start(network=network, trunk=find_weights(network.architecture))


def _family(smoothing: Smoothing | None, refinement: Refinement | None) -> str:
    learned = refinement is not None or (smoothing is not None and smoothing.kind == "gaussian")
    return "ctx" if learned else "how"


def _photo_set(places: dict[str, tuple[Path, ...]], weights: Path | None) -> "PhotoSet":
    from ctxdeploy.training.sets import joined, read_set, read_weights, weighted

    sets = [read_set(kind, place) for kind, folders in places.items() for place in folders]
    if not sets:
        raise ConfigError(_NO_PHOTOS)
    photos = joined(sets)
    return photos if weights is None else weighted(photos, read_weights(weights))
