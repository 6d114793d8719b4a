"""Expert loads by step and layer: tokens that the gate routes to each expert.

`loading` finds them by name or path: recorded ones, a `table`, or those of a `generator`, which `fit` makes of a
recording. `one_step` has those of one step, for a placement. The interface of a reader is `source`, and `records` has
what readers of JSON and PyTorch files share.
"""

from lazsim.routing.fit import fit_routing
from lazsim.routing.generator import GeneratedRouting, Routing, RoutingSpec
from lazsim.routing.loading import load_routing
from lazsim.routing.readers import read_routing
from lazsim.routing.table import RecordedRouting, top_experts

__all__ = [
    "GeneratedRouting",
    "RecordedRouting",
    "Routing",
    "RoutingSpec",
    "fit_routing",
    "load_routing",
    "read_routing",
    "top_experts",
]
