"""Rules that turn the names, and the tensors, of what is read into those of what is written."""

from varscope.name_maps.maps import NameMap

__all__ = ["NameMap"]
