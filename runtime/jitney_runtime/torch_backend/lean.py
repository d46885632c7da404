"""torch and transformers without torch's compiler, which nothing here uses and each of them imports to say what it is not to compile."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
# What only tells the compiler of a function or a tensor.
_MARKS = {"allow_in_graph", "assume_constant_result", "disable", "mark_static_address"}
# For masks that are made by vmap; taken when transformers is imported, and used by few models.
_MASKS = f"{COMPILER}._trace_wrapped_higher_order_op"


def import_transformers() -> None:
    """Before anything else imports it, on the thread that does. The compiler is 500 modules: a third of what a start computes, and 50 MB.
    Whoever asks for more of it than to be left alone has the real one from then on."""
    import torch
    import transformers.utils as utils
    from transformers.utils import import_utils

    # One of many processes, and attention that must be compiled: none serves a model here, and both want the compiler at once.
    for said in (utils, import_utils):
        said.is_torch_flex_attn_available = said.is_torch_distributed_available = _no
    if COMPILER not in sys.modules:
        torch._dynamo = sys.modules[COMPILER] = _StandIn()
        sys.modules[_MASKS] = _Masks(_MASKS)
        sys.meta_path.insert(0, _Parts())
    import transformers.modeling_utils  # noqa: F401


def _no() -> bool:
    return False


def _unmarked(marked: Any = None, *_: Any, **__: Any) -> Any:
    return marked if marked is not None else lambda function: function


class _StandIn(ModuleType):
    def __init__(self) -> None:
        super().__init__(COMPILER)
        # A package's.
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        return _unmarked if name in _MARKS else getattr(_real(), name)


class _Masks(ModuleType):
    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Imported when it is called."""
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **named: getattr(_real(_MASKS), name)(*arguments, **named)


class _Parts(MetaPathFinder, Loader):
    """Whoever imports a part of the compiler has the real one: this stands before all other finders while the stand-in does."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.startswith(f"{COMPILER}.") and isinstance(sys.modules[COMPILER], _StandIn) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _real(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def _real(name: str = COMPILER) -> ModuleType:
    if isinstance(sys.modules.get(COMPILER), _StandIn):
        import torch

        del sys.modules[COMPILER], sys.modules[_MASKS]
        torch._dynamo = importlib.import_module(COMPILER)
    return importlib.import_module(name)
