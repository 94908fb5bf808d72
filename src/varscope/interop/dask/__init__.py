"""dask: values that are made, kept and saved by the workers of a dask.distributed cluster.

`materialise` has a cluster fill the files of a checkpoint; `to_dask` gives variables as dask
arrays, `save` writes them from the workers, and `restore` reads them there.  With
`Graph(storage=Cluster(client))` the values of variables lie on the workers, and `map_shards`
changes them where they lie.  Needs dask and distributed: pip install "varscope-core[dask]".
"""

from varscope.interop.dask.arrays import restore, to_dask
from varscope.interop.dask.cluster import Cluster, map_shards
from varscope.interop.dask.files import materialise, save

__all__ = ["Cluster", "map_shards", "materialise", "restore", "save", "to_dask"]
