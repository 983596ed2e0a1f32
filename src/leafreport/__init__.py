"""What is in a JAX pytree, what will be written, what is on disk, and do they agree."""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any
