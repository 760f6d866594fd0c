from .loss import PairwiseDerivatives as PairwiseDerivatives
from .loss import columnwise_pairwise_loss as columnwise_pairwise_loss
from .loss import pairwise_derivatives as pairwise_derivatives
from .loss import pairwise_loss as pairwise_loss
from .loss import split_classes as split_classes
from .surrogates import SURROGATES as SURROGATES
from .surrogates import Surrogate as Surrogate
from .surrogates import resolve_surrogate as resolve_surrogate
