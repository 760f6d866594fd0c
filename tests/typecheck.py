"""The checker that tests put on every function of the package: beartype, which takes an int where a float is asked."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
