"""The embedded demo: data made offline from facts that small packages carry, as a weak generator would write it."""

from evoray.demo.dataset import DemoFiles, write_demo
from evoray.demo.weak_generator import Label

__all__ = ["DemoFiles", "Label", "write_demo"]
