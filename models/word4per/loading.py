"""Loading Word4Per for another stage, or with other TINets, than a folder was saved with."""

from typing import Any

from .configuration import Word4PerConfig, whole_tinet


def asked_otherwise(source: Any, options: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Patterns of weights that begin anew, and of those left out, where options ask for other parts than a folder has.

    Args:
        source: the folder or repository; None: none.
        options: of `from_pretrained`; they get the paper's TINets where stage 2 follows stage 1.
    """
    if source is None:
        return [], []
    where = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
    saved, _ = Word4PerConfig.get_config_dict(source, **{name: options[name] for name in where if name in options})
    config = options.get("config")
    asked = {**saved, **(options if config is None else config.to_dict())}
    if asked.get("stage") == 2 and saved.get("stage") == 1 and not asked.get("tinets"):
        asked["tinets"] = [{"name": "text"}, {"name": "image"}]
        if config is None:
            options["tinets"] = asked["tinets"]
        else:
            config.tinets = [whole_tinet(entry) for entry in asked["tinets"]]
    had = {entry["name"] for entry in saved.get("tinets") or []}
    wanted = {entry["name"] for entry in asked.get("tinets") or []}
    anew = [f"tinets.{entry['name']}.*" for entry in asked.get("tinets") or [] if entry["name"] not in had]
    if asked.get("stage") == 1:
        was_first = saved.get("stage") == 1
        anew += [] if was_first and saved.get("mlm_weight") else ["cross_modal.*"]
        anew += [] if was_first and saved.get("id_weight") else ["classifier.*", "identities"]
    return anew, [f"tinets.{name}.*" for name in had - wanted]
