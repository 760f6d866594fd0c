from . import (
    catalog as catalog,
)
from . import (
    claims as claims,
)
from . import (
    core as core,
)
from . import (
    crowd as crowd,
)
from . import (
    data as data,
)
from . import (
    dense as dense,
)
from . import (
    estimators as estimators,
)
from . import (
    generative as generative,
)
from . import (
    integrations as integrations,
)
from . import (
    knowledge as knowledge,
)
from . import (
    language as language,
)
from . import (
    longtail as longtail,
)
from . import (
    multimodal as multimodal,
)
from . import (
    openworld as openworld,
)
from . import (
    ranking as ranking,
)
from . import (
    recsys as recsys,
)
from . import (
    report as report,
)
from . import (
    semisup as semisup,
)
from . import (
    training as training,
)
from . import (
    workflows as workflows,
)

__version__: str
