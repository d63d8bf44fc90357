"""How a network makes one vector of a feature map, and one of several scales. Nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ctxdeploy.core.errors import ConfigError

KINDS = ("gem", "mac", "spoc", "rmac")
NORMS = ("added", "floored")
MEANS = ("mean", "gem", "signed")
_MAX_DIM = 8192


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """The part of a network that gives the global descriptor.

    Of each scale: feature map → (local whitening) → pooling → (norm) → (whitening → norm); of all: mean over the scales
    → norm → (final whitening → norm).

    Attributes:
        kind: ``gem`` (mean of powers), ``mac`` (maximum), ``spoc`` (mean) or ``rmac`` (maxima of regions).
        fixed_p: power of ``gem`` that was not trained (DELG's 3); None where the weights hold it.
        regional: pool each region of R-MAC's grid by ``kind``, and add up.
        regional_whitening: a linear layer on the vector of each region.
        local_whitening: a linear layer on every position of the feature map.
        norm_pooled: divide the pooled vector by its length before the whitening (cirtorch; not dirtorch or DELG).
        dim: of a linear layer on the pooled vector (whitening, ``fc``); None without one.
        final_dim: of a linear layer on the finished vector (learned whitening, PCA); None without one.
        norm: ``added``, x / (‖x‖ + 1e-6), as cirtorch and SOLAR; ``floored``, x / max(‖x‖, 1e-12): dirtorch, DELG.
        over_scales: ``mean``; ``gem``, the mean of powers with the power of the pooling (cirtorch without whitening);
            ``signed``, cubes that keep their sign (dirtorch).
        center_bias: b of a weight of 1 + b in the middle of the map and 1 around it (dirtorch); 0 without.
        second_order: layers of a ResNet, 3 and 4, after which second-order attention stands (SOLAR).
        beside_local: the network gives local descriptors as well (DELG).
    """

    kind: str = "gem"
    fixed_p: float | None = None
    regional: bool = False
    regional_whitening: bool = False
    local_whitening: bool = False
    norm_pooled: bool = True
    dim: int | None = None
    final_dim: int | None = None
    norm: str = "added"
    over_scales: str = "mean"
    center_bias: float = 0.0
    second_order: tuple[int, ...] = ()
    beside_local: bool = False

    def __post_init__(self) -> None:
        for what, value, known in (
            ("kind", self.kind, KINDS),
            ("norm", self.norm, NORMS),
            ("over_scales", self.over_scales, MEANS),
        ):
            if value not in known:
                raise ConfigError(f"pooling: {what} {value!r} is not one of {', '.join(known)}")
        for what, dim in (("dim", self.dim), ("final_dim", self.final_dim)):
            if dim is not None and (type(dim) is not int or not 1 <= dim <= _MAX_DIM):
                raise ConfigError(f"pooling: {what} {dim!r} is not a whole number in 1..{_MAX_DIM}")
        for what, flag in asdict(self).items():
            if isinstance(getattr(type(self), what), bool) and type(flag) is not bool:
                raise ConfigError(f"pooling: {what} {flag!r} is neither true nor false")
        if self.fixed_p is not None and (self.kind != "gem" or not 1 <= self.fixed_p <= 100):
            raise ConfigError(f"pooling: fixed_p {self.fixed_p!r}: give 1 to 100, and only with kind 'gem'")
        if self.over_scales == "gem" and (self.kind != "gem" or self.regional or self.dim is not None):
            raise ConfigError("pooling: over_scales 'gem' needs kind 'gem', neither regional nor with a dim")
        self._check_parts()
        if self.regional_whitening and not self.regional:
            raise ConfigError("pooling: regional_whitening needs regional")
        if self.kind == "rmac" and self.regional:
            raise ConfigError("pooling: kind 'rmac' has regions already: give regional with 'mac', or leave it out")

    def _check_parts(self) -> None:
        if type(self.center_bias) is not float or not 0 <= self.center_bias <= 100:
            raise ConfigError(f"pooling: center_bias {self.center_bias!r} is not a number in 0..100")
        if self.second_order not in ((), (3,), (4,), (3, 4)):
            raise ConfigError(
                f"pooling: second_order {self.second_order!r}: attention stands after layers 3, 4 or both"
            )

    def metadata(self) -> dict[str, Any]:
        """Return the settings that are not the usual ones, which ``parse`` reads; ``kind`` always."""
        usual = asdict(type(self)())
        unusual = {name: value for name, value in asdict(self).items() if value != usual[name]}
        return {"kind": self.kind} | {n: list(v) if isinstance(v, tuple) else v for n, v in unusual.items()}

    @classmethod
    def parse(cls, metadata: Mapping[str, Any]) -> "Pooling":
        """Return what ``metadata`` wrote; ``ConfigError`` names what is wrong with it."""
        try:
            layers = tuple(metadata.get("second_order", ()))
            return cls(**{**metadata, "second_order": layers})
        except TypeError as error:
            raise ConfigError(f"pooling: {error}") from error
