"""The stages of all pipelines: chunks, resuming after any stop, manifests, progress.

`workspace` is the folder of a synthesis; `stage` runs the items of a chunk, or all records at once; `parts` holds the
stages whose work one part does (a writer, a painter, a judge); `data_set` writes what `load_dataset` reads.
"""

from .data_set import DataSetStage, write_data_set
from .parts import PaintingStage, PartStage, WritingStage
from .stage import ItemStage, Stage, WholeStage, discard_from, position_of, run_stages
from .workspace import MANIFEST, RUNS, Workspace, as_line, read_lines, verify_workspace

__all__ = ["MANIFEST", "RUNS", "DataSetStage", "ItemStage", "PaintingStage", "PartStage", "Stage", "WholeStage"]
__all__ += ["Workspace", "WritingStage", "as_line", "discard_from", "position_of", "read_lines"]
__all__ += ["run_stages", "verify_workspace", "write_data_set"]
