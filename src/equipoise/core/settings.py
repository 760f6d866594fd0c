"""The settings of an estimator, as scikit-learn asks for them, without scikit-learn."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

Self = TypeVar("Self", bound="HasSettings")


class HasSettings:
    """Settings that are the arguments of the constructor, kept under their names: `sklearn.base.clone` works on it.

    >>> class Model(HasSettings):
    ...     def __init__(self, strength=1.0):
    ...         self.strength = strength
    >>> Model().set_params(strength=2.0)
    Model(strength=2.0)
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings, as scikit-learn asks for them."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self: Self, **params: Any) -> Self:
        """Change settings.

        Raises:
            ValueError: if one is unknown.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"there is no setting {name!r}; there are {', '.join(map(repr, known))}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"
