"""The checker that reads annotations at run time: an int is a float to it, as it is to mypy.

While a network is traced, a proxy stands for each tensor.
"""

from beartype import BeartypeConf, FrozenDict, beartype
from torch import Tensor, fx

check = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Tensor: Tensor | fx.Proxy}))
)
