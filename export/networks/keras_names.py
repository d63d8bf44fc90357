"""The names of a ResNet-50 that DELF's Keras code gives its layers (2020, TensorFlow 2). Nothing here imports torch."""

KERAS_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
# TensorFlow 2's default, with which these networks were trained; slim's is PyTorch's 1e-5.
KERAS_EPSILON = 1e-3
_IN_A_UNIT = {
    **{f"conv{i}": f"conv2{'abc'[i - 1]}" for i in (1, 2, 3)},
    **{f"bn{i}": f"bn2{'abc'[i - 1]}" for i in (1, 2, 3)},
    "downsample.0": "conv_shortcut",
    "downsample.1": "bn_shortcut",
}


def keras_name(name: str) -> str:
    """Return Keras's name, below ``backbone/``, of a tensor of ``KerasResNetTrunk``; counts of steps have none."""
    place, kind = name.rsplit(".", 1)
    if place in ("conv1", "bn1"):
        path = "conv1" if place == "conv1" else "bn_conv1"
    else:
        layer, unit, part = place.split(".", 2)
        path = f"l{int(layer.removeprefix('layer')) + 1}{chr(ord('a') + int(unit))}/{_IN_A_UNIT[part]}"
    return f"{path}/{KERAS_NORM[kind] if path.rpartition('/')[2].startswith('bn') else 'kernel'}"
