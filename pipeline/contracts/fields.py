"""Field types of components that the plan treats specially, read from annotations by name."""

from typing import Any, TypeAlias

Radius: TypeAlias = float  # pixels in [0, 1]; a stand-in data set scales it by its eps_factor
Epoch: TypeAlias = int  # 1-based; rescaled when a scale changes the number of epochs
Attack: TypeAlias = str  # name of an entry of `attacks:`, or `none`
Arguments: TypeAlias = dict[str, Any]  # the entry's other keys; eps and alpha are radii
Parent: TypeAlias = str  # name of an entry of `parents:`: an edge of the graph
Start: TypeAlias = str  # one with as many members of the same arch, whose weights these start from
# how the members that this entry trained before are combined, each a parent; or `none`
Earlier: TypeAlias = str
Place: TypeAlias = str  # a file or folder of the user's; in no name
Arch: TypeAlias = str  # name of an entry of `archs:`, or `same`: the row's
