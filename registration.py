"""Makes models known to transformers' Auto classes, and data sets to `load_dataset`, without importing either early."""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.util import find_spec


def register_with_libraries() -> None:
    """Registers now with the libraries that are imported already, with others once they are."""
    # Every Auto class imports this module.
    _when_imported("transformers.models.auto.configuration_auto", _register_models)
    _when_imported("datasets", _register_dataset_builders)


# The prefix of a method's classes, and the package that has them: PrefixConfig, PrefixModel, PrefixProcessor, and
# PrefixImageProcessor if it has its own.
MODELS = {
    "Fafa": ".",
    "CoAlign": ".models.coalign",
    "CoAlignClip": ".models.coalign",
    "DualEncoder": ".models.dual_encoder",
    "Word4Per": ".models.word4per",
}


def register_model(config: type, model: type, processor: type, image_processor: type | None = None) -> None:
    """Makes a model, also one of your own, known to `AutoConfig`, `AutoModel` and `AutoProcessor`."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    AutoProcessor.register(config, processor, exist_ok=True)
    if image_processor is not None:
        AutoImageProcessor.register(config, image_processor_classes={"pil": image_processor}, exist_ok=True)


def classes_of(method: str) -> tuple[type, type, type, type | None]:
    """Configuration, model, processor and image processor (or None) of a row of `MODELS`."""
    parts = import_module(MODELS[method], __package__)
    required = (getattr(parts, f"{method}{part}") for part in ("Config", "Model", "Processor"))
    return (*required, getattr(parts, f"{method}ImageProcessor", None))


def _register_models() -> None:
    for method in MODELS:
        register_model(*classes_of(method))


def _register_dataset_builders() -> None:
    from .dataset_builders import register_builders

    register_builders()


def _when_imported(module: str, register: Callable[[], None]) -> None:
    if module in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _ImportHook(module, register))


class _ImportHook(MetaPathFinder):
    """Watches the imports of a library, first among the import system's finders, until one of its modules is loaded.

    A module may be loaded while those that import it, the library's or our own, are half-made. The hook therefore
    waits for the end of the outermost import in either.
    """

    def __init__(self, module: str, register: Callable[[], None]):
        self.module, self.register = module, register
        self.packages = {module.partition(".")[0], __package__}
        self.searching = False
        self.imports_under_way = 0

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] not in self.packages or self.searching:
            return None
        self.searching = True
        try:
            spec = find_spec(fullname)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _WatchedLoader(spec.loader, self)
        return spec

    def import_ended(self) -> None:
        if self.imports_under_way == 0 and self.module in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            self.register()


class _WatchedLoader:
    """Loads a module as its own loader does, and tells the hook when it is done."""

    def __init__(self, loader: Loader, hook: _ImportHook):
        self.loader, self.hook = loader, hook

    def __getattr__(self, name):
        return getattr(self.loader, name)  # whatever else importers ask of a loader

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.hook.imports_under_way += 1
        try:
            self.loader.exec_module(module)
        finally:
            self.hook.imports_under_way -= 1
        self.hook.import_ended()
