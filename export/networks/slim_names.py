"""TF-slim's names of the tensors of a ResNet v1. Nothing here imports torch."""

SLIM_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_FIRST = {"conv1": "conv1", "bn1": "conv1/BatchNorm"}
_IN_A_UNIT = {
    **{f"conv{i}": f"conv{i}" for i in (1, 2, 3)},
    **{f"bn{i}": f"conv{i}/BatchNorm" for i in (1, 2, 3)},
    "downsample.0": "shortcut",
    "downsample.1": "shortcut/BatchNorm",
}


def slim_name(name: str) -> str:
    """Return slim's name, below ``resnet_v1_50/``, of a tensor of ``SlimResNetTrunk``; counts of steps have none."""
    place, kind = name.rsplit(".", 1)
    if place in _FIRST:
        path = _FIRST[place]
    else:
        layer, unit, part = place.split(".", 2)
        path = f"{layer.replace('layer', 'block')}/unit_{int(unit) + 1}/bottleneck_v1/{_IN_A_UNIT[part]}"
    return f"{path}/{SLIM_NORM[kind] if path.endswith('BatchNorm') else 'weights'}"
