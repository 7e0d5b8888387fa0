"""Libraries that come with an extra of the package, and what to say where one is not installed."""

import re
from importlib.metadata import PackageNotFoundError, requires

_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "google": "protobuf",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}  # where the name to install is another one


def how_to_install(module: str | None) -> str | None:
    """What to say of a module that could not be imported; None if no extra of the package brings it.

    >>> how_to_install("datasets")
    "datasets is not installed: pip install -c constraints.txt '.[train]' (or '.[synthesis]')"
    """
    name = (module or "").partition(".")[0]
    wanted = _DISTRIBUTIONS.get(name, name).replace("_", "-").lower()
    try:
        requirements = requires("fafa") or []
    except PackageNotFoundError:  # a checkout that is not installed
        return None
    extras = []
    for requirement in requirements:
        library = re.match(r"[\w.-]+", requirement)[0].replace("_", "-").lower()
        extra = re.search(r"""extra == ["'](\w+)""", requirement)
        if library == wanted and extra and extra[1] != "dev":
            extras.append(f"'.[{extra[1]}]'")
    if not extras:
        return None
    others = f" (or {', '.join(extras[1:])})" if extras[1:] else ""
    return f"{name} is not installed: pip install -c constraints.txt {extras[0]}{others}"


def not_installed(module: str, what_for: str) -> ModuleNotFoundError:
    """The error of a module that could not be imported: how to install it, and what it is for."""
    remedy = how_to_install(module) or f"{module} is not installed"
    return ModuleNotFoundError(f"{remedy}; {what_for}", name=module)
